"""The credentials that an engine of the command line is opened with: those that its tasks name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import anyio.to_thread

from meowcat.cli.credentials import credential_named
from meowcat.cli.journals import opened
from meowcat.core.errors import InvalidArgument, JournalError
from meowcat.core.state import TaskState
from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.credentials import Provider
from meowcat.runtime.recovery import load

KIND = "credential:"
"""What a need of a task that names one begins with."""


@dataclass(frozen=True)
class Signers:
    """What was found, by name; and of each name that was not, what to do."""

    found: dict[str, Provider] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def signers_named(names: Iterable[str]) -> Signers:
    """Look each name up. Blocking."""
    signers = Signers()
    for name in dict.fromkeys(names):
        try:
            signers.found[name] = _provider(name)
        except InvalidArgument as missing:
            signers.missing[name] = str(missing)
    return signers


def _provider(name: str) -> Provider:
    """Looked up now, so that its absence is told at once; and again whenever a server takes it no more, since
    the file may have a fresh one by then.

    Raises:
        InvalidArgument: there is none of that name; says how to have one.
    """
    credential_named(name)
    return partial(credential_named, name)


def required(spec: ProtocolSpec) -> dict[str, Provider]:
    """The credential that a protocol's settings name, if any. Raises as `_provider`."""
    name = str(spec.fields.get("credential") or "")
    return {name: _provider(name)} if name else {}


def named_by(tasks: Iterable[TaskState]) -> list[str]:
    """The names of all credentials that the tasks need."""
    needs = (need for task in tasks for need in task.request.needs if need.startswith(KIND))
    return [need.removeprefix(KIND) for need in dict.fromkeys(needs)]


async def signers_of(journal: str) -> Signers:
    """Those of the unfinished tasks of a journal, which move along while somebody has it open.

    What is wrong with the journal is for its opening to say.
    """

    def read() -> Signers:
        found = opened(journal)
        try:
            return signers_named(named_by(load(found).tasks))
        finally:
            found.close()

    try:
        return await anyio.to_thread.run_sync(read)
    except JournalError:
        return Signers()
