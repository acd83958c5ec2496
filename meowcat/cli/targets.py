"""What `get` is asked for: URLs with their destinations, out of arguments and files."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import click

from meowcat.cli.objects import Objects, Store, store_of
from meowcat.cli.outputs import descriptor_of
from meowcat.core.content_disposition import file_name
from meowcat.core.errors import InvalidArgument
from meowcat.core.info import TaskInfo
from meowcat.core.transfers import ProtocolSpec, parse_checksum
from meowcat.core.urls import check_url, identity

NAMES_AT_ONCE = 8
"""Servers that are asked for names at once."""


@dataclass(frozen=True)
class Wanted:
    """One URL and where it goes: to `path`, or into `folder` under a name that is still to be found."""

    url: str
    """The one that requests are sent to: https://… of an object, too."""
    folder: Path
    path: Path | None = None
    spec: ProtocolSpec | None = None
    """How it is asked for; None is plain HTTP."""

    @property
    def identity(self) -> str:
        """What the URL names, without secrets: the same for every signed URL of it."""
        return identity(self.url)

    @property
    def mark(self) -> str | None:
        """What the task carries as `client_file_sign`, so that the same `get` finds the name again that a
        server chose the first time."""
        return None if self.path is not None else f"get {self.identity}"

    @property
    def destination(self) -> str:
        """What is known of the target without asking a server."""
        return str(self.path) if self.path is not None else f"{self.folder}{os.sep}"


def wanted_of(
    urls: Sequence[str], output: str | None, input_file: str | None, objects: Objects | None = None
) -> list[Wanted]:
    """All that a command line asks for. `objects` says how objects are had.

    Raises:
        click.UsageError: nothing, or one path for several URLs. InvalidArgument: a URL that can't be had.
    """
    listed = list(dict.fromkeys(_listed(input_file))) if input_file is not None else []
    if not urls and not listed:
        raise click.UsageError("nothing to get: expected a URL, or --input FILE")
    wanted = _placed(urls, output, several=len(urls) + len(listed) > 1)
    base = wanted[0].folder if wanted else _folder(output)
    for url, path in listed:
        target = None if path is None else _absolute(base / path)
        wanted.append(Wanted(url, target.parent if target else base, target))
    return [_reachable(each, objects or Objects()) for each in wanted]


def _reachable(wanted: Wanted, objects: Objects) -> Wanted:
    if wanted.path is not None and descriptor_of(wanted.path) is not None:
        raise _no_file(str(wanted.path))
    store = store_of(wanted.url)
    if store is not None:
        return _resolved(wanted, store, objects)
    check_url(wanted.url)
    return wanted


def _resolved(wanted: Wanted, store: Store, objects: Objects) -> Wanted:
    """An object is named by its key, whatever a server may say."""
    if wanted.url.endswith("/"):
        raise click.UsageError(f"{wanted.url}: is a folder; expected an object, {store.example}")
    url, spec = store.download.resolve(wanted.url, objects.spec(store), None)
    path = wanted.path or wanted.folder / file_name(None, url)
    return Wanted(url, wanted.folder, path, spec)


def _placed(urls: Sequence[str], output: str | None, *, several: bool) -> list[Wanted]:
    if output is not None and not output:
        raise click.UsageError("-o is empty: expected a file, or a folder; . is the one that you are in")
    if output == "-":
        raise _no_file("-o -", " (./- is a file of that name)")
    if not urls:
        return []
    if output is None or output.endswith(("/", os.sep)) or _is_folder(Path(output)):
        folder = _folder(output)
        return [Wanted(url, folder) for url in urls]
    if several:
        raise click.UsageError(
            f"-o {output}: for several URLs it has to be a folder that exists, or end with a slash"
        )
    path = _absolute(Path(output))
    return [Wanted(urls[0], path.parent, path)]


def _no_file(what: str, hint: str = "") -> click.UsageError:
    return click.UsageError(
        f"{what}: a transfer needs a file that it can go on with, so nothing goes to standard output or "
        f"another descriptor: name a file{hint}"
    )


def _folder(output: str | None) -> Path:
    folder = _absolute(Path(output or "."))
    if not _is_folder(folder):
        raise click.UsageError(
            f"{folder}: there is no such folder; make it first: mkdir -p {shlex.quote(str(folder))}"
        )
    return folder


def _is_folder(path: Path) -> bool:
    """`Path.is_dir` raises where a folder above may not be entered."""
    return os.path.isdir(path)  # noqa: PTH112  # see above


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # as the engine does it: symlinks stay as they are


def _listed(source: str) -> Iterable[tuple[str, str | None]]:
    """`URL` or `URL  PATH` a line; blank lines, those that begin with `#` and a byte order mark count for
    nothing."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise click.UsageError(f"--input {source}: {reason}") from error
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        try:
            if store_of(words[0]) is None:
                check_url(words[0])
        except InvalidArgument as error:
            raise click.UsageError(f"--input {source}, line {number}: {error}") from error
        yield words[0], words[1].strip() if len(words) > 1 else None


async def settle_paths(
    wanted: Sequence[Wanted],
    known: AsyncIterator[TaskInfo],
    name_of: Callable[[str], Awaitable[str]],
) -> list[Path]:
    """The target of each; where a server names the file (`name_of`), the name that an unfinished task has
    already.

    Raises:
        click.UsageError: two would get the same path.
    """
    remembered = await _remembered(known) if any(each.path is None for each in wanted) else {}
    paths: list[Path] = [each.folder for each in wanted]
    slots = anyio.CapacityLimiter(NAMES_AT_ONCE)

    async def settle(index: int, each: Wanted) -> None:
        found = each.path or remembered.get((each.mark, each.folder))
        if found is None:
            async with slots:
                found = each.folder / await name_of(each.url)
        paths[index] = found

    async with anyio.create_task_group() as asking:
        for index, each in enumerate(wanted):
            asking.start_soon(settle, index, each)
    twice = next((path for path, count in Counter(paths).items() if count > 1), None)
    if twice is not None:
        raise click.UsageError(f"{twice}: more than one URL goes there; give each its path with --input")
    return paths


def stands(info: TaskInfo, checksum: str | None) -> bool:
    """Whether the file of a Complete task is still there, as long as it was.

    A checksum that the task has no digest for is not taken on trust: then the file is in the way.
    """
    if checksum is not None and parse_checksum(checksum) not in info.digests:
        return False
    try:
        return Path(info.path).stat().st_size == info.size
    except OSError:
        return False


async def _remembered(known: AsyncIterator[TaskInfo]) -> dict[tuple[str | None, Path], Path]:
    found: dict[tuple[str | None, Path], Path] = {}
    async for info in known:
        if info.client_file_sign is not None:
            found[info.client_file_sign, Path(info.path).parent] = Path(info.path)
    return found
