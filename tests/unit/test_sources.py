"""What an upload reads: files, bytes, sources of an application's own; their parts, digests and proofs."""

import errno
import hashlib
import os
import tracemalloc
from random import Random
from types import SimpleNamespace

import anyio
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from meowcat.core.errors import Code, InvalidArgument
from meowcat.core.pieces import Grid
from meowcat.core.values import FaultKind, SourceIdentity
from meowcat.protocols.contract import Part, Refused
from meowcat.runtime.limits import Budget, Throttle
from meowcat.testing.disk import SimulatedDisk
from meowcat.transfer import source_parts, sources
from meowcat.transfer.digests import Stopped, new
from meowcat.transfer.disk import OsDisk
from meowcat.transfer.rounds import Rounds
from meowcat.transfer.source_parts import FIRST, KEPT, LEAST, STEP, SourceReader, next_chunk
from meowcat.transfer.source_proof import digest_source, prove
from meowcat.transfer.sources import (
    BUFFER,
    Buffers,
    BytesSource,
    Sources,
    is_young,
    open_file,
    open_source,
    unmoved,
)
from meowcat.transfer.workers import Workers

pytestmark = pytest.mark.anyio

MEMORY = 64 << 20


@pytest.fixture(params=["os", "simulated"])
def place(request, tmp_path):
    """A disk, and the path of a file that is not there yet; `put(content)` makes it."""
    if request.param == "os":
        disk, path = OsDisk(), str(tmp_path / "source")

        def put(content):
            (tmp_path / "source").write_bytes(content)
    else:
        disk, path = SimulatedDisk(), "/data/source"
        disk.make_folder("/data")

        def put(content):
            disk.put(path, content)

    return SimpleNamespace(disk=disk, path=path, put=put)


async def opened(place, content=None, **options):
    if content is not None:
        place.put(content)
    return await open_file(place.disk, Workers(), place.path, **options)


class Rate:
    """A throttle that remembers what it was asked for."""

    def __init__(self, rate=None):
        self.rate = rate
        self.asked = []

    async def acquire(self, size):
        self.asked.append(size)

    def spend(self, size):
        self.asked.append(size)


class Reading:
    """`async with Reading(source) as reader`, whose memory has to be given back at the end."""

    def __init__(self, source, *, memory=MEMORY, throttle=None, several=False):
        self.source, self.memory, self.throttle = source, memory, throttle or Throttle()
        self.several = several
        self.budget = Budget(8, memory)

    async def __aenter__(self):
        self.group = await anyio.create_task_group().__aenter__()
        pinned = await self.source.identity()
        reader = SourceReader(self.source, pinned, self.group, self.budget, self.throttle)
        reader.several = self.several
        return reader

    async def __aexit__(self, kind, error, trace):
        await self.group.__aexit__(kind, error, trace)
        assert self.budget._free == self.memory, "memory was not given back"


async def joined(part):
    return b"".join([chunk async for chunk in part.body()])


async def draw(body):
    return await anyio.to_thread.run_sync(body.draw)


async def drawn(body):
    """What threads draw of it; it has to be ready."""
    assert body.ready()
    chunks = []
    while (chunk := await draw(body)) is not None:
        chunks.append(bytes(chunk))
        del chunk
    return b"".join(chunks)


async def until_refused(chunks):
    """How many bytes came, and why no more did."""
    got = 0
    try:
        async for chunk in chunks:
            got += len(chunk)
    except Refused as refused:
        return got, refused.fault
    pytest.fail("all of the body came")


async def refusal(awaitable):
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value.fault


# Files


async def test_a_file_is_read_from_any_place_in_blocks(place):
    content = os.urandom(BUFFER + 10)
    source = await opened(place, content)
    hasher = hashlib.sha256()
    blocks = await source.read(5, BUFFER + 5, [hasher], Buffers())
    assert b"".join(blocks) == content[5:]
    assert max(map(len, blocks)) <= BUFFER
    assert hasher.digest() == hashlib.sha256(content[5:]).digest()
    assert await source.read(3, 0, (), Buffers()) == []
    assert (await source.identity()).size == len(content)
    await source.close()


async def test_memory_that_nobody_looks_at_is_read_into_again(place):
    source, buffers = await opened(place, b"first" + b"other"), Buffers()
    blocks = await source.read(0, 5, (), buffers)
    room = blocks[0].obj
    buffers.give(blocks)
    (block,) = await source.read(5, 5, (), buffers)
    assert block.obj is room
    assert block == b"other"
    await source.close()


@pytest.mark.parametrize("look", [memoryview, lambda block: block[1:]], ids=["all of it", "some of it"])
async def test_memory_that_somebody_looks_at_is_left_alone(place, look):
    source, buffers = await opened(place, b"first" + b"other"), Buffers()
    blocks = await source.read(0, 5, (), buffers)
    seen = look(memoryview(blocks[0].obj))
    before = bytes(seen)
    buffers.give(blocks)
    assert await source.read(5, 5, (), buffers) == [b"other"]
    assert seen == before
    await source.close()


async def test_blocks_of_other_origin_are_nobodys_memory_to_read_into(place):
    buffers = Buffers()
    buffers.give([b"bytes", memoryview(b"of a constant"), memoryview(bytearray(b"small"))])
    assert len(buffers.take(BUFFER)) == BUFFER


async def test_an_absent_file_is_not_found_at_first_and_was_removed_later(place):
    fault = await refusal(opened(place))
    assert (fault.kind, fault.code) == (FaultKind.FILE_NOT_FOUND, Code.FILE_NOT_FOUND)
    assert place.path in fault.detail
    fault = await refusal(opened(place, begun=True))
    assert (fault.kind, fault.code) == (FaultKind.LOCAL_REMOVED, 122)


async def test_a_file_that_vanishes_is_told_as_removed(place):
    source = await opened(place, b"abc")
    place.disk.unlink(place.path)
    fault = await refusal(source.identity())
    assert fault.kind is FaultKind.LOCAL_REMOVED
    assert "put it back" in fault.detail
    await source.close()


async def test_a_file_that_is_shorter_than_asked_for_was_truncated(place):
    source = await opened(place, b"abc")
    fault = await refusal(source.read(1, 3, (), Buffers()))
    assert fault.kind is FaultKind.SOURCE_CHANGED
    assert "ends at byte 3; expected 4" in fault.detail
    await source.close()


async def test_another_file_at_the_path_is_the_one_that_is_read_once_it_was_seen(place):
    source = await opened(place, b"first")
    before = await source.identity()
    place.disk.rename(place.path, place.path + ".old")
    place.put(b"other")
    assert await source.read(0, 5, (), Buffers()) == [b"first"]
    after = await source.identity()
    assert after != before
    assert await source.read(0, 5, (), Buffers()) == [b"other"]
    assert await source.identity() == after
    await source.close()


def make_folder(path):
    path.mkdir()


def make_pipe(path):
    os.mkfifo(path)


def make_device(path):
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [make_folder, make_pipe, make_device])
async def test_only_files_are_sources(tmp_path, make):
    path = tmp_path / "source"
    make(path)
    with anyio.fail_after(10):  # opening a pipe waits for its writer
        fault = await refusal(open_file(OsDisk(), Workers(), str(path)))
    assert fault.kind is FaultKind.IO
    assert "upload" in fault.detail


async def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"abc")

    class Late(OsDisk):
        def open(self, name, flags, mode=0o666):
            path.unlink()
            os.mkfifo(path)
            return super().open(name, flags, mode)

    with anyio.fail_after(10):
        assert (await refusal(open_file(Late(), Workers(), str(path)))).kind is FaultKind.IO


async def test_symbolic_links_are_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    source = await open_file(OsDisk(), Workers(), str(tmp_path / "link"))
    assert await source.read(0, 3, (), Buffers()) == [b"abc"]
    await source.close()


async def test_without_permission_the_error_says_what_to_do(tmp_path):
    class Forbidden(OsDisk):
        def open(self, path, flags, mode=0o666):
            raise PermissionError(13, "Permission denied", path)

    (tmp_path / "source").write_bytes(b"")
    fault = await refusal(open_file(Forbidden(), Workers(), str(tmp_path / "source")))
    assert fault.kind is FaultKind.IO
    assert "no permission to read it; let this user" in fault.detail


async def test_a_look_takes_no_trip_to_a_thread_and_a_read_does(place):
    """Of a small upload such trips would take most of the time."""
    trips = []

    class Counting(Workers):
        async def run(self, call, limiter):
            trips.append(call)
            return await super().run(call, limiter)

    place.put(b"abc")
    workers = Counting()
    source = await open_file(place.disk, workers, place.path, rounds=Rounds(place.disk, workers, "process"))
    assert (await source.identity()).size == 3
    assert trips == []
    assert await source.read(0, 3, (), Buffers()) == [b"abc"]
    assert len(trips) == 1
    await source.close()
    assert len(trips) == 1


async def test_no_descriptor_stays_open(tmp_path):
    def descriptors():
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))  # noqa: PTH112, PTH208  # a count of numbers

    path = tmp_path / "source"
    path.write_bytes(b"abc")
    await (await open_file(OsDisk(), Workers(), str(path))).close()  # the first thread has some of its own
    before = descriptors()
    source = await open_file(OsDisk(), Workers(), str(path))
    for number in range(3):
        path.rename(tmp_path / str(number))
        path.write_bytes(b"abc")
        await source.identity()
    await source.close()
    assert descriptors() == before


@pytest.mark.parametrize("path", ["", "a\0b"])
async def test_a_path_that_can_not_be_one_is_refused(path):
    with pytest.raises(InvalidArgument, match="expected the path of a file"):
        await open_file(OsDisk(), Workers(), path)


# Sources of the application's own


class Plain:
    """Called in threads; gives less than asked for."""

    def __init__(self, content):
        self.content = content
        self.version = "1"

    def size(self):
        return len(self.content)

    def identity(self):
        return self.version

    def read(self, offset, size):
        assert 0 < size <= BUFFER
        return self.content[offset : offset + min(size, 1000)]


class Async(Plain):
    async def size(self):
        return super().size()

    async def identity(self):
        return super().identity()

    async def read(self, offset, size):
        await anyio.lowlevel.checkpoint()
        return super().read(offset, size)


class Wrapped(Plain):
    """A plain function that returns what is to be awaited."""

    def read(self, offset, size):
        async def answer():
            return self.content[offset : offset + size]

        return answer()


@pytest.mark.parametrize("make", [Plain, Async, Wrapped, BytesSource])
async def test_an_application_s_source_is_read_as_a_file_is(make):
    content = os.urandom(10_000)
    source = await open_source(Workers(), "source 'db'", make(content))
    hasher = hashlib.md5(usedforsecurity=False)
    assert b"".join(await source.read(10, 9_990, [hasher], Buffers())) == content[10:]
    assert hasher.hexdigest() == hashlib.md5(content[10:], usedforsecurity=False).hexdigest()
    assert (await source.identity()).size == 10_000
    assert (await refusal(source.read(9_000, 1_001, (), Buffers()))).kind is FaultKind.SOURCE_CHANGED
    async with Reading(source) as reader:
        with reader.part(0, 0, 10_000) as part:
            assert await joined(part) == content
            assert not part.moved
    await source.close()


async def test_a_new_version_of_an_application_s_source_is_a_moved_one():
    plain = Plain(b"abc")
    source = await open_source(Workers(), "source 'db'", plain)
    async with Reading(source) as reader:
        plain.version = "2"
        with reader.part(0, 0, 3) as part:
            assert await joined(part) == b"abc"
            assert part.moved


async def test_bytes_are_known_by_their_digest_after_a_restart():
    before, again, other = [
        await (await open_source(Workers(), "bytes", BytesSource(data))).identity()
        for data in (b"abc", bytearray(b"abc"), memoryview(b"abd"))
    ]
    assert before == again != other


async def test_bytes_that_are_handed_in_may_be_changed_afterwards():
    data = bytearray(b"abc")
    source = BytesSource(data)
    data[:] = b"xyz"
    assert await source.read(0, 3) == b"abc"


@pytest.mark.parametrize(
    ("method", "answer", "says"),
    [
        ("size", -1, "-1: expected 0 to"),
        ("size", "3", "'3': expected 0 to"),
        ("identity", None, "a NoneType: expected at most 1,000"),
        ("identity", "x" * 1001, "expected at most 1,000 characters"),
        ("read", "abc", "a str: expected bytes"),
        ("read", bytes(4), "4 bytes: expected at most 3"),
    ],
)
async def test_nonsense_of_an_application_s_source_is_named(method, answer, says):
    plain = Plain(b"abc")
    setattr(plain, method, lambda *_: answer)
    source = await open_source(Workers(), "source 'db'", plain)
    fault = await refusal(source.read(0, 3, (), Buffers()) if method == "read" else source.identity())
    assert fault.kind is FaultKind.INTERNAL
    assert fault.detail.startswith(f"source 'db': {method}() returned")
    assert says in fault.detail


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (OSError(5, "secret"), FaultKind.IO, "read() failed: Input/output error"),
        (TimeoutError("secret"), FaultKind.IO, "read() failed: TimeoutError"),
        (ValueError("secret"), FaultKind.INTERNAL, "read() raised ValueError"),
    ],
)
@pytest.mark.parametrize("make", [Plain, Async])
async def test_what_an_application_s_source_raises_is_told_without_its_text(make, error, kind, says):
    def fail(*_):
        raise error

    async def fail_later(*_):
        raise error

    source = make(b"abc")
    source.read = fail if make is Plain else fail_later
    fault = await refusal((await open_source(Workers(), "source 'db'", source)).read(0, 3, (), Buffers()))
    assert fault.kind is kind
    assert says in fault.detail
    assert "secret" not in fault.detail


def test_sources_are_registered_by_name():
    source, other = Plain(b""), Plain(b"")
    registered = Sources({"db": source})
    assert registered.get("db") is source
    assert registered.get("no") is None
    registered.register("db", other)
    assert registered.get("db") is other


@pytest.mark.parametrize(("name", "source"), [("", Plain(b"")), (b"db", Plain(b"")), ("db", b"bytes")])
def test_what_is_no_source_is_not_registered(name, source):
    with pytest.raises(InvalidArgument, match="expected"):
        Sources().register(name, source)


# Parts


@given(data=st.data(), content=st.binary(max_size=200), memory=st.sampled_from([1, 10, 1000]))
def test_a_part_yields_its_bytes_and_knows_their_digests(data, content, memory):
    begin = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(begin, len(content)))
    start = data.draw(st.integers(begin, stop))
    steps = data.draw(st.lists(st.sampled_from(["md5", "sha256", "body"]), max_size=4))

    async def run():
        source = await open_source(Workers(), "bytes", BytesSource(content))
        async with Reading(source, memory=memory) as reader:
            with reader.part(7, begin, stop, start=start) as part:
                contract: Part = part
                assert (contract.index, contract.start, contract.size) == (7, start, stop - start)
                assert part.digest is None
                for step in steps:
                    if step == "body":
                        assert await joined(part) == content[start:stop]
                    else:
                        expected = hashlib.new(step, content[start:stop], usedforsecurity=False)
                        assert await part.checksum(step) == expected.hexdigest()
                    assert part.digest == blake3(content[begin:stop]).digest()
                    assert not part.moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_parts, "STEP", 7)
        patch.setattr(source_parts, "KEPT", 20)
        patch.setattr("meowcat.transfer.sources.BUFFER", 3)
        anyio.run(run)


@pytest.mark.parametrize("size", [1000, KEPT + 1])
async def test_bytes_that_are_not_those_of_the_checksum_are_not_sent_as_a_whole(place, size):
    source = await opened(place, bytes(size))
    async with Reading(source) as reader:
        with reader.part(0, 0, size) as part:
            await part.checksum("md5")
            place.put(b"\1" * size)
            await source.identity()
            if size <= KEPT:
                assert await joined(part) == bytes(size)  # the very bytes, from memory
                return
            got, fault = await until_refused(part.body())
    assert got < size
    assert fault.kind is FaultKind.SOURCE_CHANGED
    assert "not those that were read before" in fault.detail
    await source.close()


async def test_a_part_that_is_sent_again_has_to_be_the_one_that_was_recorded(place):
    source = await opened(place, b"abcdef")
    async with Reading(source) as reader:
        with reader.part(0, 0, 3, expected=blake3(b"abc").digest()) as part:
            assert await joined(part) == b"abc"
        with reader.part(0, 0, 3, expected=blake3(b"abd").digest()) as part:
            body = part.body()
            with pytest.raises(Refused):
                await anext(body)
            assert part.digest is None
            with pytest.raises(Refused):
                await part.checksum("md5")
    await source.close()


async def test_a_second_body_has_to_be_the_first(place):
    source = await opened(place, b"abc")
    async with Reading(source) as reader:
        with reader.part(0, 0, 3) as part:
            assert await joined(part) == b"abc"
            place.put(b"abd")
            await source.identity()
            assert (await refusal(joined(part))).kind is FaultKind.SOURCE_CHANGED
    await source.close()


async def test_a_truncated_part_is_never_sent_as_a_whole(place):
    size = 2 * STEP + 5
    source = await opened(place, bytes(size))
    async with Reading(source) as reader:
        with reader.part(0, 0, size) as part:
            body = part.body()
            got = len(await anext(body))
            place.put(bytes(10))
            await source.identity()
            more, fault = await until_refused(body)
    assert got + more < size
    assert fault.kind is FaultKind.SOURCE_CHANGED
    assert "truncated" in fault.detail
    await source.close()


async def test_a_source_that_moved_before_the_last_byte_was_read_is_told(place):
    size = 3 * STEP
    source = await opened(place, bytes(size))
    async with Reading(source) as reader:
        with reader.part(0, 0, size) as part:
            body = part.body()
            await anext(body)
            place.put(bytes(size))  # the same bytes in another file
            assert not part.moved
            async for _ in body:
                pass
            assert part.moved
        with reader.part(1, 0, 0) as part:
            assert await joined(part) == b""
            assert part.moved
    await source.close()


async def test_a_part_goes_by_what_was_pinned_when_it_was_made(place):
    """Its first bytes may be older than the identity that was proved, and pinned, while it was read."""
    source = await opened(place, b"abc")
    async with Reading(source) as reader:
        with reader.part(0, 0, 3) as part:
            place.put(b"abd")
            reader.pinned = await source.identity()
            await joined(part)
            assert part.moved
    await source.close()


async def test_what_the_server_has_of_a_half_sent_piece_can_not_be_proved_once_the_source_moved(place):
    source = await opened(place, b"abcdef")
    async with Reading(source) as reader:
        with reader.part(0, 0, 6, start=2) as part:
            assert await joined(part) == b"cdef"
        place.put(b"abcdef")
        with reader.part(0, 0, 6, start=2) as part:
            fault = await refusal(joined(part))
    assert fault.kind is FaultKind.CHANGED
    assert "begins anew" in fault.detail
    await source.close()


async def test_a_limited_rate_makes_chunks_small_and_each_is_asked_for(place):
    source = await opened(place, bytes(100_000))
    throttle = Rate(80_000)
    async with Reading(source, throttle=throttle) as reader:
        with reader.part(0, 0, 100_000) as part:
            sizes = [len(chunk) async for chunk in part.body()]
    assert sizes == throttle.asked == [10_000] * 10
    await source.close()


@pytest.mark.parametrize(
    ("size", "seconds", "following"),
    [
        (FIRST, 0.01, 2 * FIRST),
        (BUFFER, 0.01, BUFFER),
        (FIRST, 0.5, FIRST),
        (FIRST, 3.0, FIRST // 2),
        (LEAST, 3.0, LEAST),
    ],
)
def test_chunks_follow_the_speed_of_the_line(size, seconds, following):
    assert next_chunk(size, seconds) == following


async def test_a_line_that_takes_chunks_at_once_gets_larger_ones(place):
    source = await opened(place, bytes(5 * BUFFER))
    async with Reading(source) as reader:
        with reader.part(0, 0, 5 * BUFFER) as part:
            sizes = [len(chunk) async for chunk in part.body()]
        reader.chunk = LEAST
        with reader.part(0, 0, 5 * BUFFER) as part:
            assert len(await anext(part.body())) == LEAST
    assert sizes[0] == FIRST
    assert max(sizes) <= BUFFER
    await source.close()


@pytest.mark.parametrize("checksum", [False, True])
async def test_a_body_that_is_left_in_the_middle_keeps_no_memory(place, checksum):
    source = await opened(place, bytes(3 * STEP))
    async with Reading(source) as reader:
        with reader.part(0, 0, 3 * STEP) as part:
            if checksum:
                await part.checksum("md5")
            body = part.body()
            await anext(body)
        if not checksum:
            with pytest.raises(Stopped):
                async for _ in body:
                    pass
    await source.close()


async def test_more_bodies_than_memory_for_them_all_come_to_their_end(place):
    content = Random(3).randbytes(5 * STEP)
    source = await opened(place, content)
    got = {}

    async def send(reader, index):
        with reader.part(index, 0, len(content)) as part:
            if index % 2:
                await part.checksum("blake3")
            got[index] = await joined(part)

    async with Reading(source, memory=2 * STEP + 1) as reader, anyio.create_task_group() as group:
        for index in range(8):
            group.start_soon(send, reader, index)
    assert got == dict.fromkeys(range(8), content)
    await source.close()


@pytest.mark.parametrize("checksum", [False, True])
async def test_a_body_that_is_asked_for_again_needs_no_memory_besides_that_of_the_first(place, checksum):
    """A server that refuses a credential in mid-body gets the part once more, signed anew: where many parts
    wait for that at once, all of the engine's memory may be held by what was sent in vain."""
    content = Random(4).randbytes(4 * STEP)
    source = await opened(place, content)
    async with Reading(source, memory=2 * STEP) as reader:
        with reader.part(0, 0, len(content)) as part:
            if checksum:
                await part.checksum("md5")
            given_up = part.body()
            await anext(given_up)
            while reader.budget._free:
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(10):
                assert await joined(part) == content
            with pytest.raises(Stopped):
                async for _ in given_up:
                    pass
    await source.close()


@pytest.mark.parametrize("size", [1, STEP, STEP + 1, 3 * STEP])
async def test_a_part_whose_reading_began_ahead_has_the_same_bytes(place, size):
    content = Random(5).randbytes(size)
    source = await opened(place, content)
    async with Reading(source) as reader:
        with reader.part(0, 0, size) as part:
            assert part.begin()
            await anyio.wait_all_tasks_blocked()
            assert await joined(part) == content
            assert part.digest == blake3(content).digest()
            assert await joined(part) == content, "a second body reads it again"
    await source.close()


async def test_a_part_whose_reading_began_ahead_notices_a_change(place):
    source = await opened(place, bytes(2 * STEP))
    async with Reading(source) as reader:
        with reader.part(0, 0, 2 * STEP, expected=blake3(b"others").digest()) as part:
            assert part.begin()
            got, fault = await until_refused(part.body())
    assert (got, fault.kind) == (STEP, FaultKind.SOURCE_CHANGED)
    await source.close()


async def test_a_checksum_takes_no_memory_besides_what_was_read_ahead(place):
    content = Random(6).randbytes(2 * STEP)
    source = await opened(place, content)
    async with Reading(source, memory=3 * STEP) as reader:
        with reader.part(0, 0, len(content)) as part:
            assert part.begin()
            await reader.budget.take(STEP)
            assert await part.checksum("blake3") == blake3(content).hexdigest()
            assert await joined(part) == content
        with reader.part(1, 0, len(content)) as part:
            assert not part.begin(), "of the next one a checksum is asked for first, too: all of it is kept"
        reader.budget.give(STEP)
    await source.close()


@pytest.mark.parametrize(("memory", "begun"), [(KEPT, False), (KEPT + 99, False), (KEPT + 100, True)])
async def test_what_is_read_ahead_of_its_turn_leaves_what_others_take_at_once(place, memory, begun):
    """They may wait for all of that in the very places that it waits for."""
    source = await opened(place, bytes(100))
    async with Reading(source, memory=memory) as reader:
        with reader.part(0, 0, 100) as part:
            assert part.begin() == begun
            with anyio.fail_after(5):
                await reader.budget.take(KEPT)
            reader.budget.give(KEPT)
    await source.close()


def count_reads(source):
    """Each read of it, as (offset, size), from now on."""
    read = []

    class Counted(type(source)):
        async def read(self, offset, size, *more):
            read.append((offset, size))
            return await super().read(offset, size, *more)

        async def read_last(self, offset, size, *more):
            read.append((offset, size))
            return await super().read_last(offset, size, *more)

    source.__class__ = Counted
    return read


@pytest.mark.parametrize("ahead", ["", "begun", "done"])
async def test_the_bytes_of_parts_are_read_once_for_checksums_and_body(place, ahead):
    """So they are the very same, and none are read or hashed for nothing."""
    content = Random(7).randbytes(3 * STEP)
    source = await opened(place, content)
    read = count_reads(source)
    async with Reading(source) as reader:
        for index in range(3):
            begin, stop = index * STEP, (index + 1) * STEP
            with reader.part(index, begin, stop) as part:
                assert not ahead or part.begin()
                while ahead == "done" and part.digest is None:
                    await anyio.lowlevel.checkpoint()
                assert await part.checksum("blake3") == blake3(content[begin:stop]).hexdigest()
                assert (
                    await part.checksum("md5")
                    == hashlib.new("md5", content[begin:stop], usedforsecurity=False).hexdigest()
                )
                assert await joined(part) == content[begin:stop]
    assert read == [(0, STEP), (STEP, STEP), (2 * STEP, STEP)]
    await source.close()


async def test_what_is_too_large_to_be_kept_is_not_read_ahead_of_its_checksum(place):
    source = await opened(place, bytes(KEPT + 1))
    async with Reading(source) as reader:
        with reader.part(0, 0, 1) as part:
            await part.checksum("md5")
        with reader.part(1, 0, KEPT + 1) as part:
            assert not part.begin()
    await source.close()


async def test_what_was_read_ahead_of_a_checksum_that_is_refused_is_refused(place):
    source = await opened(place, bytes(STEP))
    async with Reading(source) as reader:
        with reader.part(0, 0, STEP, expected=blake3(b"others").digest()) as part:
            assert part.begin()
            assert (await refusal(part.checksum("md5"))).kind is FaultKind.SOURCE_CHANGED
    await source.close()


async def test_what_is_read_ahead_and_never_sent_is_given_back(place):
    source = await opened(place, bytes(3 * STEP))
    async with Reading(source) as reader:
        part = reader.part(0, 0, 3 * STEP)
        assert part.begin()
        part.close()
    await source.close()


async def test_nothing_is_read_ahead_of_a_part_that_the_server_has_the_beginning_of(place):
    source = await opened(place, bytes(STEP))
    async with Reading(source) as reader:
        with reader.part(0, 0, STEP, start=10) as part:
            assert not part.begin()
    await source.close()


async def test_parts_that_wait_leave_half_of_the_memory_to_those_that_are_sent(place):
    content = Random(4).randbytes(3 * STEP)
    source = await opened(place, content)
    async with Reading(source, memory=4 * STEP) as reader:
        waiting = [reader.part(index, 0, len(content)) for index in range(5)]
        assert [part.begin() for part in waiting] == [True, True, False, False, False]
        with reader.part(5, 0, len(content)) as part:
            assert await joined(part) == content
        for part in waiting:
            part.close()
    await source.close()


# Parts that a thread draws


@given(data=st.data(), content=st.binary(min_size=1, max_size=100), memory=st.sampled_from([20, 1000]))
def test_a_part_that_threads_draw_has_the_same_bytes_and_digests(data, content, memory):
    begin = data.draw(st.integers(0, len(content) - 1))
    stop = data.draw(st.integers(begin + 1, len(content)))
    steps = data.draw(st.lists(st.sampled_from(["draw", "draw, then ask", "ask", "md5"]), max_size=4))
    limited_after = data.draw(st.integers(0, 5))

    throttle = Rate()

    async def taken(body, step):
        """By threads as long as it is ready, and from the event loop where it is not, or not any more."""
        came = b""
        while len(came) < stop - begin:
            if step == "ask" or not body.ready():
                came += await anext(body)
            elif (chunk := await draw(body)) is not None:
                came += chunk
                del chunk
            throttle.rate = 80 if step == "draw, then ask" and len(came) > limited_after else None
        throttle.rate = None
        return came

    async def run():
        disk = SimulatedDisk()
        disk.make_folder("/data")
        disk.put("/data/source", content)
        source = await open_file(disk, Workers(), "/data/source")
        async with Reading(source, memory=memory, throttle=throttle, several=True) as reader:
            with reader.part(7, begin, stop) as part:
                for step in steps:
                    if step == "md5":
                        md5 = hashlib.md5(content[begin:stop], usedforsecurity=False).hexdigest()
                        assert await part.checksum("md5") == md5
                    else:
                        assert await taken(part.body(), step) == content[begin:stop]
                    assert part.digest == blake3(content[begin:stop]).digest()
                    assert not part.moved
        await source.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_parts, "STEP", 7)
        patch.setattr(source_parts, "KEPT", 20)
        patch.setattr(source_parts, "FIRST", 2)
        patch.setattr(source_parts, "BUFFER", 5)
        patch.setattr("meowcat.transfer.sources.BUFFER", 5)
        anyio.run(run)


async def test_drawn_chunks_are_counted_and_grow_with_the_line(place):
    source = await opened(place, bytes(5 * BUFFER))
    throttle = Rate()
    async with Reading(source, throttle=throttle, several=True) as reader:
        with reader.part(0, 0, 5 * BUFFER) as part:
            assert await drawn(part.body()) == bytes(5 * BUFFER)
    assert throttle.asked[0] == FIRST
    assert max(throttle.asked) <= BUFFER
    assert sum(throttle.asked) == 5 * BUFFER
    await source.close()


async def test_chunks_are_drawn_into_the_same_memory_unless_it_is_still_looked_at(place):
    content = Random(1).randbytes(3 * FIRST)
    source = await opened(place, content)
    async with Reading(source, several=True) as reader:
        reader.chunk = FIRST // 2
        with reader.part(0, 0, len(content)) as part:
            body = part.body()
            assert body.ready()

            def in_a_thread():  # one for all: a thread holds the last thing that it brought
                first = body.draw()
                room, size = first.obj, len(first)
                second = body.draw()
                assert second.obj is not room
                assert first == content[:size]
                del first
                again = second.obj
                del second
                assert body.draw().obj is again

            await anyio.to_thread.run_sync(in_a_thread)
    await source.close()


async def until_refused_by_drawing(body):
    assert body.ready()
    got = 0
    try:
        while (chunk := await draw(body)) is not None:
            got += len(chunk)
            del chunk
    except Refused as refused:
        return got, refused.fault
    pytest.fail("all of the body came")


async def test_of_a_part_with_other_bytes_than_were_recorded_the_last_are_not_drawn(place):
    source = await opened(place, bytes(2 * FIRST))
    async with Reading(source, several=True) as reader:
        reader.chunk = FIRST
        with reader.part(0, 0, 2 * FIRST, expected=blake3(b"others").digest()) as part:
            got, fault = await until_refused_by_drawing(part.body())
            assert part.digest is None
    assert got < 2 * FIRST
    assert fault.kind is FaultKind.SOURCE_CHANGED
    assert "not those that were read before" in fault.detail
    await source.close()


async def test_a_second_body_that_is_drawn_has_to_be_the_first(place):
    source = await opened(place, b"abc")
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, 3) as part:
            assert await drawn(part.body()) == b"abc"
            place.put(b"abd")
            await source.identity()
            got, fault = await until_refused_by_drawing(part.body())
    assert (got, fault.kind) == (0, FaultKind.SOURCE_CHANGED)
    await source.close()


async def test_a_part_that_is_truncated_while_it_is_drawn_is_never_sent_as_a_whole(place):
    size = 3 * FIRST
    source = await opened(place, bytes(size))
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, size) as part:
            body = part.body()
            assert body.ready()
            got = len(await draw(body))
            place.put(bytes(10))
            await source.identity()
            more, fault = await until_refused_by_drawing(body)
    assert got + more < size
    assert fault.kind is FaultKind.SOURCE_CHANGED
    assert "truncated" in fault.detail
    await source.close()


async def test_a_source_that_vanishes_while_it_is_drawn_is_told_as_removed(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(bytes(2 * FIRST))
    source = await open_file(OsDisk(), Workers(), str(path))
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, 2 * FIRST) as part:
            body = part.body()
            assert body.ready()
            await draw(body)
            path.unlink()
            _, fault = await until_refused_by_drawing(body)
    assert fault.kind is FaultKind.LOCAL_REMOVED
    await source.close()


async def test_a_source_that_moved_while_it_was_drawn_is_told(place):
    size = 3 * FIRST
    source = await opened(place, bytes(size))
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, size) as part:
            body = part.body()
            assert body.ready()
            await draw(body)
            place.put(bytes(size))  # the same bytes in another file
            assert not part.moved
            while await draw(body) is not None:
                pass
            assert part.moved
    await source.close()


@pytest.mark.parametrize("why", ["alone", "an application's", "half sent", "checksums", "kept", "no memory"])
async def test_what_is_not_drawn_is_asked_for(place, why):
    content = bytes(range(200))
    file = await opened(place, content)
    owned = await open_source(Workers(), "bytes", BytesSource(content))
    source = owned if why == "an application's" else file
    start = 10 if why == "half sent" else 0
    memory = 2 * len(content) - 2 if why == "no memory" else MEMORY
    async with Reading(source, memory=memory, several=why != "alone") as reader:
        if why == "checksums":
            with reader.part(0, 0, 100) as part:
                await part.checksum("md5")
        with reader.part(1, 0, 200, start=start) as part:
            if why == "kept":
                assert await drawn(part.body()) == content
                assert await part.checksum("md5")
            body = part.body()
            assert not body.ready()
            assert b"".join([chunk async for chunk in body]) == content[start:]
            assert part.digest == blake3(content).digest()
    await file.close()


async def test_a_limit_that_comes_in_the_middle_of_a_body_ends_the_drawing(place):
    source = await opened(place, bytes(3 * FIRST))
    throttle = Rate(80_000)
    async with Reading(source, throttle=throttle, several=True) as reader:
        with reader.part(0, 0, 3 * FIRST) as part:
            body = part.body()
            assert not body.ready()
            throttle.rate = None
            assert body.ready()
            assert len(await draw(body)) == FIRST
            throttle.rate = 80_000
            assert await draw(body) is None
            assert len(await anext(body)) == 10_000
            throttle.rate = None
            assert not body.ready(), "what is read ahead goes first"
    await source.close()


async def test_nothing_is_read_ahead_of_what_is_drawn_once_that_is_known(place):
    source = await opened(place, bytes(4 * STEP))
    read = count_reads(source)
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, STEP) as part:
            assert not part.begin(), "nobody knows yet"
            await drawn(part.body())
        with reader.part(1, STEP, 2 * STEP) as part:
            free = reader.budget._free
            assert not part.begin()
            assert reader.budget._free == free, "it takes its memory when its turn has come"
            await drawn(part.body())
    assert read == []
    await source.close()


async def test_a_checksum_that_is_asked_for_after_a_drawn_body_says_nothing_of_other_parts(place):
    source = await opened(place, bytes(200))
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, 100) as part:
            await drawn(part.body())
            await part.checksum("md5")
        with reader.part(1, 100, 200) as part:
            assert await drawn(part.body()) == bytes(100)
    await source.close()


@pytest.mark.parametrize("short", [False, True])
async def test_what_was_read_ahead_before_parts_go_side_by_side_is_not_drawn(place, short):
    """The first part is read while the session is opened, when nobody knows how many go at once."""
    content = Random(9).randbytes(STEP)
    source = await opened(place, content)
    read = count_reads(source)
    async with Reading(source, memory=3 * STEP) as reader:
        with reader.part(0, 0, STEP) as part:
            assert part.begin()
            reader.several = True
            taken = 2 * STEP - 1 if short else 0
            await reader.budget.take(taken)
            body = part.body()
            assert not body.ready()
            assert b"".join([chunk async for chunk in body]) == content
            reader.budget.give(taken)
        with reader.part(1, 0, STEP) as part:
            assert await drawn(part.body()) == content
    assert read == [(0, STEP)]
    await source.close()


async def test_a_part_with_a_limited_rate_is_read_ahead_though_others_were_drawn(place):
    source = await opened(place, bytes(2 * STEP))
    throttle = Rate()
    read = count_reads(source)
    async with Reading(source, throttle=throttle, several=True) as reader:
        with reader.part(0, 0, STEP) as part:
            await drawn(part.body())
        throttle.rate = 1 << 30
        with reader.part(1, STEP, 2 * STEP) as part:
            free = reader.budget._free
            assert part.begin()
            assert reader.budget._free == free - STEP
            assert await joined(part) == bytes(STEP)
    assert read == [(STEP, STEP)]
    await source.close()


async def test_a_part_knows_of_a_limit_that_came_and_went_while_it_was_sent(place):
    source = await opened(place, bytes(STEP))
    throttle = Rate()
    async with Reading(source, throttle=throttle) as reader:
        with reader.part(0, 0, STEP) as part:
            body = part.body()
            await anext(body)
            assert not part.limited
            throttle.rate = 1 << 30
            await anext(body)
            throttle.rate = None
            async for _ in body:
                pass
            assert part.limited
    await source.close()


async def test_where_there_is_no_memory_to_draw_into_the_source_is_refused(place, monkeypatch):
    source = await opened(place, bytes(10))

    def none(size):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, 10) as part:
            monkeypatch.setattr("meowcat.transfer.sources.fresh", none)
            _, fault = await until_refused_by_drawing(part.body())
    assert fault.kind is FaultKind.IO
    assert "Cannot allocate memory" in fault.detail
    await source.close()


async def test_a_client_that_does_not_draw_has_the_next_parts_read_ahead(place):
    source = await opened(place, bytes(2 * STEP))
    read = count_reads(source)
    async with Reading(source, several=True) as reader:
        with reader.part(0, 0, STEP) as part:
            await joined(part)
        with reader.part(1, STEP, 2 * STEP) as part:
            assert part.begin()
            await anyio.wait_all_tasks_blocked()
            assert len(read) == 2
            assert await joined(part) == bytes(STEP)
    await source.close()


@pytest.mark.parametrize("size", [STEP, KEPT + 1])
@pytest.mark.parametrize("way", ["asked", "drawn", "drawn, then asked"])
async def test_a_checksum_after_the_body_waits_for_no_memory_that_the_part_itself_holds(place, way, size):
    """A client stops asking with the last byte, and then the reply has a digest to compare."""
    content = Random(8).randbytes(size)
    source = await opened(place, content)
    throttle = Rate()
    async with Reading(source, memory=STEP, throttle=throttle, several=True) as reader:
        with reader.part(0, 0, size) as part, anyio.fail_after(30):
            body = part.body()
            got = 0
            while way != "asked" and got < size:
                assert body.ready()
                got += len(await draw(body))
                if way != "drawn":
                    throttle.rate = 1 << 30
                    break
            while got < size:
                got += len(await anext(body))
            assert await part.checksum("md5") == hashlib.md5(content, usedforsecurity=False).hexdigest()
    await source.close()


async def test_a_canceled_body_ends_and_gives_back_its_memory(place):
    source = await opened(place, bytes(3 * STEP))
    budget = Budget(8, 1)
    async with anyio.create_task_group() as group:
        reader = SourceReader(source, await source.identity(), group, budget, Throttle())
        await budget.take(1)  # there is none: the body waits
        with reader.part(0, 0, 3 * STEP) as part, anyio.move_on_after(0):
            await joined(part)
        budget.give(1)
        group.cancel_scope.cancel()
    assert budget._free == 1
    await source.close()


# Digests and proofs


@pytest.mark.parametrize("size", [0, 1, STEP * 5])
async def test_a_source_is_read_once_for_all_its_digests(place, size):
    content = Random(size).randbytes(size)
    source = await opened(place, content)
    told = []
    found = await digest_source(source, Budget(1, MEMORY), ["md5", "crc32c"], told.append)
    crc = new("crc32c")
    crc.update(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert found.hexes == {"md5": md5, "crc32c": crc.hexdigest()}
    assert replace(found.identity, young=False) == replace(await source.identity(), young=False)
    assert told[-1] == size
    assert told == sorted(told)
    await source.close()


@pytest.mark.parametrize("content", [b"abd", b"ab", b"abcd"])
async def test_digests_are_of_one_state_of_the_source(place, content):
    source = await opened(place, b"abc")
    budget, changes = Budget(1, MEMORY), [content]
    found = await digest_source(source, budget, ["sha1"], lambda _: changes and place.put(changes.pop()))
    assert found.hexes["sha1"] == hashlib.sha1(content, usedforsecurity=False).hexdigest()
    assert found.identity == await source.identity()
    assert budget._free == MEMORY
    await source.close()


async def test_a_source_that_never_rests_is_given_up(place):
    source = await opened(place, b"abc")
    fault = await refusal(digest_source(source, Budget(1, MEMORY), ["sha1"], lambda _: place.put(b"abc")))
    assert fault.kind is FaultKind.SOURCE_CHANGED
    assert "upload it once nobody writes" in fault.detail
    await source.close()


@given(content=st.binary(min_size=1, max_size=300), piece=st.integers(1, 70), data=st.data())
def test_a_proof_reads_what_was_recorded_and_finds_every_other_byte(content, piece, data):
    grid = Grid(len(content), piece)
    recorded = data.draw(st.sets(st.integers(0, grid.count - 1)))
    whole = data.draw(st.sampled_from([(), ("md5",), ("sha1", "crc32c")]))
    at = data.draw(st.none() | st.integers(0, len(content) - 1))
    digests = {index: blake3(content[slice(*grid.span(index))]).digest() for index in recorded}

    async def run():
        plain = Plain(content)
        source = await open_source(Workers(), "source 'db'", plain)
        budget = Budget(1, 30)
        hexes = (await digest_source(source, budget, whole)).hexes
        if at is not None:
            plain.content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        proved = await prove(source, budget, grid, digests, hexes)
        same = at is None or not (whole or at // piece in recorded)
        assert proved == (await source.identity() if same else None)
        assert budget._free == 30

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meowcat.transfer.source_proof.STEP", 17)
        patch.setattr("meowcat.transfer.sources.BUFFER", 5)
        anyio.run(run)


@pytest.mark.parametrize("size", [2, 4])
async def test_a_source_of_another_size_is_another(place, size):
    source = await opened(place, bytes(size))
    assert await prove(source, Budget(1, MEMORY), Grid(3, 3), {}, {}) is None
    await source.close()


async def test_a_proof_reads_no_further_than_to_the_first_difference(place):
    content, read = os.urandom(9 * STEP), []
    source = await opened(place, content)

    class Counted(type(source)):
        async def read(self, offset, *more):
            read.append(offset)
            return await super().read(offset, *more)

    source.__class__ = Counted
    grid = Grid(len(content), STEP)
    digests = {index: blake3(b"other").digest() for index in range(0, 9, 2)}  # five spans
    assert await prove(source, Budget(1, MEMORY), grid, digests, {}) is None
    assert set(read) == {0}
    await source.close()


async def test_what_changes_behind_a_proof_s_back_is_looked_at_again(place):
    content = bytes(STEP)
    source = await opened(place, content)
    grid, digests = Grid(STEP, STEP), {0: blake3(content).digest()}

    class Meddled(type(source)):
        async def read(self, *what):
            blocks = await super().read(*what)
            if changes:
                place.put(changes.pop())
            return blocks

    source.__class__ = Meddled
    changes = [b"\1" * STEP]
    assert await prove(source, Budget(1, MEMORY), grid, digests, {}) is None
    place.put(content)
    changes = [content]
    proved = await prove(source, Budget(1, MEMORY), grid, digests, {})
    assert proved == await source.identity()
    await source.close()


async def test_a_removed_source_is_not_a_changed_one(place):
    source = await opened(place, b"abc")
    place.disk.unlink(place.path)
    fault = await refusal(prove(source, Budget(1, MEMORY), Grid(3, 3), {}, {}))
    assert fault.kind is FaultKind.LOCAL_REMOVED
    await source.close()


# Stamps

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("mtime", "ctime", "young"),
    [
        (100, 100, False),
        (100, 100 + 8 * SECOND, False),
        (100, 9 * SECOND, True),
        (9 * SECOND, 100, True),
        (100, 20 * SECOND, True),
    ],
)
def test_a_file_is_young_while_its_clock_may_not_have_ticked(mtime, ctime, young):
    assert is_young(mtime, ctime, 10 * SECOND + 101) is young


async def test_a_file_grows_old_without_being_moved(tmp_path, monkeypatch):
    path = tmp_path / "source"
    path.write_bytes(b"abc")
    source = await open_file(OsDisk(), Workers(), str(path))
    before = await source.identity()
    async with Reading(source) as reader:
        with reader.part(0, 0, 3) as part:
            monkeypatch.setattr(sources, "time_ns", lambda: 1 << 62)
            after = await source.identity()
            assert (before.young, after.young) == (True, False)
            assert unmoved(before, after)
            await joined(part)
            assert not part.moved
    path.chmod(0o600)
    assert not unmoved(after, await source.identity())
    await source.close()


async def test_a_file_is_as_young_as_it_was_when_its_look_began(tmp_path, monkeypatch):
    """As of a file system over the network: the file may be written again while the answer is on its way, in
    the same tick of its clock."""
    path = tmp_path / "source"
    path.write_bytes(b"abc")
    now = path.stat().st_mtime_ns

    class Slow(OsDisk):
        def stat(self, name, *, follow=False):
            nonlocal now
            found = super().stat(name, follow=follow)
            now += 10 * SECOND
            return found

    source = await open_file(Slow(), Workers(), str(path))
    now = path.stat().st_mtime_ns
    monkeypatch.setattr(sources, "time_ns", lambda: now)
    assert (await source.identity()).young
    assert not (await source.identity()).young
    await source.close()


@pytest.mark.parametrize("young", [True, False])
async def test_digests_hold_for_the_look_before_they_were_read(tmp_path, monkeypatch, young):
    """What was written between that look and a later one within its tick would not show."""
    monkeypatch.setattr(sources, "time_ns", lambda: 0 if young else 1 << 62)
    path = tmp_path / "source"
    path.write_bytes(b"abc")
    source = await open_file(OsDisk(), Workers(), str(path))
    grow_old = lambda _: monkeypatch.setattr(sources, "time_ns", lambda: 1 << 62)  # noqa: E731  # shorter
    found = await digest_source(source, Budget(1, MEMORY), ["md5"], grow_old)
    assert found.identity.young is young
    await source.close()


def test_an_application_s_source_is_never_young():
    assert not SourceIdentity(size=1, tag="v1").young


# Memory


async def test_a_gibibyte_is_read_within_a_few_megabytes(tmp_path):
    class Holes(OsDisk):
        """Spares the system the pages of a file that has none."""

        def preadv(self, fd, buffer, offset):
            return len(buffer)

    path = tmp_path / "sparse"
    size = 1 << 30
    with path.open("wb") as file:
        file.truncate(size)
    source = await open_file(Holes(), Workers(), str(path))
    tracemalloc.start()
    try:
        async with Reading(source) as reader:
            with reader.part(0, 0, size) as part:
                async for _ in part.body():
                    pass
                assert part.digest is not None
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await source.close()
    assert peak < 4 * STEP
