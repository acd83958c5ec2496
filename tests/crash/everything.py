"""The world of `juggling.py`: servers in trouble, errands of all kinds, and what holds after each life."""

import gzip
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path

import anyio
import boto3
import httpx
import juggling
import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError
from form_harness import FormServer
from oss_server import OSSServer
from proxy import Proxy

import meowcat
from meowcat.audit import Key, verify_journal
from meowcat.control.client import connect
from meowcat.control.messages import Cancel, Pause, Resume, Retry
from meowcat.core.state import evolve
from meowcat.journal.checkup import check
from meowcat.journal.contract import Owner
from meowcat.journal.locate import locate
from meowcat.journal.logged import event_object, logged
from meowcat.journal.replay import Fold
from meowcat.testing.content import Content
from meowcat.testing.exchanges import Trouble
from meowcat.testing.journal import failing_calls
from meowcat.testing.range_server import RangeServer
from meowcat.testing.s3_servers import SeaweedFS
from meowcat.testing.servers import ServerMissing

FORKS = multiprocessing.get_context("forkserver")
"""Each life is a process of its own, of which the imports alone were done before: they take a second."""
MIB = 1 << 20
CANARY = "c0ffee-Canary-of-a-token"
AUTHORIZATION = "Bearer c0ffee-Canary-of-a-header"
SINK = """CREATE TABLE delivery (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, task TEXT, seq INTEGER, position INTEGER, body BLOB
)"""
DONE = {
    "created": "created",
    "pause": "paused",
    "resume": "resumed",
    "cancel": "canceled",
    "retry": "retried",
}
ORDERS = {Pause: "pause", Resume: "resume", Retry: "retry", Cancel: "cancel"}
MOST_FILES, MOST_THREADS = 250, 120
PATIENCE = 240
"""Seconds within which a calm life has to end."""


class Life:
    """One process, and what it has said."""

    def __init__(self, asked, folder, number):
        self.errors = folder / f"errors-{number}.txt"
        self.errors.touch()
        reading, writing = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=juggling.live, args=(asked, writing, str(self.errors)))
        self.process.start()
        writing.close()
        self.lines = []
        self.changed = threading.Condition()
        self.output = os.fdopen(os.dup(reading.fileno()), encoding="utf-8")
        reading.close()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.files = self.threads = 0

    def _read(self):
        with self.output:
            for line in self.output:
                with self.changed:
                    self.lines.append(line)
                    self.changed.notify_all()
        with self.changed:
            self.reader_done = True
            self.changed.notify_all()

    reader_done = False
    ended_by = None

    def wait_ready(self):
        """Whether it got so far."""
        with self.changed:
            self.changed.wait_for(lambda: "ready\n" in self.lines or self.reader_done, 60)
            return "ready\n" in self.lines

    def measure(self):
        with suppress(OSError):
            proc = Path(f"/proc/{self.process.pid}")
            self.files = max(self.files, len(list((proc / "fd").iterdir())))
            self.threads = max(self.threads, len(list((proc / "task").iterdir())))

    def run_for(self, seconds):
        """Whether it has ended by itself then."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.measure()
            self.process.join(min(left, 0.2))
            if not self.process.is_alive():
                return True
        return False

    def send(self, number):
        if number not in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGSTOP, signal.SIGCONT):
            self.ended_by = self.ended_by or number
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self, seconds):
        """Wait for its end: one that has not ended by then hangs, and tells where."""
        if not self.run_for(seconds):
            dump, ended_by = self.dump(), self.ended_by
            self.send(signal.SIGKILL)
            self.process.join()
            self.reader.join()
            said, errors = "".join(self.lines[-40:]), self.errors.read_text()[-20000:]
            raise AssertionError(f"it hangs after signal {ended_by}\n{said}\n{dump}\n{errors}")
        self.reader.join()
        return self.process.exitcode

    def dump(self):
        self.send(signal.SIGUSR2)
        time.sleep(1)
        self.send(signal.SIGUSR1)
        time.sleep(1)
        if shutil.which("py-spy") is None:
            return ""
        command = ["py-spy", "dump", "--pid", str(self.process.pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def kill(self):
        if self.process.is_alive():
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            self.process.join()
        self.reader.join()

    @property
    def said(self):
        return [line.rstrip("\n").split(" ") for line in self.lines if line.endswith("\n")]


class Servers:
    """For any number of seeds: they take seconds to start. Each seed has a prefix for its objects."""

    def __init__(self, folder):
        self.folder = folder
        self.stack = ExitStack()

    def __enter__(self):
        enter = self.stack.enter_context
        for name in ("oss", "s3"):
            (self.folder / name).mkdir(parents=True)
        self.oss = enter(OSSServer(self.folder / "oss"))
        self.oss_proxy = enter(Proxy(self.oss.origin))
        self.form = enter(FormServer(self.folder / "form"))
        self.form_proxy = enter(Proxy(self.form.url.rsplit("/", 1)[0]))
        self.proxies = [self.oss_proxy, self.form_proxy]
        self.s3 = None
        with suppress(ServerMissing):
            SeaweedFS.find()
            self.s3 = enter(SeaweedFS(self.folder / "s3"))
            self.s3_proxy = enter(Proxy(self.s3.origin))
            self.proxies.append(self.s3_proxy)
            self.client = boto3.client(
                "s3",
                endpoint_url=self.s3.origin,
                aws_access_key_id=self.s3.key.id,
                aws_secret_access_key=self.s3.key.secret,
                region_name="us-east-1",
                config=Config(s3={"addressing_style": "path"}),
            )
        self.tripping = ""
        with suppress(RuntimeError):
            self.tripping = failing_calls.environment(self.folder)["LD_PRELOAD"]
        before = os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = self.tripping
        FORKS.set_forkserver_preload(["juggling"])
        try:
            forkserver.ensure_running()
        finally:
            os.environ.pop("LD_PRELOAD")
            if before is not None:
                os.environ["LD_PRELOAD"] = before
        return self

    def __exit__(self, *exc):
        self.stack.close()
        forkserver._forkserver._stop()

    def object(self, kind, name):
        if kind in ("put oss", "put presigned"):
            return self.oss.content(name)
        if kind == "put s3":
            try:
                return self.client.get_object(Bucket="bucket", Key=name)["Body"].read()
            except ClientError:
                return None
        ids = [id_ for id_, known, _ in self.form.names() if known == name]
        return self.form.file(ids[0]) if ids else None

    def sessions(self, prefix):
        """Uploads that are neither complete nor aborted."""
        found = [(each["name"], each["id"]) for each in self.oss.ask("uploads", bucket=self.oss.bucket)]
        if self.s3 is not None:
            listed = self.client.list_multipart_uploads(Bucket="bucket").get("Uploads", ())
            found += [(each["Key"], each["UploadId"]) for each in listed]
        return [each for each in found if each[0].startswith(prefix)]


def by_label(tasks):
    """The tasks of each errand, in the order of their creation."""
    found = defaultdict(list)
    for task in tasks.values():
        found[task.request.client_file_sign].append(task)
    return found


class Everything:
    def __init__(self, folder, seed, servers, *, journal="db", scale=1.0, log=print):
        self.folder, self.seed, self.log, self.servers = folder, seed, log, servers
        self.oss, self.s3, self.form = servers.oss, servers.s3, servers.form
        self.cursors = {}
        self.prefix = f"s{seed}-"
        self.chance = random.Random(seed)
        self.journal = folder / "journal" / f"t.{journal}"
        for name in ("journal", "targets", "sources", "sinks", "logs"):
            (folder / name).mkdir()
        self.calm = False
        self.contents = {}
        self.allowed = {}
        self.errands = []
        self.stack = ExitStack()
        self.promised = Counter()
        self.events = {}
        self.told = set()
        self.may_be_canceled = set()
        self.seen = 0
        self.hashes = {}
        self.scale = scale
        self.most = (0, 0)
        self.unsigned = []
        self.presence = {}

    def __enter__(self):
        chance = self.chance
        self.server = self.stack.enter_context(RangeServer(self.contents, rate=12 * MIB))
        self.server.script = self.trouble
        for each in self.servers.proxies:
            each.forget()
            each.before, each.after = self.before, self.after
            each.pause = 0.05
        self.audit = None
        if chance.random() < 0.5:
            key = Key.generate("example.com/log")
            key.save(self.folder / "audit.key")
            self.vkey = key.vkey
            self.audit = {
                "key": str(self.folder / "audit.key"),
                "checkpoints": str(self.folder / "logs/checkpoints"),
            }
        self.tripping = bool(self.servers.tripping) and chance.random() < 0.5
        with sqlite3.connect(self.folder / "sinks/sink.db") as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(SINK)
        database.close()
        self.make_errands()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    # Trouble

    def trouble(self, seen):
        """What the range server does to a request: what its path says, and what happens by chance."""
        kind = seen.path.split("/")[1]
        constant = {
            "noranges": {"ignore_range": True},
            "chunked": {"ignore_range": True, "framing": "chunked"},
            "close": {"ignore_range": True, "framing": "close"},
            "gzip": {"ignore_range": True, "gzip": True},
        }.get(kind, {})
        if kind == "secret" and (
            seen.headers.get("authorization") != AUTHORIZATION or CANARY not in seen.target
        ):
            self.unsigned.append(seen)
            return Trouble(status=401)
        if kind == "redirect":
            return Trouble(status=302, headers=(("Location", seen.path.replace("redirect", "plain")),))
        chance = self.chance
        # A body that ends with its connection is whole when that is closed: nobody can tell.
        ends = ["reset", "stall"] if kind == "close" else ["reset", "close", "stall"]
        drawn = 1.0 if self.calm else chance.random()
        made = [
            (0.03, lambda: Trouble(status=503, headers=(("Retry-After", chance.choice("012")),))),
            (0.02, lambda: Trouble(status=429, headers=(("Retry-After", "1"),))),
            (0.02, lambda: Trouble(status=429)),
            (0.02, lambda: Trouble(status=500)),
            (0.01, lambda: Trouble(status=404)),
            (0.03, lambda: Trouble(before="stall")),
            (0.03, lambda: Trouble(before="reset")),
            (0.02, lambda: Trouble(before="close")),
            (0.08, lambda: Trouble(**constant, after=chance.randrange(1, 400_000), then=chance.choice(ends))),
            (0.01 if "range" in seen.headers else 0, lambda: Trouble(multipart=True)),
            (0.03, lambda: Trouble(**constant, rate=chance.choice([20_000, 300_000]))),
            (0.03 if kind == "sum" else 0, lambda: Trouble(shift=1)),
        ]
        for odds, make in made:
            drawn -= odds
            if drawn < 0:
                return make()
        return Trouble(**constant) if constant else None

    def before(self, passed):
        drawn = 1.0 if self.calm else self.chance.random()
        if drawn < 0.03:
            raise ConnectionError
        if drawn < 0.05:
            return 503, {"Retry-After": self.chance.choice("012")}
        if drawn < 0.06:
            return 500, {}
        return None

    def after(self, passed):
        if not self.calm and self.chance.random() < 0.03:
            raise ConnectionError

    # Errands

    def size(self):
        chance = self.chance
        kinds = [(0, 1), (1, 2000), (2000, 300_000), (300_000, 2 * MIB), (2 * MIB, 8 * MIB)]
        return chance.randrange(*chance.choices(kinds, [1, 3, 5, 4, 3])[0])

    def make_errands(self):
        chance = self.chance
        kinds = (
            ["plain"] * 6
            + ["secret"] * 2
            + [
                "weak",
                "none",
                "lm",
                "noranges",
                "chunked",
                "close",
                "gzip",
                "kept",
                "change",
                "change",
                "missing",
                "redirect",
                "sum",
                "sum",
                "old",
            ]
        )
        for n in range(int(22 * self.scale)):
            self.make_get(n, chance.choice(kinds))
        puts = ["form", "form", "oss", "oss", "presigned", "presigned"] + ["s3", "s3"] * (self.s3 is not None)
        for n in range(int(12 * self.scale)):
            self.make_put(n, chance.choice(puts))
        for n in range(int(4 * self.scale)):
            self.make_object_get(n, chance.choice(["oss", "presigned"] + ["s3"] * (self.s3 is not None)))
        chance.shuffle(self.errands)

    def options(self):
        chance = self.chance
        found = {"priority": chance.choice([0, 0, 0, 5, -5])}
        if chance.random() < 0.2:
            found["connections"] = chance.choice([1, 2, 6])
        if chance.random() < 0.2:
            found["limit_rate"] = chance.choice([300_000, 2 * MIB])
        if chance.random() < 0.2:
            found["retries"] = chance.choice([0, 1, 50])
        return found

    def make_get(self, n, kind):
        chance = self.chance
        label = f"{self.prefix}get-{n}-{kind}"
        path = f"/{'gzip' if kind == 'kept' else kind}/{n}"
        etag = {"weak": "weak", "none": None, "lm": None}.get(kind, "strong")
        # One that changes is large enough for a change to find half of it there.
        size = chance.randrange(2 * MIB, 6 * MIB) if kind == "change" else self.size()
        content = Content(
            size,
            seed=self.seed * 1000 + n,
            etag=etag,
            modified=None if kind == "none" else 1_700_000_000,
        )
        if kind == "redirect":
            self.contents[f"/plain/{n}"] = content
        elif kind != "missing":
            self.contents[path] = content
        to = self.folder / "targets" / f"{label}.bin"
        errand = {"label": label, "kind": "get", "url": self.server.origin + path, "to": str(to)}
        errand["options"] = self.options() | {"piece_size": chance.choice([None, 65536, 300_000])}
        if chance.random() < 0.2:
            errand["options"]["probe"] = "head"
        if kind == "sum":
            errand["options"]["checksum"] = f"sha256:{content.sha256}"
        elif chance.random() < 0.3:
            errand["options"]["digest"] = chance.choice(["sha256", "md5", "crc32c"])
        self.allowed[label] = {content.sha256}
        self.errands.append(self.with_own(errand, kind, to))

    def with_own(self, errand, kind, to):
        """What only errands of this kind have."""
        options = errand["options"]
        errand["may_fail"] = kind in ("gzip", "missing", "change")
        if kind == "secret":
            errand["url"] += f"?token={CANARY}&X-Amz-Signature={CANARY}"
            options["headers"] = {"Authorization": AUTHORIZATION}
            errand["secret"] = True
        elif kind == "kept":
            options["keep_encoding"] = True
        elif kind == "old":
            to.write_bytes(b"the one of before")
            options["overwrite"] = self.chance.choice(["replace", "replace", "never"])
            errand["may_fail"] = options["overwrite"] == "never"
            errand["before"] = hashlib.sha256(b"the one of before").hexdigest()
        return errand

    def change(self):
        """Another generation of each content that changes."""
        fresh = dict(self.contents)
        for path, content in self.contents.items():
            if path.startswith("/change/") and self.chance.random() < 0.5:
                made = Content(
                    max(1, content.size + self.chance.choice([0, 0, 1, -1, 1000])), seed=content.seed + 100
                )
                (errand,) = [each for each in self.errands if each["url"].endswith(path)]
                self.allowed[errand["label"]].add(made.sha256)
                fresh[path] = made
        self.contents = fresh
        self.server.replace(fresh)

    def source(self, name, size):
        path = self.folder / "sources" / name
        path.write_bytes(random.Random(f"{self.seed}{name}").randbytes(size))
        os.utime(path, (1, 1))
        return path

    def make_put(self, n, kind):
        label = f"{self.prefix}put-{n}-{kind}"
        size = self.size() + (8 * MIB if self.chance.random() < 0.2 else 0) if kind != "form" else self.size()
        path = self.source(label, size)
        options = self.options() | {
            "piece_size": self.chance.choice([MIB * 5, None])
            if kind == "s3"
            else self.chance.choice([MIB, None])
        }
        errand = {"label": label, "kind": f"put {kind}", "file": str(path), "size": size, "options": options}
        errand["url"] = {
            "form": f"{self.servers.form_proxy.origin}/upload?token={CANARY}",
            "oss": f"oss://{self.oss.bucket}/{label}",
            "presigned": f"oss://{self.oss.bucket}/{label}",
            "s3": f"s3://bucket/{label}",
        }[kind]
        if kind == "form":
            options["headers"] = {"Authorization": AUTHORIZATION}
            errand["secret"] = True
        if kind == "presigned":
            del options["piece_size"]
            errand |= {"part": MIB, "upload": ""}
            if size > MIB:
                signer = self.presigner(errand["url"])
                opening = signer.begin(mark=label)
                reply = httpx.request(opening.method, opening.url, headers=opening.headers)
                errand["upload"] = signer.upload_id(reply.content)
        self.allowed[label] = {hashlib.sha256(path.read_bytes()).hexdigest()}
        self.errands.append(errand)

    def presigner(self, url):
        settings = meowcat.AliyunOSS(endpoint=self.oss.origin, region=self.oss.region)
        return meowcat.Presigner(url, settings, self.oss.key)

    def make_object_get(self, n, kind):
        label = f"{self.prefix}got-{n}-{kind}"
        data = random.Random(f"{self.seed}{label}").randbytes(self.size() or 1)
        if kind == "s3":
            assert self.s3.request("PUT", f"/bucket/{label}", data) == 200
            url = f"s3://bucket/{label}"
        else:
            url = f"oss://{self.oss.bucket}/{label}"
            plan = self.presigner(url).upload_plan(len(data))
            httpx.put(plan.parts[0].url, content=data, headers=plan.parts[0].headers).raise_for_status()
        to = self.folder / "targets" / f"{label}.bin"
        self.errands.append(
            {"label": label, "kind": f"get {kind}", "url": url, "to": str(to), "options": self.options()}
        )
        self.allowed[label] = {hashlib.sha256(data).hexdigest()}

    # Lives

    def asked(self, *, calm):
        server = {
            "endpoint": self.servers.oss_proxy.origin,
            "region": self.oss.region,
            "id": self.oss.key.id,
            "secret": self.oss.key.secret,
        }
        found = {
            "journal": str(self.journal),
            "folder": str(self.folder),
            "errands": self.errands,
            "seed": self.chance.randrange(1 << 30),
            "calm": calm,
            "seen": self.seen,
            "sink": str(self.folder / "sinks/sink.db"),
            "lines": str(self.folder / "sinks/lines.jsonl"),
            "log": str(self.folder / "logs/log.txt"),
            "oss": server,
            "audit": self.audit,
            "trips": [str(self.folder / "journal"), str(self.folder / "targets")]
            if self.tripping and not calm
            else [],
        }
        if self.s3 is not None:
            found["s3"] = {
                "endpoint": self.servers.s3_proxy.origin,
                "id": self.s3.key.id,
                "secret": self.s3.key.secret,
            }
        return found

    def life(self, number, *, calm=False):
        self.calm = calm
        chance = self.chance
        life = Life(self.asked(calm=calm), self.folder, number)
        how = "end"
        try:
            if chance.random() < 0.9 or calm:
                ready = life.wait_ready()
                assert ready, life.errors.read_text()[-5000:]
            if calm:
                code = life.end(PATIENCE)
                assert code == 0, life.errors.read_text()[-5000:]
                assert "ended\n" in life.lines
            else:
                how = self.bother(life)
        finally:
            life.kill()
        self.take(life)
        self.log(
            f"life {number}: {how} {life.process.exitcode}, {len(life.lines)} lines, "
            f"{life.files} files, {life.threads} threads"
        )
        for line in life.lines:
            if line.startswith(("left", "double", "orphan", "tripped")):
                self.log("   ", line.rstrip())
        return life

    def bother(self, life):
        chance = self.chance
        for _ in range(chance.choice([0, 0, 1, 2, 4])):
            if life.run_for(chance.choice([0.05, 0.3, 1.0])):
                break
            self.change()
            drawn = chance.random()
            if drawn < 0.4:
                life.send(signal.SIGSTOP)
                time.sleep(chance.choice([0.01, 0.3, 2.8]))
                life.send(signal.SIGCONT)
            else:
                anyio.run(self.command)
        gone = life.run_for(chance.choice([0.02, 0.2, 0.7, 1.5, 3.0]))
        if gone:
            raise AssertionError(
                f"it ended by itself: {life.process.exitcode}\n{life.errors.read_text()[-8000:]}"
            )
        how = chance.choice(["kill", "kill", "kill", "term", "term", "int", "term and kill"])
        if how == "int":
            life.wait_ready()  # a fork server's children ignore it in their first moments
        if how == "kill":
            life.send(signal.SIGKILL)
            assert life.end(30) == -signal.SIGKILL
        elif how in ("int", "term"):
            life.send(signal.SIGTERM if how == "term" else signal.SIGINT)
            code = life.end(90)
            assert code in (0, -signal.SIGTERM), (code, life.errors.read_text()[-8000:])
        else:
            life.send(signal.SIGTERM)
            life.run_for(chance.choice([0.005, 0.05, 0.3]))
            life.send(signal.SIGKILL)
            code = life.end(30)
            assert code in (0, -signal.SIGTERM, -signal.SIGKILL), (code, life.errors.read_text()[-8000:])
        return how

    async def command(self):
        """From another process, which is this one."""
        drawn = self.chance.choice(
            ["order", "order", "order", "all", "snapshot", "limit", "orphans", "abort"]
        )
        try:
            with anyio.fail_after(60):
                async with connect(self.journal) as control:
                    tasks = await control.tasks()
                    if drawn in ("order", "all"):
                        await self.order(control, tasks, everybody=drawn == "all")
                    elif drawn == "limit":
                        await control.limit(self.chance.choice([None, 2 * MIB]))
                    else:
                        await getattr(control, "abort_orphans" if drawn == "abort" else drawn)()
        except meowcat.MeowcatError as error:  # it is gone, or its journal takes nothing now
            self.log("    control:", type(error).__name__, error)

    async def order(self, control, tasks, *, everybody):
        chance = self.chance
        order = chance.choice([Pause, Pause, Resume, Resume, Retry, *([] if everybody else [Cancel])])
        chosen = chance.sample(tasks, min(len(tasks), 1 if order is Cancel else 3))
        ids = () if everybody else tuple(each.info.id for each in chosen)
        if order is Cancel:
            self.may_be_canceled.update(ids)
        if everybody or ids:
            for each in await control.order(order(tasks=ids, all=everybody)):
                if each.error is None:
                    self.promised[ORDERS[order], each.task] += 1

    def take(self, life):
        self.most = (max(self.most[0], life.files), max(self.most[1], life.threads))
        assert life.files <= MOST_FILES, life.files
        assert life.threads <= MOST_THREADS, life.threads
        for words in life.said:
            if words[0] == "done" and len(words) == 3:
                self.promised[words[1], words[2]] += 1
            elif words[0] == "event" and len(words) == 5:
                self.events[int(words[1])] = (words[2], int(words[3]), words[4])
                self.seen = max(self.seen, int(words[1]))
            elif words[0] == "asks" and words[1].startswith("cancel"):
                self.may_be_canceled.add(words[2])
            elif words[0] == "told" and len(words) == 3:
                self.told.add((words[1], words[2]))
        errors = life.errors.read_text()
        if errors.strip():
            self.log("    stderr:", errors[-3000:])

    def between(self):
        """What others do to a journal that nobody owns."""
        chance = self.chance
        drawn = chance.random()
        if drawn < 0.3:
            journal = locate(self.journal)
            journal.open(Owner(os.getpid(), "here"), "power")
            try:
                done = journal.compact()
                self.log(f"    compacted {done.records}")
            finally:
                journal.close()
        elif drawn < 0.6:
            anyio.run(self.leave)

    async def leave(self):
        chance = self.chance
        async with meowcat.Engine(self.journal, on_restart="leave") as engine:
            self.same(await engine.snapshot())
            ids = [info.id async for info in engine.tasks()]
            for task in chance.sample(ids, min(3, len(ids))):
                name = chance.choice(["pause", "resume", "retry"])
                with suppress(meowcat.MeowcatError):
                    await getattr(engine, name)(task)
                    self.promised[name, task] += 1
            self.log("    leave")

    # What has to hold

    def records(self):
        journal = locate(self.journal)
        try:
            journal.open_for_reading()
        except meowcat.NotAJournal:
            assert not self.promised
            return []
        try:
            found = check(journal)
            assert found.sound, (found.damage, found.quarantined)
            records = list(journal.scan(0, 10_000_000))
            self.cursors = dict(journal.cursors())
        finally:
            journal.close()
        return records

    def fold(self):
        fold = Fold(evolve)
        fold.add(self.records())
        assert not fold.damage
        assert not fold.quarantined
        return fold.tasks

    def same(self, snapshot):
        """A snapshot says what the journal says."""
        states = Counter(str(task.state) for task in self.fold().values() if task.open)
        assert states == snapshot.states, (states, snapshot.states)
        assert not snapshot.quarantined
        assert not snapshot.refusal

    def holds(self):
        records = self.records()
        assert [each.position for each in records] == list(range(1, len(records) + 1))
        by_position = {each.position: (each.task, each.seq, each.type) for each in records}
        assert self.events.items() <= by_position.items(), [
            (at, each, by_position.get(at)) for at, each in self.events.items() if by_position.get(at) != each
        ][:5]
        fold = Fold(evolve)
        fold.add(records)
        tasks = fold.tasks
        stored = Counter((each.type, each.task) for each in records)
        for (name, task), count in self.promised.items():
            least = 1 if name in ("created", "cancel") else count
            assert stored[DONE[name], task] >= least, (name, task, count, stored[DONE[name], task])
        for task, state in self.told:
            assert tasks[task].state == state, (task, state, tasks[task].state)
        self.hold_single(records, tasks)
        self.hold_files(tasks)
        self.hold_sinks(records)
        self.hold_secrets()
        assert not self.unsigned, self.unsigned
        return tasks

    def hold_single(self, records, tasks):
        """No errand has two tasks at once; a second one was submitted after the end of the first."""
        ended = {each.task: each.position for each in records if each.type in ("completed", "canceled")}
        begun = {each.task: each.position for each in records if each.type == "created"}
        for label, each in by_label(tasks).items():
            for one, next_ in pairwise(each):
                assert ended.get(one.id, 1 << 60) < begun[next_.id], (label, one.id, next_.id)

    def sha(self, path):
        at = path.stat()
        key = (str(path), at.st_ino, at.st_size, at.st_mtime_ns)
        if key not in self.hashes:
            data = path.read_bytes()
            if "-kept" in path.name:
                with suppress(OSError, EOFError):
                    data = gzip.decompress(data)
            self.hashes[key] = hashlib.sha256(data).hexdigest()
        return self.hashes[key]

    def hold_files(self, tasks):
        mine = by_label(tasks)
        parts = [each.name for each in (self.folder / "targets").iterdir() if not each.name.endswith(".bin")]
        for errand in self.errands:
            label = errand["label"]
            made = mine.get(label, [])
            if errand["kind"].startswith("get"):
                path = Path(errand["to"])
                complete = any(task.state == "Complete" for task in made)
                allowed = self.allowed[label] | (
                    {errand["before"]} if "before" in errand and not complete else set()
                )
                if path.exists():
                    assert self.sha(path) in allowed, f"{label}: {path} is wrong; {made}"
                else:
                    assert not complete, f"{label}: complete, and not there: {made}"
                    assert "before" not in errand, f"{label}: the old file is gone"
            for task in made:
                left = [name for name in parts if task.id in name and not task.open]
                assert not left, (label, left, task.state)
        known = tuple(tasks)
        strange = [name for name in parts if not any(task in name for task in known)]
        assert not strange, strange

    def hold_sinks(self, records):
        known = {
            f"{each.task}-{each.seq}": (each.position, msgspec.json.encode(event_object(logged(each))))
            for each in records
        }
        with sqlite3.connect(self.folder / "sinks/sink.db") as database:
            rows = database.execute("SELECT id, position, body FROM delivery ORDER BY n").fetchall()
        database.close()
        self.hold_deliveries(known, rows, self.cursors.get("database", 0))
        lines = self.folder / "sinks/lines.jsonl"
        if lines.exists():
            text = lines.read_bytes()
            whole = [json.loads(line) for line in text.split(b"\n")[:-1]]
            rows = [(each["id"], each["position"], msgspec.json.encode(each)) for each in whole]
            known = {name: (at, msgspec.json.encode(json.loads(body))) for name, (at, body) in known.items()}
            self.hold_deliveries(known, rows, self.cursors.get("lines", 0))

    def hold_deliveries(self, known, rows, cursor):
        firsts, seen = [], set()
        for identity, position, body in rows:
            assert known.get(identity) == (position, body), (identity, position, body, known.get(identity))
            if identity not in seen:
                seen.add(identity)
                firsts.append(position)
        assert firsts == list(range(1, len(firsts) + 1))
        assert cursor <= len(firsts)
        self.delivered = len(firsts)

    def hold_secrets(self):
        secrets = [CANARY, AUTHORIZATION.split()[1], self.oss.key.secret, "made-up-secret-for-tests"]
        for folder in ("journal", "sinks", "logs"):
            for path in (self.folder / folder).rglob("*"):
                if path.is_file():
                    data = path.read_bytes()
                    for secret in secrets:
                        assert secret.encode() not in data, (path, secret)
        for path in self.folder.glob("errors-*"):
            data = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in data, (path, secret)

    def ours(self, sessions, tasks):
        """Those that a task may have opened, or has taken up: others of a plan are still its back end's."""
        given = {each["upload"]: each["label"] for each in self.errands if each.get("upload")}
        opened = {each.task for each in self.records() if each.type == "session-opened"}
        taken = {task.request.client_file_sign for task in tasks.values() if task.id in opened}
        return [each for each in sessions if each[1] not in given or given[each[1]] in taken]

    def objects(self, tasks):
        mine = by_label(tasks)
        for errand in self.errands:
            if errand["kind"].startswith("put"):
                label = errand["label"]
                found = self.servers.object(errand["kind"], label)
                digest = None if found is None else hashlib.sha256(found).hexdigest()
                (right,) = self.allowed[label]
                complete = any(task.state == "Complete" for task in mine[label])
                assert digest == right or (digest is None and not complete), (label, digest)

    def run(self, lives):
        for number in range(lives):
            self.life(number)
            self.between()
            self.holds()
        life = self.life(lives, calm=True)
        tasks = self.holds()
        self.at_the_end(tasks, life)

    def at_the_end(self, tasks, life):
        mine = by_label(tasks)
        assert mine.keys() == {each["label"] for each in self.errands}
        for errand in self.errands:
            label = errand["label"]
            for task in mine[label]:
                assert not task.open, (label, task.state, task.phase, task.wait, task.fault, task.left)
            if any(task.state == "Complete" for task in mine[label]):
                continue
            for task in mine[label]:
                asked = self.promised["cancel", task.id] or {task.id, "all"} & self.may_be_canceled
                assert asked, (label, task.id, task.state, task.fault)
        (said,) = [line for line in life.lines if line.startswith("snapshot ")]
        snapshot = msgspec.json.decode(said.removeprefix("snapshot "), type=meowcat.Snapshot)
        self.same(snapshot)
        assert (
            snapshot.active_downloads,
            snapshot.active_uploads,
            snapshot.queued_downloads,
            snapshot.queued_uploads,
        ) == (0, 0, 0, 0)
        self.objects(tasks)
        assert self.delivered >= snapshot.position
        for each in self.servers.proxies:
            each.settle()
        lost = sum(each.lost for each in tasks.values())
        left = self.servers.sessions(self.prefix)
        assert len(self.ours(left, tasks)) <= lost, left
        if self.audit is not None:
            found = verify_journal(self.journal, self.vkey, checkpoints=[])
            assert [each.detail for each in found.checks if not each.proved] == []
        self.log(
            Counter(str(each.state) for each in tasks.values()),
            f"{len(self.records())} records",
            f"most files, threads: {self.most}",
        )
