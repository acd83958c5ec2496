"""What `examples/form_upload_server.py` promises to clients that are not ours, and to its disk."""

import importlib.util
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import httpx
import pytest
from form_harness import SCRIPT, FormServer, md5_of

MIB = 1 << 20
CONTENT = b"0123456789" * 10
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with FormServer(tmp_path_factory.mktemp("uploads"), "--max-chunk", str(4 * MIB)) as running:
        yield running


@pytest.fixture
def content():
    return random.SystemRandom().randbytes(100)


def texts(content, **other):
    return {
        "fileMd5": md5_of(content),
        "fileName": "a.bin",
        "category": "",
        "totalSize": str(len(content)),
    } | {name: str(value) for name, value in other.items()}


def prepare(server, content, **other):
    fields = {name: (None, value) for name, value in texts(content, **other).items()}
    return httpx.post(server.url, files=fields)


def chunk(server, content, start, stop, **other):
    """With the bytes first, as the contract has it."""
    fields = texts(content, **{"offset": start, "partSize": stop - start, **other})
    files = {"file": ("upload_chunk_data", content[start:stop], "application/octet-stream")}
    return httpx.post(server.url, files=files | {name: (None, value) for name, value in fields.items()})


def id_of(content):
    return f"{md5_of(content)}-{len(content)}"


def said(reply):
    return reply.status_code, reply.json()


def test_it_says_what_it_has_and_what_it_made_of_it(server, content):
    assert said(prepare(server, content)) == (200, {"nextByte": 0})
    assert said(chunk(server, content, 0, 60)) == (200, {"nextByte": 60})
    assert said(prepare(server, content)) == (200, {"nextByte": 60})
    assert said(chunk(server, content, 60, 100)) == (200, {"fileId": id_of(content)})
    assert said(prepare(server, content)) == (200, {"fileId": id_of(content)})
    assert said(chunk(server, content, 0, 60)) == (200, {"fileId": id_of(content)})
    got = httpx.get(server.url.replace("/upload", f"/files/{id_of(content)}"))
    assert got.content == content


def test_a_chunk_that_comes_again_changes_nothing(server, content):
    for _ in range(3):
        assert said(chunk(server, content, 0, 50)) == (200, {"nextByte": 50})
    assert said(chunk(server, content, 20, 30)) == (200, {"nextByte": 50})


def test_of_a_chunk_that_overlaps_only_the_new_bytes_are_taken(server, content):
    chunk(server, content, 0, 50)
    assert said(chunk(server, content, 30, 100)) == (200, {"fileId": id_of(content)})
    assert server.file(id_of(content)) == content


def test_a_chunk_behind_a_gap_is_refused_with_the_place_that_is_expected(server, content):
    chunk(server, content, 0, 50)
    status, reply = said(chunk(server, content, 51, 100))
    assert (status, reply["nextByte"]) == (409, 50)
    assert said(prepare(server, content)) == (200, {"nextByte": 50})


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"partSize": 49}, "partSize"),
        ({"partSize": "x"}, "partSize"),
        ({"offset": -1}, "offset"),
        ({"offset": "1e3"}, "offset"),
        ({"offset": 51}, "totalSize"),
        ({"totalSize": 49}, "totalSize"),
        ({"totalSize": "9" * 30}, "totalSize"),
        ({"fileMd5": "../../etc/passwd"}, "fileMd5"),
        ({"fileMd5": "0" * 31 + "/"}, "fileMd5"),
        ({"fileName": "x" * 9000}, "fileName"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_contradicts_itself_is_refused_and_leaves_nothing(server, content, other, word):
    status, reply = said(chunk(server, content, 0, 50, **other))
    assert status == 400
    assert word in reply["error"]
    assert said(prepare(server, content)) == (200, {"nextByte": 0})


def test_a_missing_field_is_named(server, content):
    for name in ("fileMd5", "fileName", "totalSize"):
        fields = {each: (None, value) for each, value in texts(content).items() if each != name}
        status, reply = said(httpx.post(server.url, files=fields))
        assert status == 400
        assert name in reply["error"]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"{}", 415),
        ("multipart/form-data; boundary=x", b"", 400),
        ("multipart/form-data; boundary=x", b"nothing of it", 400),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="fileName"\r\n\r\n\xff\r\n--x--\r\n',
            400,
        ),
    ],
)
def test_what_is_no_form_is_refused(server, kind, body, status):
    reply = httpx.post(server.url, content=body, headers={"Content-Type": kind})
    assert reply.status_code == status
    assert reply.json()["error"]


def form(*fields):
    """A body with the boundary `x`."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields
    ]
    return "".join([*parts, "--x--\r\n"]).encode()


def test_a_form_that_is_cut_off_or_says_a_thing_twice_is_refused(server, content):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    fields = list(texts(content).items())
    twice = httpx.post(server.url, headers=kind, content=form(*fields, ("totalSize", "7")))
    assert (twice.status_code, "totalSize" in twice.text) == (400, True)
    cut = httpx.post(server.url, headers=kind, content=form(*fields).removesuffix(b"--\r\n"))
    assert (cut.status_code, "last boundary" in cut.text) == (400, True)
    assert httpx.post(server.url, headers=kind, content=form(*fields)).json() == {"nextByte": 0}


def test_a_chunk_beyond_the_limit_is_refused_after_it_was_read(server):
    content = bytes(6 * MIB)
    status, reply = said(chunk(server, content, 0, 6 * MIB))
    assert status == 413
    assert str(4 * MIB) in reply["error"]


def test_a_wrong_content_is_found_out_and_dropped(server, content):
    status, reply = said(chunk(server, content, 0, 100, fileMd5=EMPTY))
    assert status == 422
    assert md5_of(content) in reply["error"]
    assert said(prepare(server, content, fileMd5=EMPTY)) == (200, {"nextByte": 0})


def test_an_empty_file_is_complete_at_once(server):
    assert said(prepare(server, b"")) == (200, {"fileId": f"{EMPTY}-0"})
    assert said(chunk(server, b"", 0, 0)) == (200, {"fileId": f"{EMPTY}-0"})
    assert server.file(f"{EMPTY}-0") == b""
    assert prepare(server, b"", fileMd5="0" * 32).status_code == 422


def test_names_never_become_paths_and_are_all_remembered(server, content):
    names = ["../../../tmp/x", "/etc/passwd", "a\x00b", "ü\r\n", "x"]
    for name in names:
        chunk(server, content, 0, 100, fileName=name, category=f"<{name}>")
    kept = [(name, category) for id_, name, category in server.names() if id_ == id_of(content)]
    assert kept == [(name, f"<{name}>") for name in names]
    assert sorted(each.name for each in server.folder.iterdir() if each.is_dir()) == ["files", "partial"]


@pytest.mark.parametrize("path", ["/files/x", "/files/..%2Fuploads.db", "/files/" + "0" * 32 + "-5"])
def test_only_finished_files_are_served(server, path):
    assert httpx.get(server.url.replace("/upload", path)).status_code == 404


def test_an_unfinished_file_is_not_served(server, content):
    chunk(server, content, 0, 50)
    assert httpx.get(server.url.replace("/upload", f"/files/{id_of(content)}")).status_code == 404


def test_fields_may_come_before_the_bytes(server, content):
    files = {name: (None, value) for name, value in texts(content, offset=0, partSize=100).items()}
    files["file"] = ("blob", content, "application/octet-stream")
    assert said(httpx.post(server.url, files=files)) == (200, {"fileId": id_of(content)})


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(server, content):
    host, port = server.url.removeprefix("http://").removesuffix("/upload").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nsome bytes'
        )
    assert said(prepare(server, content)) == (200, {"nextByte": 0})


def test_a_large_chunk_is_not_held_in_memory(tmp_path):
    content = bytes(192 * MIB)
    with FormServer(tmp_path) as server:
        prepare(server, content)
        before = resident(server.pid)
        assert said(chunk(server, content, 0, 128 * MIB)) == (200, {"nextByte": 128 * MIB})
        assert resident(server.pid) - before < 24 * MIB


def resident(pid):
    """Bytes, at the most that they ever were."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("how much memory another process has is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_many_uploads_go_on_at_once(server):
    contents = [random.Random(number).randbytes(50_000 + number) for number in range(12)]

    def upload(content):
        prepare(server, content)
        for start in range(0, len(content), 10_000):
            chunk(server, content, start, min(start + 10_000, len(content)))

    threads = [threading.Thread(target=upload, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(server.file(id_of(content)) == content for content in contents)


def test_a_folder_has_one_server(server):
    command = [sys.executable, SCRIPT, "--folder", server.folder, "--port", "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "another server works on it" in done.stderr


def test_what_nobody_goes_on_with_is_dropped_and_what_is_finished_stays(tmp_path, content):
    other = content[::-1]
    with FormServer(tmp_path) as server:
        chunk(server, content, 0, 100)
        chunk(server, other, 0, 50)
    (tmp_path / "partial" / "left by a kill").write_bytes(b"x")
    with FormServer(tmp_path, "--keep", "0") as server:
        assert said(prepare(server, content)) == (200, {"fileId": id_of(content)})
        assert said(prepare(server, other)) == (200, {"nextByte": 0})
        assert list((tmp_path / "partial").iterdir()) == []


# The store alone, at moments that no client can hit


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("form_upload_server_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def opened(example, tmp_path):
    """Opens the store of the test's folder again, as after a kill."""
    stores = []

    def open_again():
        if stores:
            stores.pop().close()
        stores.append(example.Store(tmp_path))
        return stores[0]

    yield open_again
    stores.pop().close()


def put(example, store, content, start, stop, *, damage=b""):
    wish = example.Wish(md5_of(content), len(content), "n", "c", start)
    with store.chunk() as file:
        file.write(damage + content[start + len(damage) : stop])
        return store.take(wish, file, stop - start)


def test_bytes_that_no_number_vouches_for_are_written_over(example, opened, tmp_path):
    store = opened()
    put(example, store, CONTENT, 0, 40)
    with (tmp_path / "partial" / id_of(CONTENT)).open("ab") as file:
        file.write(b"x" * 30)  # of a chunk that a crash cut off
    store = opened()
    assert put(example, store, CONTENT, 40, 100) == {"fileId": id_of(CONTENT)}
    assert (tmp_path / "files" / id_of(CONTENT)).read_bytes() == CONTENT


def test_the_bytes_are_synced_before_the_number_is_stored(example, opened, monkeypatch):
    store, happened = opened(), []
    sync, execute = os.fdatasync, store._execute

    def synced(fd):
        happened.append(f"synced {os.fstat(fd).st_size}")
        sync(fd)

    def executed(text, *values):
        if text.startswith("INSERT INTO uploads"):
            happened.append(f"stored {values[1]}")
        return execute(text, *values)

    monkeypatch.setattr(example.os, "fdatasync", synced)
    monkeypatch.setattr(store, "_execute", executed)
    put(example, store, CONTENT, 0, 40)
    put(example, store, CONTENT, 40, 70)
    assert happened == ["synced 40", "stored 40", "synced 70", "stored 70"]


def test_a_kill_between_the_last_byte_and_the_proof_is_made_good(example, opened, monkeypatch):
    store = opened()
    monkeypatch.setattr(store, "_publish", lambda wish: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        put(example, store, CONTENT, 0, 100)
    wish = example.Wish(md5_of(CONTENT), 100, "n", "c", None)
    assert opened().standing(wish) == {"fileId": id_of(CONTENT)}


def test_a_kill_between_the_proof_and_the_end_is_made_good(example, opened, monkeypatch, tmp_path):
    store = opened()
    monkeypatch.setattr(store, "drop", lambda id_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        put(example, store, CONTENT, 0, 100)
    store = opened()
    wish = example.Wish(md5_of(CONTENT), 100, "n", "c", None)
    assert store.standing(wish) == {"fileId": id_of(CONTENT)}
    assert store.stale(0) == [id_of(CONTENT)]
    store.drop(id_of(CONTENT))
    assert store.standing(wish) == {"fileId": id_of(CONTENT)}
    assert (tmp_path / "files" / id_of(CONTENT)).read_bytes() == CONTENT


def test_a_disk_that_fails_takes_nothing_back(example, opened, monkeypatch):
    store = opened()
    put(example, store, CONTENT, 0, 40)

    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(example.os, "fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            put(example, store, CONTENT, 40, 100)
    assert store.has(id_of(CONTENT)) == 40
    assert put(example, store, CONTENT, 40, 100) == {"fileId": id_of(CONTENT)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full")
def test_a_disk_that_is_full_is_answered_as_such(example):
    class Full:
        def chunk(self):
            return Path("/dev/full").open("wb", buffering=0)

    async def receive():
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc\r\n--x--\r\n'
        return {"type": "http.request", "body": body, "more_body": False}

    async def ask():
        scope = {
            "type": "http",
            "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
        }
        request = example.Request(scope, receive)
        return await example.Server(Full(), MIB, 1).upload(request)

    reply = anyio.run(ask)
    assert reply.status_code == 507
    assert "No space left" in json.loads(reply.body)["error"]


def test_bytes_that_were_not_vouched_for_are_not_in_the_proof(example, opened, monkeypatch):
    store = opened()
    put(example, store, CONTENT, 0, 40)
    execute = store._execute

    def full(text, *values):
        if text.startswith("INSERT INTO uploads"):
            raise sqlite3.OperationalError("database or disk is full")
        return execute(text, *values)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_execute", full)
        with pytest.raises(sqlite3.OperationalError):
            put(example, store, CONTENT, 40, 100, damage=b"on its way")
    assert put(example, store, CONTENT, 40, 100) == {"fileId": id_of(CONTENT)}
