"""What `put` is asked for: files, with the places that they go to; and which of them are there already."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from meowcat.cli.objects import store_of
from meowcat.core.events import Created, SourcePinned, Supplied
from meowcat.core.info import TaskInfo
from meowcat.core.machine import State
from meowcat.core.seal import seal
from meowcat.core.transfers import NO_DIGEST, ProtocolSpec, Request, Upload
from meowcat.core.urls import identity, redact
from meowcat.core.values import SourceIdentity, TaskId
from meowcat.engine import Engine
from meowcat.protocols.refused import Refused
from meowcat.protocols.registry import Protocols, upload_protocol_of
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.sources import open_file, unmoved
from meowcat.transfer.workers import Workers


@dataclass(frozen=True)
class Parcel:
    """One file and where it goes."""

    source: str
    """Its absolute path."""
    url: str
    """The one that requests are sent to: https://… of an object, too."""
    spec: ProtocolSpec
    """Complete, as it is stored."""

    @property
    def place(self) -> str:
        """What the URL names, without secrets: the same for every signed URL of it."""
        return identity(self.url)


def parcels_of(files: Sequence[str], url: str, spec: ProtocolSpec) -> list[Parcel]:
    """All that a command line asks for.

    Raises:
        click.UsageError: what is no file, or two files for one place. InvalidArgument: a URL or a setting
            that the protocol can't work with.
    """
    protocol = upload_protocol_of(Protocols.with_own(()), spec)
    parcels = []
    for file in files:
        source = _checked(file)
        target = _target(url, source, several=len(files) > 1)
        resolved, complete = protocol.resolve(target, spec, None)
        parcels.append(Parcel(source, resolved, complete))
    taken = Counter(each.place if protocol.owns_url else each.source for each in parcels)
    twice = next((each for each, count in taken.items() if count > 1), None)
    if twice is not None:
        raise click.UsageError(f"{twice}: more than one of the files would go there; rename one")
    return parcels


def _checked(file: str) -> str:
    if file == "-":
        raise click.UsageError(
            "-: standard input can be read only once, and to go on after a crash its bytes have to be read "
            "again: write it to a file first, and put that"
        )
    path = Path(os.path.abspath(file))  # noqa: PTH100  # as the engine does it: symlinks stay as they are
    try:
        if path.is_file():
            return str(path)
        is_folder = path.is_dir()
        there = path.exists()
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    if is_folder:
        raise click.UsageError(f"{path}: is a folder; name its files, as in {shlex.quote(file)}/*")
    if there:
        raise click.UsageError(f"{path}: is no regular file; write what it brings to one first")
    raise click.UsageError(f"{path}: there is no such file")


def _target(url: str, source: str, *, several: bool) -> str:
    """A bucket, or a key that ends with a slash, is a folder: the file's own name follows."""
    store = store_of(url)
    if store is None:
        return url
    bucket, _, key = url[len(store.scheme) :].partition("/")
    if not key or key.endswith("/"):
        return f"{store.scheme}{bucket}/{key}{Path(source).name}"
    if several:
        raise click.UsageError(f"{url}: for several files it has to be a bucket, or end with a slash")
    return url


async def delivered(
    engine: Engine, requests: Sequence[Upload], parcels: Sequence[Parcel]
) -> dict[int, TaskId]:
    """The Complete tasks, by the numbers of the requests, that have brought already what is asked for.

    The file must be the one that was sent, as far as a look can tell, and the server must say that the object
    is there and that task's; where either can't be told, it is sent again. So it is where that is under way
    already.
    """
    sources = {each.source for each in parcels}
    newest: dict[tuple[str, str], _Made] = {}
    async for info in engine.tasks(state=State.COMPLETE, direction="upload"):
        if info.path in sources:
            known = await _made_by(engine, info)
            newest[info.path, identity(known.request.url)] = known
    under_way = {(info.path, info.url) async for info in engine.tasks(direction="upload")}
    found = {}
    for number, (request, parcel) in enumerate(zip(requests, parcels, strict=True)):
        made = newest.get((parcel.source, parcel.place))
        if (
            made is not None
            and (parcel.source, redact(parcel.url)) not in under_way
            and made.source is not None
            and (now := await _identity_of(parcel.source)) is not None
            and unmoved(made.source, now)  # one that was young was read once more before the commit
            and _fits(made, seal(request)[0])
            and await engine.stands(made.info.id)
        ):
            found[number] = made.info.id
    return found


@dataclass(frozen=True)
class _Made:
    """What a Complete task has made, and of what."""

    info: TaskInfo
    request: Upload
    source: SourceIdentity | None


def _fits(made: _Made, wanted: Upload) -> bool:
    """Whether the object is as it is asked for. What is secret of a header says who asks, not what for."""
    has_digest = wanted.digest in (None, NO_DIGEST, *(each.algorithm for each in made.info.digests))
    return has_digest and (made.request.protocol, made.request.headers) == (wanted.protocol, wanted.headers)


async def _made_by(engine: Engine, info: TaskInfo) -> _Made:
    request: Request | None = None
    source: SourceIdentity | None = None
    async for each in engine.history(info.id):
        match each.event:
            case Created(request=asked):
                request = asked
            case Supplied(request=asked):
                request = asked or request
            case SourcePinned(source=pinned):
                source = pinned
    assert isinstance(request, Upload)  # noqa: S101  # every history begins so; the check narrows the type
    return _Made(info, request, source)


async def _identity_of(path: str) -> SourceIdentity | None:
    try:
        source = await open_file(OsDisk(), Workers(), path, begun=True)
    except Refused:
        return None
    try:
        return await source.identity()
    finally:
        await source.close()
