"""The sinks that come with meowcat: JSON lines, webhooks, logging and functions."""

import base64
import errno
import fcntl
import functools
import io
import json
import logging
import os
import re
import threading

import anyio
import anyio.to_thread
import httpx
import pytest
from werkzeug import Response

import meowcat
from meowcat import sinks
from meowcat.core import events as ev
from meowcat.core.machine import State
from meowcat.core.transfers import Download
from meowcat.core.values import Fault, FaultKind
from meowcat.sinks.json_lines import JSONLines
from meowcat.transfer.disk import OsDisk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER = "whsec_" + base64.b64encode(KEY[::-1]).decode()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def events(*seqs: int) -> list[meowcat.LoggedEvent]:
    request = Download("https://host/x?token=***0a1b2c3d", "/srv/x", needs=("url",))
    kinds = {
        1: ev.Created(state=State.QUEUED, task="T", key="/srv/x", at=0, request=request),
        2: ev.Admitted(state=State.PREPARING, run=1),
        3: ev.Failed(state=State.FAILED, fault=Fault(kind=FaultKind.STATUS, detail="404", status=404)),
    }
    return [
        meowcat.LoggedEvent(
            position=seq, task="T", seq=seq, epoch=1, at=1_700_000_000_123, event=kinds.get(seq, kinds[2])
        )
        for seq in seqs
    ]


def lines(path) -> list[int]:
    """The `seq` of each line of a file, which is read as strictly as can be."""
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line)["seq"] for line in text.splitlines()]


# The JSON form


def test_the_json_form_has_these_names():
    known = sinks.event_object(events(2)[0])
    assert known == {
        "id": "T-2",
        "task": "T",
        "seq": 2,
        "position": 2,
        "epoch": 1,
        "at": "2023-11-14T22:13:20.123Z",
        "type": "admitted",
        "state": "Preparing",
        "event": {"type": "admitted", "state": "Preparing", "run": 1},
    }


# JSON lines


async def test_each_event_is_a_line(tmp_path):
    sink = JSONLines(tmp_path / "events.jsonl")
    await sink.deliver(events(1, 2))
    await sink.deliver(events(3))
    assert lines(tmp_path / "events.jsonl") == [1, 2, 3]


@pytest.mark.parametrize("cut", range(1, 60))
async def test_a_line_that_a_crash_tore_is_cut_off(tmp_path, cut):
    path = tmp_path / "events.jsonl"
    await JSONLines(path).deliver(events(2, 3))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] if cut < 50 else whole[: cut - 49])
    await JSONLines(path).deliver(events(3))
    assert lines(path) == ([2, 3] if cut < 50 else [3])


@pytest.mark.parametrize(
    "text", ['{"name": "config"}', '{"name": 1,\n "x": 2}', "x", '[\n{"id":"T-1"}', '{"id":"a"}\nx']
)
async def test_a_file_that_holds_something_else_is_left_alone(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(meowcat.SinkError, match="left as it is"):
        await JSONLines(path).deliver(events(1))
    assert path.read_text() == text


class FullDisk(OsDisk):
    """Takes `room` bytes more, in small pieces, and syncs as it is told to."""

    room = 10**9
    sync_fails = False

    def pwrite(self, fd, data, offset):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(self.room, len(data), 100)
        self.room -= taken
        return super().pwrite(fd, data[:taken], offset)

    def fdatasync(self, fd):
        if self.sync_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(fd)


async def test_a_full_disk_leaves_no_copies_behind(tmp_path, monkeypatch):
    disk = FullDisk()
    monkeypatch.setattr("meowcat.sinks.json_lines.OsDisk", lambda: disk)
    path = tmp_path / "events.jsonl"
    sink = JSONLines(path)
    await sink.deliver(events(1))
    disk.room = 350
    for _ in range(5):
        with pytest.raises(OSError, match="No space"):
            await sink.deliver(events(2, 3, 4, 5))
        disk.room = 350
    assert lines(path) == [1]
    disk.room, disk.sync_fails = 10**9, True
    with pytest.raises(OSError, match="error"):
        await sink.deliver(events(2, 3, 4, 5))
    disk.sync_fails = False
    await sink.deliver(events(2, 3, 4, 5))
    assert lines(path) == [1, 2, 3, 4, 5]


async def test_a_file_that_somebody_else_is_writing_is_left_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    with path.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(meowcat.SinkError, match="somebody else"):
            await JSONLines(path).deliver(events(1))
    await JSONLines(path).deliver(events(1))
    assert lines(path) == [1]


async def test_a_file_that_was_renamed_away_is_begun_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    sink = JSONLines(path)
    await sink.deliver(events(1))
    path.rename(tmp_path / "events.jsonl.1")
    await sink.deliver(events(2))
    assert (lines(tmp_path / "events.jsonl.1"), lines(path)) == ([1], [2])


@pytest.mark.parametrize("kind", [io.StringIO, io.BytesIO])
async def test_a_stream_of_text_or_bytes_will_do(kind):
    stream = kind()
    await JSONLines(stream).deliver(events(1, 2))
    assert [json.loads(line)["seq"] for line in stream.getvalue().splitlines()] == [1, 2]
    assert not stream.closed


class Narrow(io.RawIOBase):
    """A raw stream that takes a few bytes at once, as one does whose disk is nearly full."""

    def __init__(self, room):
        self.taken = b""
        self.room = room

    def writable(self):
        return True

    def write(self, data):
        part = bytes(data[: min(7, self.room - len(self.taken))])
        self.taken += part
        return len(part) or None


async def test_a_raw_stream_that_takes_a_part_gets_the_rest_too():
    stream = Narrow(room=1 << 20)
    await JSONLines(stream).deliver(events(1, 2))
    assert [json.loads(line)["seq"] for line in stream.taken.splitlines()] == [1, 2]


async def test_what_a_raw_stream_does_not_take_is_not_delivered():
    with pytest.raises(meowcat.SinkError, match="takes nothing"):
        await JSONLines(Narrow(room=100)).deliver(events(1, 2))


async def test_a_call_for_which_there_was_no_thread_is_in_nobodys_way(monkeypatch):
    got = []
    sink = sinks.callback(got.append)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refusing)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await sink.deliver(events(1))
    with anyio.fail_after(20):
        await sink.deliver(events(1))
    assert [event.seq for event in got] == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_hung_in_a_loop_that_is_gone_holds_up_the_next_one_only_until_it_is_over(backend):
    begun, release, got = threading.Event(), threading.Event(), []

    def take(event):
        if not begun.is_set():
            begun.set()
            release.wait()
        got.append(event.seq)

    sink = sinks.callback(take)

    async def engine_that_closes():
        async with anyio.create_task_group() as group:
            group.start_soon(sink.deliver, events(1))
            await anyio.to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()

    async def next_engine():
        async with anyio.create_task_group() as group:
            group.start_soon(sink.deliver, events(1, 2))
            await anyio.wait_all_tasks_blocked()
            release.set()

    async def within():
        with anyio.fail_after(20):
            await next_engine()

    anyio.run(engine_that_closes, backend=backend)
    anyio.run(within, backend=backend)
    assert got[-1] == 2


def refusing(thread):
    raise RuntimeError("can't start new thread")


def test_what_is_neither_path_nor_stream_is_refused():
    with pytest.raises(meowcat.InvalidArgument, match="expected a path"):
        JSONLines(None)


# Functions


async def test_a_function_gets_one_event_after_the_other_in_a_thread():
    seen = []
    await meowcat.callback(lambda event: seen.append((event.seq, threading.current_thread().name))).deliver(
        events(1, 2)
    )
    assert seen == [(1, "meowcat-sink"), (2, "meowcat-sink")]


async def test_coroutine_functions_of_all_kinds_are_awaited():
    seen = []

    async def function(event):
        await anyio.lowlevel.checkpoint()
        seen.append(event.seq)

    class Object:
        async def __call__(self, event):
            await function(event)

    for each in (function, functools.partial(function), Object()):
        await meowcat.callback(each).deliver(events(1))
    assert seen == [1, 1, 1]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_after_a_failure_only_what_was_not_taken_comes_again(kind):
    seen = []

    def plain(event):
        seen.append(event.seq)
        if seen.count(event.seq) == 1 and event.seq == 3:
            raise RuntimeError("no")

    async def coroutine(event):
        plain(event)

    sink = meowcat.callback(plain if kind == "plain" else coroutine)
    with pytest.raises(RuntimeError):
        await sink.deliver(events(1, 2, 3))
    await sink.deliver(events(1, 2, 3, 4))
    await sink.deliver(events(1))  # of another engine, say: it was forgotten
    assert seen == [1, 2, 3, 3, 4, 1]


async def test_a_coroutine_that_nobody_would_await_is_an_error():
    async def function(event): ...

    with pytest.raises(meowcat.InvalidArgument, match="async def"):
        await meowcat.callback(lambda event: function(event)).deliver(events(1))  # noqa: PLW0108  # the mistake itself
    with pytest.raises(meowcat.InvalidArgument):
        meowcat.callback("print")


async def test_an_abandoned_call_is_over_before_the_next_one_begins():
    entered, release, at_once = threading.Semaphore(0), threading.Event(), []

    def function(event):
        at_once.append(event.seq)
        entered.release()
        release.wait(20)
        at_once.append(-event.seq)

    sink = meowcat.callback(function)
    async with anyio.create_task_group() as group:
        group.start_soon(sink.deliver, events(1, 2))
        await anyio.to_thread.run_sync(entered.acquire)
        group.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        group.start_soon(sink.deliver, events(1, 2))
        await anyio.wait_all_tasks_blocked()
        assert at_once == [1]
        release.set()
    assert at_once == [1, -1, 2, -2]  # the first was taken after all; the second one not while abandoned


async def test_an_exit_in_a_function_is_an_error_of_its_delivery():
    def function(event):
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit"):
        await meowcat.callback(function).deliver(events(1))


# Logging


async def test_events_are_log_records_with_fields(caplog):
    caplog.set_level(logging.INFO)
    await sinks.Logging("app.transfers").deliver(events(1, 3))
    created, failed = caplog.records
    assert (created.levelname, failed.levelname) == ("INFO", "ERROR")
    assert created.name == "app.transfers"
    assert failed.getMessage() == "task T: failed, Failed: 404"
    assert (created.event_id, created.event_type, created.state) == ("T-1", "created", "Queued")
    assert created.event["request"]["to"] == "/srv/x"


async def test_a_session_that_may_be_left_at_a_server_is_a_warning(caplog):
    caplog.set_level(logging.INFO)

    def logged(event):
        return meowcat.LoggedEvent(position=1, task=meowcat.TaskId("T"), seq=1, epoch=1, at=0, event=event)

    left = {"session": "u-1", "committed": False, "detail": "403"}
    await sinks.Logging("app").deliver(
        [
            logged(ev.SessionAborted(state=State.CANCELED, gone=True, **left)),
            logged(ev.SessionAborted(state=State.CANCELED, gone=False, **left)),
            logged(ev.SessionUnopened(state=State.PREPARING, lost=True)),
        ]
    )
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING"]
    assert caplog.records[1].getMessage().endswith("session u-1 may still stand at the server: 403")


# Webhooks


class Receiver:
    """A server that keeps what it is sent, and answers as it is told to."""

    def __init__(self, httpserver) -> None:
        self.url = httpserver.url_for("/hook") + "?token=hunter2"
        self.seen: list[tuple[dict, bytes]] = []
        self.answers: list[Response] = []
        self.changed = threading.Condition()
        httpserver.expect_request("/hook", method="POST").respond_with_handler(self._answer)

    def _answer(self, request):
        with self.changed:
            self.seen.append((dict(request.headers), request.get_data()))
            self.changed.notify_all()
        return self.answers.pop(0) if self.answers else Response(status=204)

    async def has(self, count: int) -> None:
        def wait() -> bool:
            with self.changed:
                return self.changed.wait_for(lambda: len(self.seen) >= count, 20)

        assert await anyio.to_thread.run_sync(wait)

    @property
    def ids(self) -> list[str]:
        return [
            {name.lower(): value for name, value in headers.items()}["webhook-id"] for headers, _ in self.seen
        ]


@pytest.fixture
def receiver(httpserver):
    return Receiver(httpserver)


async def test_a_webhook_is_signed_and_says_what_happened(receiver):
    sink = sinks.Webhook(receiver.url, secret=SECRET, headers={"X-Team": "blue"})
    await sink.deliver(events(1, 2))
    await sink.aclose()
    payloads = [sinks.verify_webhook(headers, body, SECRET) for headers, body in receiver.seen]
    assert [each["type"] for each in payloads] == ["transfer.created", "transfer.admitted"]
    assert payloads[1]["data"] == sinks.event_object(events(2)[0])
    assert payloads[1]["timestamp"] == "2023-11-14T22:13:20.123Z"
    assert receiver.ids == ["T-1", "T-2"]
    assert receiver.seen[0][0]["X-Team"] == "blue"
    assert receiver.seen[0][0]["Content-Type"] == "application/json"


VECTOR = (
    {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    },
    '{"test": 2432232314}',
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
)
"""Made by the scheme's own Python library, standardwebhooks 1.0."""


def test_the_signature_is_that_of_the_standard():
    headers, body, secret = VECTOR
    assert sinks.verify_webhook(headers, body, secret, now=1614265330) == {"test": 2432232314}
    assert sinks.verify_webhook(headers, body.encode(), [OTHER, secret], now=1614265630)


@pytest.mark.parametrize(
    ("change", "body", "secret", "now", "why"),
    [
        ({}, '{"test": 2432232315}', None, 0, "no signature"),
        ({}, None, OTHER, 0, "no signature"),
        ({}, None, None, 301, "301 s"),
        ({}, None, None, -301, "301 s"),
        ({"Webhook-Id": "msg_other"}, None, None, 0, "no signature"),
        ({"Webhook-Timestamp": "1614265331"}, None, None, 0, "no signature"),
        ({"Webhook-Timestamp": "soon"}, None, None, 0, "expected the headers"),
        ({"Webhook-Signature": ""}, None, None, 0, "no signature"),
        ({"Webhook-Signature": "v1a,é v2,x"}, None, None, 0, "no signature"),
    ],
)
def test_a_webhook_that_is_not_what_was_signed_is_refused(change, body, secret, now, why):
    headers, signed, right = VECTOR
    with pytest.raises(meowcat.InvalidSignature, match=why):
        sinks.verify_webhook(headers | change, body or signed, secret or right, now=1614265330 + now)


def test_a_webhook_without_its_headers_is_refused():
    with pytest.raises(meowcat.InvalidSignature, match="webhook-id"):
        sinks.verify_webhook({}, "{}", SECRET)


async def test_while_a_secret_is_changed_both_sign(receiver):
    await sinks.Webhook(receiver.url, secret=[OTHER, SECRET]).deliver(events(2))
    ((headers, body),) = receiver.seen
    assert sinks.verify_webhook(headers, body, SECRET)
    assert sinks.verify_webhook(headers, body, OTHER)


async def test_a_webhook_that_failed_goes_on_where_it_stopped(receiver):
    sink = sinks.Webhook(receiver.url, secret=KEY)
    receiver.answers = [Response(status=204), Response(status=500)]
    with pytest.raises(meowcat.SinkError, match="answered 500") as failed:
        await sink.deliver(events(1, 2, 3))
    assert not isinstance(failed.value, meowcat.RetryLater)
    await sink.deliver(events(1, 2, 3))
    assert receiver.ids == ["T-1", "T-2", "T-2", "T-3"]
    await sink.aclose()


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Response(status=429, headers={"Retry-After": "120"}), 120),
        (Response(status=503, headers={"Retry-After": "0"}), 1),
        (Response(status=410), 3600),
    ],
)
async def test_a_receiver_says_when_to_come_again(receiver, answer, seconds):
    sink = sinks.Webhook(receiver.url, secret=KEY)
    receiver.answers = [answer]
    with pytest.raises(meowcat.RetryLater) as later:
        await sink.deliver(events(2))
    assert later.value.seconds == seconds
    await sink.aclose()


async def test_a_redirect_is_a_failure_and_not_followed(receiver, httpserver):
    receiver.answers = [Response(status=307, headers={"Location": httpserver.url_for("/elsewhere")})]
    sink = sinks.Webhook(receiver.url, secret=KEY)
    with pytest.raises(meowcat.SinkError, match="answered 307"):
        await sink.deliver(events(2))
    assert len(httpserver.log) == 1
    await sink.aclose()


async def test_only_the_types_that_are_asked_for_are_sent(receiver):
    sink = sinks.Webhook(receiver.url, secret=KEY, types=["failed", "completed"])
    await sink.deliver(events(1, 2, 3))
    assert receiver.ids == ["T-3"]
    await sink.aclose()


async def test_a_silent_receiver_is_given_up(receiver, httpserver):
    release = threading.Event()

    def silent(request):
        release.wait(20)
        return Response(status=204)

    httpserver.expect_request("/silent").respond_with_handler(silent)
    sink = sinks.Webhook(httpserver.url_for("/silent"), secret=KEY, timeout=0.1)
    try:
        with anyio.fail_after(15), pytest.raises(meowcat.SinkError):  # it answers later
            await sink.deliver(events(2))
    finally:
        release.set()
    await sink.aclose()


async def test_a_webhook_shows_no_secret(receiver, caplog):
    caplog.set_level(logging.DEBUG)
    sink = sinks.Webhook(receiver.url, secret=SECRET)
    receiver.answers = [Response(status=500)]
    with pytest.raises(meowcat.SinkError) as failed:
        await sink.deliver(events(2))
    await sink.aclose()
    unreachable = sinks.Webhook("http://user:hunter2@127.0.0.1:9/x?token=hunter2", secret=SECRET)
    with pytest.raises(meowcat.SinkError) as lost:
        await unreachable.deliver(events(2))
    await unreachable.aclose()
    logged = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]  # the server
    assert any("POST http://localhost" in each for each in logged)
    said = f"{failed.value} {lost.value} {sink!r} {unreachable!r} {logged}"
    assert "127.0.0.1:9" in str(lost.value)
    assert "hunter2" not in said
    assert SECRET.removeprefix("whsec_") not in said
    assert lost.value.__cause__ is None


async def test_an_httpx_client_of_ones_own_is_used_and_stays_open(receiver):
    async with httpx.AsyncClient(headers={"X-Client": "mine"}) as client:
        sink = sinks.Webhook(receiver.url, secret=KEY, client=client)
        await sink.deliver(events(2))
        await sink.aclose()
        assert not client.is_closed
    assert receiver.seen[0][0]["X-Client"] == "mine"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"url": "ftp://host/x"}, "http or https"),
        ({"secret": "hunter2-hunter2-hunter2"}, "whsec_"),
        ({"secret": "whsec_!!"}, "no base64"),
        ({"secret": b"hunter2"}, "at least 24 bytes"),
        ({"secret": []}, "at least one"),
        ({"headers": {"bad name": "x"}}, "header"),
        ({"headers": {"X": "a\nb"}}, "header"),
        ({"timeout": 0}, "timeout"),
        ({"types": ["complete"]}, "completed"),
        ({"types": "completed"}, "list"),
    ],
)
def test_what_makes_no_webhook_is_refused_without_showing_a_secret(change, why):
    arguments = {"url": "https://host/hook", "secret": SECRET} | change
    with pytest.raises(meowcat.InvalidArgument, match=re.escape(why)) as refused:
        sinks.Webhook(arguments.pop("url"), **arguments)
    assert "hunter2" not in str(refused.value)


async def test_an_engine_sends_its_webhooks_and_tries_again(tmp_path, receiver):
    receiver.answers = [Response(status=503, headers={"Retry-After": "1"})]
    async with meowcat.Engine(tmp_path / "t.db") as engine:
        await engine.add_sink("hook", sinks.Webhook(receiver.url, secret=SECRET))
        ids = await engine.submit_many([meowcat.Download("https://host/x", str(tmp_path / "x"))], paused=True)
        await receiver.has(2)
    assert receiver.ids == [f"{ids[0]}-1"] * 2
