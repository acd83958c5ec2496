"""`meowcat completion`: what a shell needs to complete commands, options and tasks."""

from collections.abc import Callable, Container

import anyio
import click
from click.shell_completion import CompletionItem, get_completion_class

from meowcat.cli.exits import Exit
from meowcat.cli.journals import read_all
from meowcat.cli.views import ID_SHOWN, amount_text, shown_name
from meowcat.core.machine import State

PROGRAM = "meowcat"
VARIABLE = "_MEOWCAT_COMPLETE"
"""Set by the shell's function when it asks for words; click answers then, and no command runs."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command(epilog='Example: eval "$(meowcat completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> Exit:
    """Print the script that completes words in bash, zsh or fish.

    It completes commands, options, states, journals and tasks.

    For every new shell: in ~/.bashrc or ~/.zshrc the line of the example with its own SHELL; for fish,
    meowcat completion fish > ~/.config/fish/completions/meowcat.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # click has these three
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())
    return Exit.COMPLETE


def unfinished_tasks(states: Container[State]) -> Complete:
    """Completes ids of tasks in these states: the ends that `ls` shows, or whole ones that were begun."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            past = anyio.run(read_all, context.params.get("journal"))
        except Exception:  # noqa: BLE001  # a journal that can't be read must not spill into a prompt
            return []
        begun = incomplete.upper()
        given = {each.upper() for each in context.params.get("tasks") or ()}
        items = []
        for each in past.tasks:
            short = each.task.id[-ID_SHOWN:]
            if each.task.state not in states or {short, each.task.id} & given:
                continue
            about = f"{each.task.state}  {shown_name(each.info)}  {amount_text(each.info)}"
            fits = next((name for name in (short, each.task.id) if name.startswith(begun)), None)
            if fits is not None:
                items.append(CompletionItem(fits, help=about))
        return items

    return complete


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves the completion to the shell, which knows files best."""
    return [CompletionItem(incomplete, type="file")]
