"""The source of an upload is changed while it is read: mixed bytes are noticed, and the same bytes go on."""

import mmap
import os
import time
from random import Random

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf import Shelf, ShelfProtocol, spec
from source_harness import STEP, Changed, Upload, next_tick, scale_down

import meowcat
from meowcat.core import events as ev
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Outcome, Prepared, Reconciled, Refused, UploadProtocol
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer import send, source_parts, source_proof, sources
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.sources import open_file
from meowcat.transfer.workers import Workers

PIECE = 2 * STEP + 1000
SIZE = 2 * PIECE + PIECE // 2
OLD = Random(1).randbytes(SIZE)
NEW = Random(2).randbytes(SIZE)
LATER = 1 << 62
"""Nanoseconds since 1970: long after all stamps."""


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _scaled(monkeypatch):
    scale_down(monkeypatch)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file that is not young: what shows is all that there is to go by."""
    monkeypatch.setattr(sources, "time_ns", lambda: LATER)
    path = tmp_path / "source"
    path.write_bytes(OLD)
    next_tick(path)
    return path


def beside(path, content):
    other = path.with_name("other")
    other.write_bytes(content)
    return other


def keep_times(path, before):
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(path):
    with path.open("r+b") as file:
        file.write(NEW)


def truncate(path):
    os.truncate(path, SIZE - 1)


def extend(path):
    with path.open("ab") as file:
        file.write(b"more")


def replace(path):
    beside(path, NEW).replace(path)


def replace_with_the_same_size_and_mtime(path):
    before, other = path.stat(), beside(path, NEW)
    keep_times(other, before)
    other.replace(path)


def overwrite_and_set_the_mtime_back(path):
    before = path.stat()
    overwrite(path)
    keep_times(path, before)


def delete_and_recreate(path):
    path.unlink()
    path.write_bytes(NEW)


def swap(path):
    other, aside = beside(path, NEW), path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def write_through_a_mapping(path):
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:] = NEW


def lead_the_link_elsewhere(path):
    other = beside(path, NEW)
    path.rename(path.with_name("first"))
    path.symlink_to(other)


def replace_with_the_same_bytes(path):
    beside(path, OLD).replace(path)


def append_and_truncate_back(path):
    extend(path)
    os.truncate(path, SIZE)


def change_the_mode(path):
    path.chmod(0o600)


def add_a_hard_link(path):
    path.with_name("link").hardlink_to(path)


def move_away_and_back(path):
    path.rename(path.with_name("away"))
    path.with_name("away").rename(path)


def touch(path):
    os.utime(path)


CHANGES = [
    overwrite,
    truncate,
    extend,
    replace,
    replace_with_the_same_size_and_mtime,
    overwrite_and_set_the_mtime_back,
    delete_and_recreate,
    swap,
    write_through_a_mapping,
    lead_the_link_elsewhere,
]
NO_CHANGES = [
    replace_with_the_same_bytes,
    append_and_truncate_back,
    change_the_mode,
    add_a_hard_link,
    move_away_and_back,
    touch,
]
PHASES = {
    "before the first read": ("begin", 0),
    "during the first part": ("part", 0),
    "between parts": ("sent", 0),
    "during a part": ("part", 1),
    "during the last part": ("part", 2),
    "after all parts": ("end", 0),
}


def once(phase, change):
    """Calls `change` the first time that the upload comes to `phase`."""
    left = [phase]

    def between(now):
        if left and now == left[0]:
            left.clear()
            change()

    return between


async def upload(path, between, **options):
    source = await open_file(OsDisk(), Workers(), str(path))
    try:
        run = Upload(source, PIECE, between=between, **options)
        return await run.run()
    finally:
        await source.close()


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("checksum", [None, "md5"])
@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_other_bytes_are_never_committed_with_those_of_before(path, change, phase, checksum):
    try:
        committed = await upload(path, once(phase, lambda: change(path)), checksum=checksum)
    except (Changed, Refused) as ended:
        kind = ended.fault.kind if isinstance(ended, Refused) else FaultKind.SOURCE_CHANGED
    else:
        assert phase == ("begin", 0), "a change after the first byte was read went unnoticed"
        assert committed == NEW
        return
    assert kind is FaultKind.SOURCE_CHANGED


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("change", NO_CHANGES, ids=lambda change: change.__name__)
async def test_the_same_bytes_go_on(path, change, phase):
    assert await upload(path, once(phase, lambda: change(path))) == OLD


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
async def test_a_file_that_was_removed_is_told_as_removed(path, phase):
    with pytest.raises(Refused, match="removed during the upload") as caught:
        await upload(path, once(phase, path.unlink))
    assert caught.value.fault.kind is FaultKind.LOCAL_REMOVED


def unmoved_disk(path):
    """A disk that shows the stamps of now for ever, as where all is done within one tick."""
    frozen = path.stat()

    class Unmoved(OsDisk):
        def _freeze(self, status):
            return type(status)(
                status.identity,
                status.size,
                status.allocated,
                status.mode,
                frozen.st_mtime_ns,
                frozen.st_ctime_ns,
            )

        def stat(self, path, *, follow=False):
            return self._freeze(super().stat(path, follow=follow))

        def fstat(self, fd):
            return self._freeze(super().fstat(fd))

    return Unmoved()


async def test_a_change_within_the_tick_of_the_pinned_stamp_is_found_by_its_bytes(path, monkeypatch):
    disk = unmoved_disk(path)
    for now_ns, noticed in ((time.time_ns(), True), (LATER, False)):
        monkeypatch.setattr(sources, "time_ns", lambda now_ns=now_ns: now_ns)
        path.write_bytes(OLD)
        source = await open_file(disk, Workers(), str(path))
        run = Upload(source, PIECE, between=once(("sent", 0), lambda: overwrite(path)))
        if noticed:
            with pytest.raises(Changed):
                await run.run()
        else:
            assert await run.run() not in (OLD, NEW)  # which is why young stamps are not trusted
        await source.close()


async def test_that_a_file_was_young_when_it_was_pinned_is_known_after_a_restart(path, tmp_path, monkeypatch):
    disk = unmoved_disk(path)
    monkeypatch.setattr("meowcat.engine.OsDisk", lambda: disk)
    shelf = Shelf()
    shelf.gates["send_part"], shelf.passed["send_part"] = anyio.Event(), 1

    def engine():
        return meowcat.Engine(tmp_path / "t.db", protocols=[ShelfProtocol])

    monkeypatch.setattr(sources, "time_ns", time.time_ns)
    request = meowcat.Upload(str(path), shelf.url, spec(), piece_size=PIECE, connections=1)
    async with engine() as opened:
        task = await opened.submit(request)
        while not task.info.bytes_done:
            await anyio.lowlevel.checkpoint()
    overwrite(path)
    shelf.gates.clear()
    monkeypatch.setattr(sources, "time_ns", lambda: LATER)
    async with engine() as opened:
        task = await opened.submit(request)
        with pytest.raises(meowcat.TransferFailed) as caught:
            await task.result()
    assert caught.value.code is meowcat.Code.SOURCE_CHANGED
    assert shelf.objects == {}


class Appending(UploadProtocol):
    """To a server that keeps what comes, also of a request that breaks off, and says how much it has."""

    tag = "appending"
    kept = bytearray()
    made = None
    breaks_at = None
    broken = None
    meanwhile = None
    last_commits = False

    def capabilities(self):
        return Capabilities(
            any_order=False,
            server_offset=True,
            session=False,
            lists_parts=False,
            commits_with_last_part=self.last_commits,
        )

    async def prepare(self, session):
        if session is None:
            self.kept.clear()
        return Prepared(
            session=session or Session(id="", capabilities=self.capabilities()), offset=len(self.kept)
        )

    async def send_part(self, session, part):
        async for chunk in part.body():
            self.kept.extend(chunk)
            if self.breaks_at is not None and len(self.kept) >= self.breaks_at:
                self.broken.set()
                await anyio.sleep_forever()
        return Receipt(text="")

    async def commit(self, session, receipts, last):
        if last is not None:
            await self.take_last(last)
        type(self).made = bytes(self.kept)
        return {}

    async def take_last(self, part):
        async for chunk in part.body():
            self.kept.extend(chunk)
            if not self.broken.is_set():
                self.broken.set()
                self.meanwhile()
                raise Refused(Fault(kind=FaultKind.DISCONNECTED, detail="as the test wants it"))

    async def reconcile(self, session):
        return Reconciled(outcome=Outcome.NOT_COMMITTED)

    async def abort(self, session):
        pass


APPENDED = meowcat.ProtocolSpec("appending", 1, {})


@pytest.fixture
def appending(monkeypatch):
    """Until it is told otherwise, a request breaks off in the middle of the second piece. Nothing is waited
    for until a file is old."""
    for name, value in (("breaks_at", PIECE + 1), ("broken", anyio.Event()), ("made", None)):
        monkeypatch.setattr(Appending, name, value)
    monkeypatch.setattr(send, "TICK_NS", 0)
    return Appending


async def test_half_a_part_of_a_file_that_was_young_is_not_gone_on_with(
    path, tmp_path, monkeypatch, appending
):
    """It may have been written again in the same tick: what the server has of the part is of either."""
    disk = unmoved_disk(path)
    monkeypatch.setattr("meowcat.engine.OsDisk", lambda: disk)
    monkeypatch.setattr(sources, "time_ns", lambda: 0)
    request = meowcat.Upload(str(path), "http://host.example/x", APPENDED, piece_size=PIECE)
    async with meowcat.Engine(tmp_path / "t.db", protocols=[appending]) as opened:
        await opened.submit(request)
        await appending.broken.wait()
    with path.open("r+b") as file:
        file.seek(PIECE)
        file.write(NEW[PIECE:])
    monkeypatch.setattr(appending, "breaks_at", None)
    async with meowcat.Engine(tmp_path / "t.db", protocols=[appending]) as opened:
        await (await opened.submit(request)).result()
    assert appending.made == OLD[:PIECE] + NEW[PIECE:]


async def test_half_of_the_last_part_of_a_young_file_is_not_gone_on_with(path, monkeypatch, appending):
    size = PIECE // 2
    path.write_bytes(OLD[:size])
    disk = unmoved_disk(path)
    monkeypatch.setattr("meowcat.engine.OsDisk", lambda: disk)
    monkeypatch.setattr(sources, "time_ns", lambda: 0)
    changes = staticmethod(lambda: path.write_bytes(NEW[:size]))
    for name, value in (("breaks_at", None), ("last_commits", True), ("meanwhile", changes)):
        monkeypatch.setattr(appending, name, value)
    async with meowcat.Engine("memory:", protocols=[appending]) as opened:
        await opened.upload(path, "http://host.example/x", protocol=APPENDED, piece_size=PIECE)
    assert appending.made == NEW[:size]


async def test_a_file_grows_old_before_it_goes_where_half_a_part_may_stay(path, monkeypatch, appending):
    looks = iter([0])
    monkeypatch.setattr(sources, "time_ns", lambda: next(looks, LATER))
    monkeypatch.setattr(appending, "breaks_at", None)
    async with meowcat.Engine("memory:", protocols=[appending]) as opened:
        task = await opened.submit(
            meowcat.Upload(str(path), "http://host.example/x", APPENDED, piece_size=PIECE)
        )
        await task.result()
        told = [each.event async for each in task.history()]
    assert [event.source.young for event in told if isinstance(event, ev.SourcePinned)] == [False]
    assert appending.made == OLD


async def test_always_proving_finds_what_no_look_can_see(path):
    """A page that is dirty already is written to through a mapping: the stamps stay as they are."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:] = OLD
        next_tick(path)

        def write():
            mapping[:] = NEW

        source = await open_file(OsDisk(), Workers(), str(path))
        run = Upload(source, PIECE, between=once(("sent", 1), write))
        run.always = True
        with pytest.raises(Changed):
            await run.run()
        await source.close()


class Restless(SimulatedDisk):
    """A disk on which somebody else changes the source at given calls; `stood` has what it was, in order."""

    PATH = "/data/source"

    def __init__(self, content, changes):
        super().__init__()
        self.make_folder("/data")
        self.put(self.PATH, content)
        self.stood = [content]
        self.left = dict(changes)

    def _meddle(self):
        change = self.left.pop(self.calls, None)
        if change is None:
            return
        what, number = change
        content = bytearray(self.stood[-1])
        at = number % max(1, len(content))
        if what == "overwrite":
            self.overwrite(self.PATH, at, bytes([number]))
        elif what == "overwrite and back":
            self.overwrite(self.PATH, at, bytes([number]))
            self.overwrite(self.PATH, at, bytes(content[at : at + 1]))
        elif what == "replace":
            content[at : at + 1] = bytes([number])
            self.put(self.PATH, bytes(content))
        elif what == "cut":
            self.cut(self.PATH, at)
        elif what == "back to the first":
            self.put(self.PATH, self.stood[0])
        self.stood.append(self.get(self.PATH))

    def preadv(self, fd, buffer, offset):
        self._meddle()
        return super().preadv(fd, buffer, offset)

    def stat(self, path, *, follow=False):
        self._meddle()
        return super().stat(path, follow=follow)

    def fstat(self, fd):
        self._meddle()
        return super().fstat(fd)


class Inline(Workers):
    """Calls are made on the loop, and others get their turn before and after."""

    threaded = False

    async def run(self, call, limiter):
        await anyio.lowlevel.checkpoint()
        try:
            return call()
        finally:
            await anyio.lowlevel.checkpoint()


meddling = st.dictionaries(
    st.integers(0, 80),
    st.tuples(
        st.sampled_from(["overwrite", "overwrite and back", "replace", "cut", "back to the first"]),
        st.integers(0, 255),
    ),
    max_size=4,
)


@settings(max_examples=400)
@given(
    content=st.binary(max_size=120),
    changes=meddling,
    piece=st.integers(1, 50),
    connections=st.integers(1, 3),
    memory=st.sampled_from([1, 10, 1000]),
    checksum=st.sampled_from([None, "md5"]),
    kept=st.sampled_from([0, 20]),
)
def test_whatever_happens_and_whenever_what_is_committed_stood_there_at_one_time(
    content, changes, piece, connections, memory, checksum, kept
):
    disk = Restless(content, changes)

    async def run():
        source = await open_file(disk, Inline(), disk.PATH)
        upload = Upload(source, piece, memory=memory, connections=connections, checksum=checksum)
        try:
            with anyio.fail_after(10):
                return await upload.run()
        finally:
            await source.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BUFFER", 3)
        patch.setattr(source_parts, "STEP", 7)
        patch.setattr(source_parts, "KEPT", kept)
        patch.setattr(source_proof, "STEP", 11)
        try:
            committed = anyio.run(run)
        except (Changed, Refused):
            assert len(disk.stood) > 1, "an upload of what nobody touched was refused"
        else:
            assert committed in disk.stood
    assert not disk._opened
