"""Uploads whose process is really killed: one object, the right one, nothing confirmed is sent again, and no
session is left behind. The tests of each protocol are a file, so that they run side by side.
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from azure_harness import stored, uncommitted
from botocore.config import Config
from botocore.exceptions import ClientError
from form_harness import FormServer
from oss_server import OSSServer
from proxy import Proxy

from journal_adapters.sqlite import SQLiteJournal
from meowcat import AliyunOSS, Presigner, State
from meowcat.core.state import evolve
from meowcat.journal.contract import Damage
from meowcat.journal.replay import fold_task, verify_chain
from meowcat.protocols.azure.blocks import parse
from meowcat.testing.azurite import Azurite
from meowcat.testing.s3_servers import SeaweedFS

MIB = 1 << 20
PART = 5 * MIB
"""The least that S3 takes: what a kill may hit is the number of parts, and their bytes are work alone."""
OBJECT = {"Bucket": "bucket", "Key": "object"}


class File(NamedTuple):
    """What is uploaded."""

    path: Path
    sha256: str
    parts: int

    @classmethod
    def random(cls, path, parts):
        data = os.urandom(parts * PART)
        path.write_bytes(data)
        os.utime(path, (1, 1))
        return cls(path, hashlib.sha256(data).hexdigest(), parts)


class Child:
    """An uploading process."""

    def __init__(self, **asked):
        script = Path(__file__).with_name("uploading.py")
        # A pipe would be filled by asyncio's own warnings on a busy machine.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # `end` closes it
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "ignore", str(script), json.dumps(asked)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.killed = False

    def kill(self):
        """kill -9, and only that: it is waited for in `end`."""
        self.killed = True
        self.process.send_signal(signal.SIGKILL)

    def end(self):
        """Wait for the end; what it printed last. One that does not end says where it is."""
        try:
            out, _ = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # where its coroutines are
            with suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=2)
            self.process.send_signal(signal.SIGABRT)  # where its threads are, and its end
            out, _ = self.process.communicate(timeout=10)
        with self._errors:
            self._errors.seek(0)
            errors = self._errors.read()
        if self.process.returncode == -signal.SIGKILL:
            return "killed"
        assert self.process.returncode == 0, errors
        return out.splitlines()[-1]

    def end_within(self, seconds):
        """Kill it then, if it has not ended by itself."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.end()


class Place:
    """Where uploads of one protocol go, with a proxy in between; and what stands there."""

    def __init__(self, proxy, **asked):
        self.proxy = proxy
        self.asked = asked

    def begin(self, content):
        """Before an upload of its own."""
        self.parts = content.parts

    def confirmed(self, task):
        """Numbers of the parts, from 1, of which the server says that it has them."""
        return set()

    def is_commit(self, passed):
        return passed.is_commit

    def sent(self, passed):
        """Numbers of the parts that these requests sent in full."""
        return [each.number for each in passed if each.method == "PUT" and each.number is not None]


class S3Place(Place):
    listing = True

    def __init__(self, proxy, server, **asked):
        super().__init__(proxy, endpoint=proxy.origin, id=server.key.id, secret=server.key.secret, **asked)
        self.client = boto3.client(
            "s3",
            endpoint_url=server.origin,
            aws_access_key_id=server.key.id,
            aws_secret_access_key=server.key.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def begin(self, content):
        super().begin(content)
        self.client.delete_object(**OBJECT)

    def sessions(self):
        listed = self.client.list_multipart_uploads(Bucket="bucket")
        return [each["UploadId"] for each in listed.get("Uploads", ())]

    def confirmed(self, task):
        try:
            found = self.client.list_parts(**OBJECT, UploadId=task.session.id)
        except ClientError:
            return set()  # it is the object by now
        return {part["PartNumber"] for part in found.get("Parts", ())}

    def drop(self, sessions):
        for each in sessions:
            self.client.abort_multipart_upload(**OBJECT, UploadId=each)

    def object(self):
        try:
            body = self.client.get_object(**OBJECT)["Body"]
        except ClientError:
            return None
        return hashlib.file_digest(body, "sha256").hexdigest()


class PresignedPlace(S3Place):
    listing = False

    def begin(self, content):
        super().begin(content)
        self.asked["upload"] = self.client.create_multipart_upload(**OBJECT)["UploadId"]

    def confirmed(self, task):
        return set()  # a plan has no list of parts


class OSSPlace(Place):
    listing = True

    def __init__(self, proxy, server, **asked):
        key = {"id": server.key.id, "secret": server.key.secret}
        where = {"endpoint": proxy.origin, "region": server.region, "bucket": server.bucket}
        super().__init__(proxy, **where, **key, **asked)
        self.server = server
        self.count = 0

    def begin(self, content):
        super().begin(content)
        self.count += 1
        self.asked["name"] = f"object-{self.count}"

    def sessions(self):
        return self.server.uploads()

    def confirmed(self, task):
        return set(self.server.parts(task.session.id))

    def drop(self, sessions):
        for each in sessions:
            self.server.ask("abort", upload=each)

    def object(self):
        found = self.server.content(self.asked["name"])
        return None if found is None else hashlib.sha256(found).hexdigest()


class PresignedOSSPlace(OSSPlace):
    """The plans are `meowcat.Presigner`'s."""

    listing = False

    def begin(self, content):
        super().begin(content)
        url = f"oss://{self.server.bucket}/{self.asked['name']}"
        settings = AliyunOSS(endpoint=self.server.origin, region=self.server.region)
        presigner = Presigner(url, settings, self.server.key)
        opening = presigner.begin(mark=self.asked["name"])
        reply = httpx.request(opening.method, opening.url, headers=opening.headers)
        self.asked["upload"] = presigner.upload_id(reply.content)

    def confirmed(self, task):
        return set()  # as above


class AzurePlace(Place):
    listing = True

    def __init__(self, proxy, server, **asked):
        key = {"id": server.key.account, "secret": server.key.key}
        endpoint = f"{proxy.origin}/{server.key.account}"
        super().__init__(proxy, endpoint=endpoint, bucket=server.container, **key, **asked)
        self.server = server
        self.count = 0

    def begin(self, content):
        super().begin(content)
        self.count += 1
        self.asked["name"] = f"object-{self.count}"

    def sessions(self):
        """What a commit has not listed."""
        return [block.id for block in uncommitted(self.server, self.asked["name"])]

    def drop(self, sessions):
        assert sessions == []

    def confirmed(self, task):
        listed = uncommitted(self.server, self.asked["name"])
        found = [parse(block.id, block.size) for block in listed]
        return {block.index + 1 for block in found if block is not None and block.nonce == task.session.id}

    def sent(self, passed):
        ids = [parse_qs(urlsplit(each.path).query).get("blockid", [""])[0] for each in passed]
        found = [parse(name, 1) for name in ids if name]
        return [block.index + 1 for block in found]

    def is_commit(self, passed):
        return passed.method == "PUT" and "comp=blocklist" in passed.path

    def object(self):
        found = stored(self.server, self.asked["name"])
        return None if found is None else hashlib.sha256(found).hexdigest()


class FormPlace(Place):
    listing = True

    def __init__(self, proxy, folder, **asked):
        super().__init__(proxy, url=f"{proxy.origin}/upload", **asked)
        self.folder = folder

    def begin(self, content):
        super().begin(content)
        for each in (self.folder / "files").iterdir():
            each.unlink()

    def sessions(self):
        return []

    def drop(self, sessions):
        assert sessions == []

    def sent(self, passed):
        offsets = [re.search(rb'name="offset"\r\n\r\n(\d+)\r\n', each.form) for each in passed]
        return [int(found[1]) // PART + 1 for found in offsets if found is not None]

    def is_commit(self, passed):
        return self.sent([passed]) == [self.parts]

    def confirmed(self, task):
        sent = [each for each in self.proxy.passed if each.status == 200]
        return set(self.sent(sent))

    def object(self):
        (found,) = list((self.folder / "files").iterdir()) or (None,)
        return None if found is None else hashlib.sha256(found.read_bytes()).hexdigest()


PROGRAMS = {"azure": Azurite.name, "s3": SeaweedFS.name, "presigned": SeaweedFS.name}
"""What a machine may lack."""


@contextmanager
def place(protocol, folder):
    if protocol == "form":
        with FormServer(folder / "server") as server, Proxy(server.url.rsplit("/", 1)[0]) as proxy:
            yield FormPlace(proxy, folder / "server", protocol=protocol)
        return
    data = folder / "server"
    data.mkdir()
    if protocol == "azure":
        with Azurite(data) as server, Proxy(server.origin) as proxy:
            yield AzurePlace(proxy, server, protocol=protocol)
    elif protocol in ("oss", "presigned oss"):
        with OSSServer(data) as server, Proxy(server.origin) as proxy:
            yield (OSSPlace if protocol == "oss" else PresignedOSSPlace)(proxy, server, protocol=protocol)
    else:
        with SeaweedFS(data) as server, Proxy(server.origin) as proxy:
            yield (S3Place if protocol == "s3" else PresignedPlace)(proxy, server, protocol=protocol)


def task_in(journal):
    """The one task of a journal, folded; the chain holds, nothing is damaged. None before its creation."""
    if not journal.exists():
        return None
    opened = SQLiteJournal(journal)
    opened.open_for_reading()
    try:
        records = opened.scan(0, 1_000_000)
    finally:
        opened.close()
    assert not [each for each in records if isinstance(each, Damage)]
    assert not list(verify_chain(records))
    return fold_task(records[0].task, records, evolve) if records else None


def asking(folder, content, where, number):
    return {
        **where.asked,
        "file": str(content.path),
        "size": content.parts * PART,
        "part": PART,
        "journal": str(folder / f"{number}.db"),
        "durability": "power",
    }


def upload_with_kills(folder, content, where, number, chance, kills):
    """One upload that is killed up to `kills` times on its way; how many times it was."""
    where.begin(content)
    journal, killed = folder / f"{number}.db", 0
    known = set()
    where.proxy.passed.clear()
    while True:
        before = len(where.proxy.passed)
        child = Child(**asking(folder, content, where, number))
        said = child.end_within(chance.uniform(0.6, 2.0) if killed < kills else 120)
        where.proxy.settle()
        lived = where.proxy.passed[before:]
        again = set(where.sent(lived)) & known
        assert not again, f"sent again although confirmed: {sorted(again)}"
        if said == "complete":
            break
        killed += 1
        task = task_in(journal)
        if task is not None and task.state == "Complete":
            break  # killed after its end: another life would be asked for another upload
        known = where.confirmed(task) if task is not None and task.session is not None else set()
        known |= {index + 1 for index in task.stored.numbers} if task is not None else set()
        assert where.object() in (None, content.sha256)
    task, left = task_in(journal), where.sessions()
    assert where.object() == content.sha256
    assert task.state == "Complete"
    # Killed before the reply that would have named it: nobody can prove whose it is, and nobody removes it.
    assert len(left) <= task.lost
    where.drop(left)
    return killed


MOMENTS = {
    "and what was asked for never gets there": ("before", True),
    "and what was asked for is done afterwards": ("before", False),
    "and what was asked for is done already": ("after", False),
}


def kill_at(proxy, moment, which, child):
    """Kill the child at the first request that `which` says."""
    when, drop = MOMENTS[moment]

    def kill(passed):
        if which(passed) and not child.killed:
            child.kill()
            child.process.wait()
            if drop:
                raise ConnectionError

    setattr(proxy, when, kill)


@pytest.mark.servers
class UploadKills:
    """What holds for every protocol."""

    protocol = ""
    kills = 10

    @pytest.fixture(scope="class")
    @classmethod
    def content(cls, tmp_path_factory):
        """Its upload takes so long that there is a time to be killed in."""
        return File.random(tmp_path_factory.mktemp("long") / "source.bin", 25)

    @pytest.fixture(scope="class")
    @classmethod
    def short(cls, tmp_path_factory):
        """For kills at its end."""
        return File.random(tmp_path_factory.mktemp("short") / "source.bin", 3)

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory, require_server):
        if cls.protocol in PROGRAMS:
            require_server(PROGRAMS[cls.protocol])
        with place(cls.protocol, tmp_path_factory.mktemp(cls.protocol)) as where:
            yield where

    @pytest.fixture
    def where(self, server):
        """With a proxy that lets everything pass."""
        server.proxy.forget()
        return server

    def kill_cycles(self, folder, content, where, cycles):
        seed = random.SystemRandom().randrange(1 << 30)
        print("seed", seed)
        chance = random.Random(seed)
        where.proxy.pause = 0.1
        number = killed = counted = 0
        while counted < cycles:
            number += 1
            kills = upload_with_kills(folder, content, where, number, chance, 3)
            killed += kills
            counted += max(1, kills)
        print(f"{killed} kills of {number} uploads")

    @pytest.mark.timeout(600)
    def test_kills(self, tmp_path, content, where):
        self.kill_cycles(tmp_path, content, where, self.kills)

    @pytest.mark.soak
    @pytest.mark.timeout(7200)
    def test_a_hundred_kills(self, tmp_path, content, where):
        self.kill_cycles(tmp_path, content, where, 100)

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_killed_in_the_middle_of_a_commit(self, tmp_path, short, where, moment):
        where.begin(short)
        child = Child(**asking(tmp_path, short, where, 1))
        kill_at(where.proxy, moment, where.is_commit, child)
        assert child.end() == "killed"
        where.proxy.settle()
        child = Child(**asking(tmp_path, short, where, 1))
        assert child.end() == "complete"
        assert where.object() == short.sha256
        assert where.sessions() == []
        commits = [each for each in where.proxy.passed if where.is_commit(each) and each.status in (200, 201)]
        assert len(commits) == 1

    @pytest.mark.timeout(300)
    def test_killed_between_the_reply_of_a_commit_and_its_event(self, tmp_path, short, where):
        """The reply is out, and the kill comes as soon as it can: whether the event was recorded or not."""
        for number in range(3):
            where.begin(short)
            child = Child(**asking(tmp_path, short, where, number))
            where.proxy.answered = lambda passed, child=child: (
                child.kill() if where.is_commit(passed) else None
            )
            said = child.end()
            where.proxy.settle()
            where.proxy.answered = lambda _: None
            if said != "complete" and task_in(tmp_path / f"{number}.db").state is not State.COMPLETE:
                assert Child(**asking(tmp_path, short, where, number)).end() == "complete"
            assert where.object() == short.sha256
            assert where.sessions() == []


class AbortKills:
    """What holds where there is a session to be removed."""

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_killed_in_the_middle_of_an_abort(self, tmp_path, content, where, moment):
        where.begin(content)
        asked = asking(tmp_path, content, where, 1)
        child = Child(**asked, cancel=3)
        kill_at(where.proxy, moment, lambda passed: passed.is_abort, child)
        assert child.end() == "killed"
        where.proxy.settle()
        task = task_in(tmp_path / "1.db")
        assert (task.state, task.open) == ("Canceled", True)
        assert Child(**asked, task=task.id).end() == "canceled"
        assert where.object() is None
        assert where.sessions() == []
        assert not task_in(tmp_path / "1.db").open
