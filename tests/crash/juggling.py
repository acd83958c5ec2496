"""What a process does that does everything at once, and is ended at any moment.

It submits the errands that its journal lacks, meddles with all of them, and says what it asks for, what it
was promised and what it has seen, one a line: `asks <command> <task>`, `done <command> <task>`,
`told <task> <state>`, `event <position> <task> <seq> <type>`. With `"calm"` it sees every errand to its end,
and says what is left.
"""

import asyncio
import errno
import faulthandler
import logging
import os
import random
import signal
import sqlite3
import sys
import threading
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import msgspec

import meowcat
from meowcat.core.events import TAGS
from meowcat.core.values import FaultKind
from meowcat.sinks import JSONLines, event_object
from meowcat.testing.journal import failing_calls

ALL = tuple(meowcat.State)
OPEN = ("Queued", "Preparing", "Running", "Paused", "Failed")
ONES = ["pause"] * 6 + ["resume"] * 8 + ["retry"] * 8 + ["cancel"] + ["limit"] * 2 + ["submit"] * 2
MANY = ["pause_many", "resume_many", "resume_many", "retry_many", "retry_many", "cancel_many"]
LOOKS = ["snapshot", "tasks", "orphans", "history", "checkpoint", "progress", "drain"]
ROUNDS = 8
"""How often a task that fails while all is calm is tried again."""


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def show_tasks():
    """Where each coroutine is, for one who looks for what it waits for."""
    for task in asyncio.all_tasks():
        print(task.get_name(), "cancelling" if task.cancelling() else "", file=sys.stderr)
        waits = task.get_coro()
        while waits is not None:
            frame = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)
            if frame is not None:
                print(
                    f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}",
                    file=sys.stderr,
                )
            waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    sys.stderr.flush()


class Database:
    """A sink that writes down each delivery in one transaction, and fails at times: before, or after it."""

    def __init__(self, path, chance, odds):
        self.path, self.chance, self.odds = path, chance, odds

    async def deliver(self, events):
        drawn = self.chance.random()
        if drawn < self.odds:
            raise OSError("the database is away")
        rows = [
            (each.id, each.task, each.seq, each.position, msgspec.json.encode(event_object(each)))
            for each in events
        ]
        await anyio.to_thread.run_sync(self._write, rows)
        if drawn < 2 * self.odds:
            raise meowcat.RetryLater(0.1, "it was busy, and has them")

    def _write(self, rows):
        with sqlite3.connect(self.path, timeout=30) as database:
            database.executemany("INSERT INTO delivery VALUES (NULL, ?, ?, ?, ?, ?)", rows)
        database.close()


class Juggler:
    def __init__(self, asked):
        self.asked = asked
        self.chance = random.Random(asked["seed"])
        self.errands = {each["label"]: each for each in asked["errands"]}
        self.tasks = {}
        self.folder = Path(asked["folder"])
        self.arming = threading.Lock()

    # What is asked of the engine

    def settings(self, kind):
        at = self.asked["oss"] if "oss" in kind else self.asked["s3"]
        if "oss" in kind:
            return meowcat.AliyunOSS(endpoint=at["endpoint"], region=at["region"], credential="oss")
        return meowcat.S3(endpoint=at["endpoint"], style="path", credential="s3")

    def presigner(self, errand):
        at = self.asked["oss"]
        key = meowcat.AccessKey(id=at["id"], secret=at["secret"])
        return meowcat.Presigner(errand["url"], self.settings("oss"), key)

    def plan(self, errand):
        signer = self.presigner(errand)
        if errand["kind"] == "get presigned":
            return signer.download_plan()
        return signer.upload_plan(
            errand["size"], errand["upload"], part_size=errand["part"], mark=errand["label"]
        )

    def refresh(self, asked):
        for errand in self.errands.values():
            if "presigned" in errand["kind"] and errand["url"].rpartition("/")[2] in asked.fingerprint.object:
                return self.plan(errand)
        raise LookupError(asked.fingerprint.object)

    def request(self, errand):
        kind, options = errand["kind"], dict(errand.get("options", {}))
        options["client_file_sign"] = errand["label"]
        if kind == "get":
            return meowcat.Download(errand["url"], errand["to"], **options)
        if kind == "get presigned":
            protocol = meowcat.PresignedDownload(self.plan(errand), refresher="back end")
            return meowcat.Download("", errand["to"], protocol=protocol, **options)
        if kind.startswith("get "):
            return meowcat.Download(errand["url"], errand["to"], protocol=self.settings(kind), **options)
        if kind == "put form":
            protocol = meowcat.FormUpload()
        elif kind == "put presigned":
            protocol = meowcat.PresignedUpload(plan=self.plan(errand), refresher="back end")
            return meowcat.Upload(errand["file"], "", protocol, **options)
        else:
            protocol = self.settings(kind)
        return meowcat.Upload(errand["file"], errand["url"], protocol, **options)

    # Living

    def engine(self):
        chance, asked = self.chance, self.asked
        keys = {
            name: meowcat.AccessKey(id=asked[name]["id"], secret=asked[name]["secret"])
            for name in ("oss", "s3")
            if name in asked
        }
        config = meowcat.Config(
            max_downloads=chance.choice([1, 2, 4, 8]),
            max_uploads=chance.choice([1, 2, 4]),
            max_per_host=chance.choice([None, None, 1, 3]),
            connections=chance.choice([None, 1, 3, 8]),
            durability=chance.choice(["power", "process"]),
            retries=20 if asked["calm"] else chance.choice([0, 1, 5]),
            prepare_retries=20 if asked["calm"] else chance.choice([0, 3]),
            limit_rate=None if asked["calm"] else chance.choice([None, None, 3 << 20]),
            limit_rate_per_host=None if asked["calm"] else chance.choice([None, None, 2 << 20]),
            queue_capacity=chance.choice([4, 128]),
            flush_seconds=chance.choice([0.02, 0.25]),
            flush_bytes=chance.choice([1 << 20, 64 << 20]),
            max_in_flight=chance.choice([2 << 20, 512 << 20]),
            read_timeout=2.5,
            connect_timeout=5,
        )
        restart = "resume" if asked["calm"] else chance.choice(["resume", "resume", "ask", "pause"])
        if restart == "ask":
            restart = self.goes_on
        audit = None
        if asked["audit"] is not None:
            audit = meowcat.Audit(asked["audit"]["key"], checkpoints=asked["audit"]["checkpoints"])
        client = httpx.AsyncClient(timeout=2.5) if chance.random() < 0.25 else None
        return meowcat.Engine(
            asked["journal"],
            config=config,
            on_restart=restart,
            credentials=keys,
            refreshers={"back end": self.refresh},
            http_client=client,
            audit=audit,
        )

    def goes_on(self, _):
        return self.chance.random() < 0.7

    def listen(self, info):
        if info.state in ("Complete", "Canceled"):
            say("told", info.id, info.state)
        drawn = random.random()
        if drawn < 0.02:
            raise RuntimeError("a listener of no use")
        if drawn < 0.04:
            threading.Event().wait(0.05)

    async def begin(self, engine):
        """Submit what the journal lacks, and once more what it has: as a script that is run again."""
        async for info in engine.tasks(state=ALL):
            self.tasks[info.client_file_sign] = info.id
        states = {info.client_file_sign: info.state async for info in engine.tasks(state=ALL)}
        missing = [each for label, each in self.errands.items() if label not in states]
        there = [each for label, each in self.errands.items() if states.get(label) in OPEN]
        self.chance.shuffle(missing)
        cut = self.chance.randrange(len(missing) + 1)
        async with anyio.create_task_group() as group:
            group.start_soon(self.submit_many, engine, missing[:cut])
            for errand in missing[cut:]:
                group.start_soon(self.submit, engine, errand)
            for errand in there:
                if self.asked["calm"] or errand.get("secret") or self.chance.random() < 0.3:
                    group.start_soon(self.submit, engine, errand)

    async def submit(self, engine, errand):
        paused = not self.asked["calm"] and self.chance.random() < 0.15
        with suppress(meowcat.DuplicateTask, meowcat.TaskNotFound):
            task = await engine.submit(self.request(errand), paused=paused)
            self.note(errand["label"], task.id)

    async def submit_many(self, engine, errands):
        if errands:
            for errand, task in zip(
                errands, await engine.submit_many(map(self.request, errands)), strict=True
            ):
                self.note(errand["label"], task)

    def note(self, label, task):
        self.tasks[label] = task
        say("done", "created", task)

    async def follow(self, engine):
        seen = self.asked["seen"]
        while True:
            with suppress(meowcat.JournalError):  # calls fail on purpose: it may not be readable for a moment
                async for event in engine.events(after=seen):
                    say("event", event.position, event.task, event.seq, TAGS[type(event.event)])
                    seen = event.position
            await anyio.sleep(0.05)

    async def meddle(self, engine):
        chance = self.chance
        while True:
            await anyio.sleep(chance.choice([0, 0.01, 0.1, 0.3, 0.8]))
            with anyio.move_on_after(chance.choice([0.001, 0.05, 20, 20])), suppress(meowcat.MeowcatError):
                drawn = chance.random()
                if drawn < 0.6 and self.tasks:
                    await self.one(engine, chance.choice(ONES), chance.choice(list(self.tasks.items())))
                elif drawn < 0.75:
                    await self.many(engine, chance.choice(MANY))
                elif drawn < 0.95:
                    await self.look(engine, chance.choice(LOOKS))
                else:
                    await self.other(engine)

    async def one(self, engine, name, errand):
        label, task = errand
        if name == "submit":
            info = (await engine.task(task)).info
            if info.state in OPEN:
                await self.submit(engine, self.errands[label])
        elif name == "limit":
            await engine.set_limit_rate(self.chance.choice([None, 500_000]), task=task)
        else:
            say("asks", name, task)
            await getattr(engine, name)(task)
            say("done", name, task)

    async def many(self, engine, name):
        chance = self.chance
        if name == "cancel_many" and chance.random() < 0.95:
            return
        states = {"cancel_many": [["Failed"]], "pause_many": [None, ["Queued"], ["Running"]]}
        options = {"state": chance.choice(states.get(name, [None]))}
        if chance.random() < 0.5:
            options["direction"] = chance.choice(["download", "upload"])
        say("asks", name, "all")
        for task in await getattr(engine, name)(**options):
            say("done", name.removesuffix("_many"), task)

    async def look(self, engine, name):
        if name == "tasks":
            async for _ in engine.tasks(state=self.chance.choice([None, ALL])):
                pass
        elif name == "history" and self.tasks:
            async for _ in engine.history(self.chance.choice(list(self.tasks.values()))):
                pass
        elif name == "progress" and self.tasks:
            task = await engine.task(self.chance.choice(list(self.tasks.values())))
            async for _ in task.progress():
                pass
        elif name == "checkpoint" and self.asked["audit"] is not None:
            await engine.checkpoint()
        elif name in ("snapshot", "orphans", "drain"):
            await getattr(engine, name)()

    async def other(self, engine):
        chance = self.chance
        if chance.random() < 0.5:
            await engine.set_limit_rate(chance.choice([None, None, 1 << 20, 8 << 20]))
        else:
            listening = engine.add_listener(self.listen)
            await anyio.sleep(0.1)
            listening.close()

    async def trip(self):
        """Calls of the operating system fail for a while: in the folder of the journal, or in that of the
        targets."""
        chance = self.chance
        while True:
            await anyio.sleep(chance.uniform(0.2, 2.0))
            folder = Path(chance.choice(self.asked["trips"]))
            code = chance.choice([errno.ENOSPC, errno.ENOSPC, errno.EIO])
            lasting = code == errno.ENOSPC
            with failing_calls.armed(folder, chance.randrange(1, 20), code, lasting=lasting) as failure:
                await anyio.sleep(chance.choice([0.05, 0.3, 1.0]))
            say("tripped", folder.name, errno.errorcode[code], failure.happened)

    # Ending

    async def settle(self, engine):
        """See every errand to its end."""
        await engine.set_limit_rate(None)
        for _ in range(ROUNDS):
            async for info in engine.tasks():
                with suppress(meowcat.TaskNotFound):
                    await engine.set_limit_rate(None, task=info.id)
            await engine.resume_many()
            async for info in engine.tasks(state=["Canceled"]):
                if info.waiting_for is meowcat.WaitingFor.SUPPLY:  # killed before its session was removed
                    errand = self.errands[info.client_file_sign]
                    secret = {"url": errand["url"], "headers": errand.get("options", {}).get("headers")}
                    await engine.supply(info.id, **secret)
            await engine.drain()
            left = [info async for info in engine.tasks(state=OPEN)]
            if not left:
                break
            for info in left:
                say(
                    "left", info.client_file_sign, info.state, info.waiting_for, repr(info.fault), info.reason
                )
                errand = self.errands[info.client_file_sign]
                again = info.fault is not None and info.fault.kind is FaultKind.TARGET_EXISTS
                with suppress(meowcat.TaskNotFound, meowcat.InvalidTaskState):
                    if info.state == "Failed" and (errand.get("may_fail") or again):
                        await self.one(engine, "cancel", (info.client_file_sign, info.id))
                    elif info.state == "Failed":
                        await engine.retry(info.id)
        await engine.drain()
        await self.delivered(engine)
        snapshot = await engine.snapshot()
        say("snapshot", msgspec.json.encode(snapshot).decode())
        for orphan in await engine.orphans():
            say("orphan", orphan.task, orphan.session, orphan.ours, orphan.detail)

    async def delivered(self, engine):
        """Wait until the sinks have everything."""
        while any(each.attached and each.lag for each in (await engine.snapshot()).sinks.values()):  # noqa: ASYNC110  # a cursor moves without an event
            await anyio.sleep(0.05)

    async def live(self):
        asked = self.asked
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(self.engine())
            odds = 0 if asked["calm"] else 0.1
            await engine.add_sink("database", Database(asked["sink"], random.Random(asked["seed"]), odds))
            await engine.add_sink("lines", JSONLines(asked["lines"], sync=False))
            engine.add_listener(self.listen)
            group = await stack.enter_async_context(anyio.create_task_group())
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, show_tasks)
            group.start_soon(self.stop, group)
            group.start_soon(self.follow, engine)
            say("ready")
            if asked["calm"]:
                await self.begin(engine)
                await self.settle(engine)
                group.cancel_scope.cancel()
            else:
                if asked["trips"]:
                    group.start_soon(self.trip)
                for _ in range(4):
                    group.start_soon(self.meddle, engine)
                await self.begin(engine)
                await anyio.sleep_forever()
        say("ended")

    async def stop(self, group):
        """SIGTERM ends the life in good order."""
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                say("stopping")
                group.cancel_scope.cancel()


def live(asked, output, errors):
    """The life of a process that was made for it; its standard output and error go to these."""
    os.dup2(output.fileno(), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    output.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, 2, all_threads=True)
    logging.basicConfig(filename=asked["log"], level=logging.DEBUG)
    try:
        anyio.run(Juggler(asked).live)
    except KeyboardInterrupt:
        say("interrupted")
