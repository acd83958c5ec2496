"""What operations get of what is plugged in and of what is recorded: protocols, sources, parts."""

import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct, field

from meowcat.core import events as ev
from meowcat.core.errors import InvalidArgument
from meowcat.core.seal import unseal
from meowcat.core.sessions import Receipt
from meowcat.core.state import TaskState
from meowcat.core.transfers import Download, Upload
from meowcat.core.values import Fault, FaultKind, SourceIdentity
from meowcat.protocols.contract import DownloadJob, DownloadProtocol, Job, Refused, UploadProtocol
from meowcat.protocols.http_range import HttpRange
from meowcat.protocols.registry import download_protocol_of
from meowcat.transfer.context import Errand, World
from meowcat.transfer.source_parts import SourceReader
from meowcat.transfer.sources import BytesSource, Opened, Source, open_file, open_source

__all__ = [
    "Recorded",
    "changed",
    "download_protocol_for",
    "group",
    "open_origin",
    "reading",
    "recorded",
    "unprovable",
    "upload_protocol_for",
    "whole_digests",
]


def upload_protocol_for(
    world: World,
    errand: Errand,
    size: int,
    digests: Mapping[str, str],
    receipts: Mapping[int, Receipt] | None = None,
) -> UploadProtocol:
    """The protocol of an errand's upload.

    Raises:
        Refused: EXPIRED where something has to be supplied first; INTERNAL where nobody registered it.
    """
    task, request = errand.task, errand.task.request
    assert isinstance(request, Upload)  # noqa: S101  # only uploads are sent
    protocol = world.plugins.protocols.uploads.get(request.protocol.tag)
    if protocol is None:
        raise Refused(
            Fault(
                kind=FaultKind.EXPIRED,
                detail=f"no protocol {request.protocol.tag!r} is registered: Engine(protocols=[…])",
            )
        )
    try:
        url, headers = unseal(request, errand.secrets)
    except InvalidArgument as absent:
        raise Refused(Fault(kind=FaultKind.EXPIRED, detail=str(absent))) from absent
    job = Job(
        task=task.id,
        spec=request.protocol,
        url=url,
        headers=headers,
        name=posixpath.basename(request.source) or request.source,
        size=size,
        digests=digests,
        part_size=0 if task.session is None else task.piece_size,
        plan=errand.secrets.plan,
        confirmed=task.stored,
        receipts=receipts,
    )
    return protocol(job, world.plugins.tools)


def download_protocol_for(world: World, errand: Errand, request: Download) -> DownloadProtocol:
    """The protocol of an errand's download.

    Raises:
        InvalidArgument: a secret that the task needs is not there, or nobody registered its protocol.
    """
    url, headers = unseal(request, errand.secrets)
    protocol: type[DownloadProtocol] = HttpRange
    if request.protocol is not None:
        protocol = download_protocol_of(world.plugins.protocols, request.protocol)
    job = DownloadJob(errand.task.id, request, url, headers, errand.secrets.plan)
    return protocol(job, world.plugins.tools)


async def open_origin(world: World, errand: Errand, *, begun: bool) -> Opened:
    """What the upload reads. `begun`: whether it was read before.

    Raises:
        Refused: it can't be opened; EXPIRED where it has to be handed in, or registered, first.
    """
    request = errand.task.request
    assert isinstance(request, Upload)  # noqa: S101  # only uploads have a source
    if request.origin == "file":
        return await open_file(world.disk, world.workers, request.source, begun=begun, rounds=world.rounds)
    source: Source | None
    if request.origin == "bytes":
        data = errand.secrets.data
        source = None if data is None else BytesSource(data)
    else:
        source = world.plugins.sources.get(request.source)
    if source is None:
        detail = f"source {request.source!r} is not there: supply its bytes, or register it by that name"
        raise Refused(Fault(kind=FaultKind.EXPIRED, detail=detail))
    return await open_source(world.workers, f"source {request.source!r}", source)


@asynccontextmanager
async def reading(
    world: World, errand: Errand, source: Opened, pinned: SourceIdentity
) -> AsyncIterator[SourceReader]:
    """Parts of the source can be read inside."""
    async with group() as readers:
        yield SourceReader(source, pinned, readers, world.budget, errand.throttle)


@asynccontextmanager
async def group() -> AsyncIterator[TaskGroup]:
    """A task group that ends with its block, and hands on the block's own failure as it is."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001  # raised again, outside of the group that would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Recorded(Struct):
    """What the journal has of the parts of the present session."""

    digests: dict[int, bytes] = field(default_factory=dict)
    """The BLAKE3 of each part that was sent."""
    receipts: dict[int, Receipt] = field(default_factory=dict)
    """The newest of each."""
    repinned: bool = False
    """Whether the source was touched since the last of them: what else the server has of it may have been
    sent before that."""


async def recorded(errand: Errand) -> Recorded:
    """Read in the journal what was sent of the present session, in this run and earlier ones."""
    found = Recorded()
    async for event in errand.histories.events_of(errand.task.id):
        if isinstance(event, ev.SessionDropped | ev.SessionOpened):
            found = Recorded()
        elif isinstance(event, ev.SourcePinned):
            found.repinned = True
        elif isinstance(event, ev.Sent):
            found.repinned = False
            for at, index in enumerate(event.numbers):
                found.digests[index] = event.digests[at * 32 : at * 32 + 32]
                found.receipts[index] = event.receipts[at]
    return found


def whole_digests(task: TaskState) -> dict[str, str]:
    """Digests of the whole source that are known, by algorithm, in hexadecimal."""
    known = task.generation.digests if task.generation else ()
    return {each.algorithm: each.hex for each in known}


def changed(name: str) -> Refused:
    """What is raised where a source is not what was sent of it."""
    detail = (
        f"{name} was changed during the upload, of which nothing was committed; upload it again once nobody "
        "writes to it"
    )
    return Refused(Fault(kind=FaultKind.SOURCE_CHANGED, detail=detail))


def unprovable(name: str) -> Refused:
    """What is raised where the server has bytes that nothing can be compared with: a part that broke off
    before the source was touched, or may have been. The session stands, and is to be removed."""
    detail = (
        f"{name} was touched during the upload or shortly before, and the server has bytes of it from before "
        "that with nothing to compare them with; the upload begins anew"
    )
    return Refused(Fault(kind=FaultKind.CHANGED, detail=detail))
