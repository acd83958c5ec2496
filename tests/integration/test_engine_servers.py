"""The engine against Caddy and nginx, TLS of a private authority, HTTP/2, and hosts that come and go."""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import anyio
import pytest

import meowcat
from meowcat.core import events as ev
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.range_server import RangeServer

MIB = 1 << 20
BIG = Content(20 * MIB + 12345)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def big(served) -> Path:
    path = served / "big.bin"
    path.write_bytes(BIG.bytes())
    return path


def config(**changes) -> meowcat.Config:
    base = {"piece_size": MIB, "flush_seconds": 0.02, "connect_timeout": 2.0, "read_timeout": 5.0}
    return meowcat.Config(**(base | changes))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.servers
@pytest.mark.parametrize("name", ["caddy", "nginx", "nginx_without_ranges"])
@pytest.mark.parametrize("probe", ["get", "head"])
async def test_real_servers(request, big, tmp_path, name, probe):
    server = request.getfixturevalue(name)
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        result = await engine.download(
            f"{server.origin}/big.bin",
            tmp_path / "a",
            connections=8,
            probe=probe,
            checksum=f"sha256:{BIG.sha256}",
        )
        assert result.size == BIG.size
    assert sha256(tmp_path / "a") == BIG.sha256


@pytest.mark.servers
@pytest.mark.parametrize("http2", [False, True])
async def test_tls_with_a_private_authority(caddy_tls, big, tmp_path, http2):
    authority = tmp_path / "ca.pem"
    authority.write_bytes(caddy_tls.ca_pem)
    url = f"{caddy_tls.origin}/big.bin"
    settings = config(http2=http2, ca_bundle=str(authority))
    async with meowcat.Engine(tmp_path / "t.db", config=settings) as engine:
        await engine.download(url, tmp_path / "a")
    assert sha256(tmp_path / "a") == BIG.sha256
    async with meowcat.Engine(tmp_path / "t.db", config=config(retries=0)) as engine:
        with pytest.raises(meowcat.TransferFailed) as failed:
            await engine.download(url, tmp_path / "b")
        assert failed.value.code == 106


async def test_an_empty_file_and_one_byte(tmp_path):
    contents = {"/empty": Content(0), "/one": Content(1)}
    with RangeServer(contents) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            for name in ("empty", "one"):
                result = await engine.download(f"{server.origin}/{name}", tmp_path / name)
                assert (tmp_path / name).read_bytes() == contents[f"/{name}"].bytes()
                assert result.size == contents[f"/{name}"].size


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks_and_then_tried_by_one(tmp_path):
    busy = Trouble(status=503, headers=(("Retry-After", "1"),))
    times: list[tuple[float, str]] = []

    def script(seen):
        times.append((time.monotonic(), seen.path))
        return busy if len(times) == 1 else None

    contents = {f"/{name}": Content(1000) for name in "abc"}
    with RangeServer(contents, script=script) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(max_downloads=1)) as engine:
            await engine.submit_many(
                [meowcat.Download(f"{server.origin}/{name}", str(tmp_path / name)) for name in "abc"]
            )
            await engine.drain()
    assert times[1][0] - times[0][0] >= 0.99
    assert sorted(path.name for path in tmp_path.glob("?")) == ["a", "b", "c"]


async def test_a_host_that_goes_away_is_waited_for_and_costs_no_retries(tmp_path, port):
    async with meowcat.Engine(tmp_path / "t.db", config=config(retries=0)) as engine:
        with RangeServer(BIG, rate=8 * MIB, port=port) as server:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            async for progress in task.progress():
                if progress.bytes_done > MIB:
                    break
            await task.pause()
        await task.resume()
        async for progress in task.progress():
            if progress.waiting_for == meowcat.WaitingFor.HOST:
                break
        snapshot = await engine.snapshot()
        assert snapshot.active_downloads == 0
        with RangeServer(BIG, port=port):
            with anyio.fail_after(60):
                await task.result()
    assert sha256(tmp_path / "a") == BIG.sha256


@pytest.fixture
def nobody():
    """The origin of a port that refuses, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_a_host_that_never_answered_fails_by_its_retries(tmp_path, nobody):
    async with meowcat.Engine(tmp_path / "t.db", config=config(retries=1)) as engine:
        with pytest.raises(meowcat.TransferFailed) as failed:
            await engine.download(f"{nobody}/x", tmp_path / "a")
        assert failed.value.code == 106


async def test_content_that_changes_begins_again_and_is_never_mixed(tmp_path):
    other = Content(BIG.size, seed=7)
    with RangeServer(BIG, rate=8 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            async for progress in task.progress():
                if progress.bytes_done > 2 * MIB:
                    break
            server.replace(other)
            await task.pause()
            server.rate.rate = None
            await task.resume()
            await task.result()
            seen = [ev.TAGS[type(event.event)] async for event in task.history()]
    assert sha256(tmp_path / "a") == other.sha256
    assert "restarted" in seen


async def test_the_part_file_removed_in_mid_transfer_is_noticed(tmp_path):
    with RangeServer(BIG, rate=8 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            async for progress in task.progress():
                if progress.bytes_done > MIB:
                    break
            (part,) = tmp_path.glob("a.*.part")
            part.unlink()
            with pytest.raises(meowcat.TransferFailed) as failed:
                await task.result()
            assert failed.value.code == 122
            server.rate.rate = None
            await task.retry()
            await task.result()
    assert sha256(tmp_path / "a") == BIG.sha256


async def test_a_target_that_exists_is_never_overwritten_unasked(tmp_path):
    (tmp_path / "a").write_text("mine")
    with RangeServer(Content(1000)) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            with pytest.raises(meowcat.TransferFailed) as failed:
                await task.result()
            assert failed.value.code == 141
            assert (tmp_path / "a").read_text() == "mine"
            await task.cancel()
            await engine.drain()
            await engine.download(server.url, tmp_path / "a", overwrite="replace")
    assert (tmp_path / "a").read_bytes() == Content(1000).bytes()


async def test_options_given_otherwise_replace_those_of_before_and_nothing_is_fetched_again(
    tmp_path,
):
    with RangeServer(BIG, rate=16 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            async for progress in task.progress():
                if progress.bytes_done > MIB:
                    break
            (tmp_path / "a").write_text("came in between")
            with pytest.raises(meowcat.TransferFailed) as failed:
                await task.result()
            assert failed.value.code == 141
            result = await engine.download(server.url, tmp_path / "a", overwrite="replace")
            assert result.task == task.id
    assert sha256(tmp_path / "a") == BIG.sha256
    assert server.bytes_served() < BIG.size * 1.5  # a connection that is cut short had some on its way


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root and mount(8)")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


async def test_a_full_disk_is_waited_for_and_the_task_goes_on_by_itself(small_disk, tmp_path):
    content = Content(3 * MIB)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MIB))
    with RangeServer(content) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(small_disk / "a")))
            async for progress in task.progress():
                if progress.waiting_for == meowcat.WaitingFor.DISK_SPACE:
                    break
            ballast.unlink()
            with anyio.fail_after(60):
                await task.result()
    assert sha256(small_disk / "a") == content.sha256


async def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path):
    with RangeServer(BIG, rate=32 * MIB) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
            task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
            child = _fork_and_use(engine)
            _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 43
            await task.result()
    assert sha256(tmp_path / "a") == BIG.sha256


def _fork_and_use(engine: meowcat.Engine) -> int:
    import warnings  # noqa: PLC0415  # for this moment only

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # forking a process with threads is the very point
        child = os.fork()
    if child == 0:
        try:
            engine.quarantined()
        except meowcat.EngineForked:
            os._exit(43)
        finally:
            os._exit(1)
    return child


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_failure_that_brought_nothing_leaves_nothing_in_the_way(tmp_path, retries, nobody):
    with RangeServer({"/right": Content(1000)}) as server:
        async with meowcat.Engine(tmp_path / "t.db", config=config(retries=retries)) as engine:
            for url in (f"{server.origin}/wrong", f"{nobody}/x"):
                task = await engine.submit(meowcat.Download(url, str(tmp_path / "a"), key=url))
                with pytest.raises(meowcat.TransferFailed):
                    await task.result()
        async with meowcat.Engine(tmp_path / "other.db", config=config()) as engine:
            await engine.download(f"{server.origin}/right", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == Content(1000).bytes()
    assert not list(tmp_path.glob("*.part"))
