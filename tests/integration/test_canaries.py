"""What was given as a secret stands nowhere: not in the journal, in no log, error, event or listener's view,
and in no output of the command line; neither as it is, nor escaped, nor in hexadecimal or Base64.
"""

import base64
import logging
import os
import re
import subprocess
import sys
import time
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import anyio
import httpx
import msgspec
import pytest

import meowcat
from meowcat import (
    S3,
    AccessKey,
    AliyunOSS,
    AzureBlob,
    AzureKey,
    AzurePresigner,
    AzureSas,
    BearerToken,
    PresignedDownload,
    PresignedUpload,
    Presigner,
)
from meowcat.protocols.signing.sas import service_sas

pytestmark = pytest.mark.anyio

SECRET = "c0ffee+Canary/Secret=of~a-key"
TOKEN = "c0ffee+Canary/Token=of~a-session"
NEARLY = slice(-1)
"""What is left of a secret that lacks its last letter: a wrong one, which is searched for all the same."""
IN_BASE64 = base64.b64encode(SECRET.encode()).decode()
"""As Azure has its keys and signatures."""
CONTENT = os.urandom(9 << 20)
ENDED = (meowcat.State.COMPLETE, meowcat.State.FAILED, meowcat.State.CANCELED)
CONFIG = meowcat.Config(retries=0, prepare_retries=0, control=False)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def forms(canary):
    """What a secret may look like: in Base64 it depends on what stands before it."""
    data = canary.encode()
    found = {data, data.hex().encode(), quote(canary).encode(), quote(canary, safe="").encode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        inside = encoded[4 if before else 0 : -4]
        found |= {inside, inside.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def test_a_canary_is_found_in_every_form():
    for shown in (
        SECRET,
        f"https://h/?sig={quote(SECRET, safe='')}",
        SECRET.encode().hex(),
        base64.b64encode(f"x{SECRET}y".encode()).decode(),
        base64.urlsafe_b64encode(f"xy{SECRET}".encode()).decode(),
    ):
        assert any(form in shown.encode() for form in forms(SECRET)), shown


class Watch:
    """All that an engine shows to anybody."""

    def __init__(self, folder, caplog):
        caplog.set_level(logging.DEBUG)
        self.journal = folder / "t.db"
        self.caplog = caplog
        self.said = []

    @asynccontextmanager
    async def engine(self, **options):
        async with meowcat.Engine(self.journal, config=CONFIG, **options) as opened:
            opened.add_listener(lambda info: self.said.append(repr(info)))
            yield opened

    async def ends(self, engine, request, error=None):
        """Run it to its end, which is this error."""
        task = await engine.submit(request)
        if error is None:
            self.said.append(repr(await task.result()))
            return
        with pytest.raises(meowcat.TransferFailed, match=error) as raised:
            await task.result()
        self.said += traceback.format_exception(raised.value)

    async def waits(self, engine, request):
        """Run it until it waits for something."""
        task = await engine.submit(request)
        with anyio.fail_after(20):
            async for progress in task.progress():
                assert progress.state not in ENDED, task.info
                if progress.waiting_for is not None:
                    break
        self.said.append(repr(task.info))

    async def shown(self):
        async with meowcat.Engine(self.journal, config=CONFIG, on_restart="leave") as engine:
            infos = [info async for info in engine.tasks()]
            for state in (meowcat.State.COMPLETE, meowcat.State.FAILED):
                infos += [info async for info in engine.tasks(state=state)]
            self.said += [*map(repr, infos), *(msgspec.json.encode(info).decode() for info in infos)]
            for info in infos:
                self.said += [repr(logged) async for logged in engine.history(info.id)]
        kept = [path.read_bytes() for path in self.journal.parent.glob("t.db*") if path.is_file()]
        return b"\n".join([*kept, *(text.encode() for text in self.said), self.caplog.text.encode()])


@pytest.fixture
def watch(tmp_path, caplog):
    return Watch(tmp_path, caplog)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.bin"
    path.write_bytes(b"small")
    return str(path)


@pytest.fixture
def large(tmp_path):
    """Of two parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(CONTENT)
    return str(path)


@dataclass(frozen=True)
class Place:
    """An object of the test's own at a server, who may do what there, and what is to be seen nowhere."""

    settings: AliyunOSS | S3 | AzureBlob
    url: str
    credential: AccessKey | AzureKey | AzureSas
    canaries: tuple[str, ...]

    def found_in(self, shown):
        return [form for canary in self.canaries for form in forms(canary) if form in shown]

    def wrong(self, credential, *canaries):
        return replace(self, credential=credential, canaries=canaries)


def name_of(request):
    return f"canary/{time.time_ns():x}/{request.node.name.partition('[')[0]}"


@pytest.fixture
def at_oss(oss, request):
    """By a key whose secret and token are canaries, which the server knows."""
    key = AccessKey(id="STS.CANARY", secret=SECRET, token=TOKEN)
    oss.ask("add_key", id=key.id, secret=key.secret, token=key.token)
    settings = AliyunOSS(endpoint=oss.origin, region=oss.region)
    return Place(settings, f"oss://{oss.bucket}/{name_of(request)}", key, (SECRET[NEARLY], TOKEN[NEARLY]))


@pytest.fixture
def at_s3(seaweedfs, request):
    key = seaweedfs.key
    url = f"s3://{seaweedfs.bucket}/{name_of(request)}"
    return Place(S3(endpoint=seaweedfs.origin), url, key, (key.secret[NEARLY],))


@pytest.fixture
def at_azure(azurite, request):
    settings = AzureBlob(endpoint=azurite.endpoint)
    url = f"azure://{azurite.container}/{name_of(request)}"
    return Place(settings, url, azurite.key, (azurite.key.key.rstrip("="),))


@pytest.fixture
def by_sas(at_azure, azurite):
    ends = time.time_ns() // 1_000_000 + 3_600_000
    sas = service_sas(azurite.key, azurite.container, permissions="rcw", expires=ends, https_only=False)
    return replace(at_azure, credential=sas, canaries=signatures(sas.token))


@pytest.fixture
def place(request):
    return request.getfixturevalue(request.param)


def signatures(url):
    """Those of a signed URL, or of a query alone, as they are computed: not escaped."""
    query = parse_qs(urlsplit(url).query or url)
    found = [*query.get("sig", ()), *query.get("x-oss-signature", ()), *query.get("X-Amz-Signature", ())]
    assert all(len(each) >= 43 for each in found), url
    assert found, url
    return tuple(each.rstrip("=") for each in found)


@pytest.mark.parametrize("place", ["at_oss", "at_s3", "at_azure", "by_sas"], indirect=True)
async def test_of_a_direct_transfer(tmp_path, small, large, watch, place):
    async with watch.engine(credentials={"default": place.credential}) as engine:
        await watch.ends(engine, meowcat.Upload(small, place.url, place.settings))
        await watch.ends(engine, meowcat.Upload(large, f"{place.url}2", place.settings))
        back = meowcat.Download(f"{place.url}2", str(tmp_path / "got"), protocol=place.settings)
        await watch.ends(engine, back)
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert place.found_in(await watch.shown()) == []


WAITS = None

REFUSED = {
    "oss-secret": ("at_oss", {"secret": SECRET[NEARLY]}, "SignatureDoesNotMatch"),
    "oss-token": ("at_oss", {"token": TOKEN[NEARLY]}, WAITS),
    "oss-id": ("at_oss", {"id": "STS.ANOTHER"}, "InvalidAccessKeyId"),
    "s3-secret": ("at_s3", {"secret": SECRET}, "SignatureDoesNotMatch"),
    "s3-token": ("at_s3", {"secret": SECRET, "token": TOKEN}, "40[03]"),
    "azure-key": ("at_azure", {"key": IN_BASE64}, "403"),
    "azure-sas": (
        "at_azure",
        AzureSas(token=f"sv=2023-11-03&sp=rcw&sr=c&se=2099-01-01T00:00:00Z&sig={quote(IN_BASE64, safe='')}"),
        "403",
    ),
    "azure-token": ("at_azure", BearerToken(token=TOKEN), "403"),
}
"""Where; what is otherwise in the credential; and the error."""
CANARIES = (SECRET[NEARLY], TOKEN[NEARLY], IN_BASE64.rstrip("="))


@pytest.mark.parametrize("slot", REFUSED)
async def test_of_a_credential_that_the_server_refuses(tmp_path, large, watch, request, slot):
    """Its error quotes all that was sent."""
    where, change, error = REFUSED[slot]
    right = request.getfixturevalue(where)
    wrong = msgspec.structs.replace(right.credential, **change) if isinstance(change, dict) else change
    place = right.wrong(wrong, *CANARIES)
    async with watch.engine(credentials={"default": wrong}) as engine:
        for wanted in (
            meowcat.Upload(large, place.url, place.settings),
            meowcat.Download(place.url, str(tmp_path / "got"), protocol=place.settings),
        ):
            if error is WAITS:
                await watch.waits(engine, wanted)
            else:
                await watch.ends(engine, wanted, error)
    assert place.found_in(await watch.shown()) == []


@pytest.mark.parametrize("place", ["at_oss", "at_s3", "at_azure", "by_sas"], indirect=True)
async def test_of_a_server_that_is_not_there(large, watch, place):
    nobody = msgspec.structs.replace(place.settings, endpoint="http://127.0.0.1:9/account")
    async with watch.engine(credentials={"default": place.credential}) as engine:
        await watch.ends(engine, meowcat.Upload(large, place.url, nobody), "127.0.0.1:9")
    assert place.found_in(await watch.shown()) == []


@pytest.mark.parametrize("place", ["at_oss", "at_azure"], indirect=True)
async def test_of_a_provider_that_raises(large, watch, place):
    def broken():
        raise ValueError(f"can't use {SECRET!r} with {quote(TOKEN, safe='')}")

    async with watch.engine(credentials={"default": broken}) as engine:
        await watch.ends(engine, meowcat.Upload(large, place.url, place.settings), r"can't use '\*\*\*'")
    assert place.wrong(None, *CANARIES).found_in(await watch.shown()) == []


async def plan_of(place, size, key=None):
    """As a back end makes it, of an upload in parts."""
    if isinstance(place.settings, AzureBlob):
        return AzurePresigner(place.url, place.settings, key or place.credential).upload_plan(size, "order-7")
    signs = Presigner(place.url, place.settings, key or place.credential)
    opening = signs.begin(mark="order-7")
    async with httpx.AsyncClient() as client:
        reply = await client.request(opening.method, opening.url, headers=opening.headers)
    return signs.upload_plan(size, signs.upload_id(reply.content), mark="order-7")


def presigner(place, **options):
    kind = AzurePresigner if isinstance(place.settings, AzureBlob) else Presigner
    return kind(place.url, place.settings, place.credential, **options)


@pytest.mark.parametrize("place", ["at_oss", "at_s3", "at_azure"], indirect=True)
async def test_of_a_plan(tmp_path, large, watch, place):
    plan, back = await plan_of(place, len(CONTENT)), presigner(place).download_plan()
    async with watch.engine() as engine:
        await watch.ends(engine, meowcat.Upload(large, "", PresignedUpload(plan)))
        download = PresignedDownload(back)
        await watch.ends(engine, meowcat.Download("", str(tmp_path / "got"), protocol=download))
    urls = [plan.complete.url, plan.check.url, back.url, *(part.url for part in plan.parts)]
    signed = replace(place, canaries=place.canaries + tuple(sig for url in urls for sig in signatures(url)))
    assert signed.found_in(await watch.shown()) == []


@pytest.mark.parametrize("place", ["at_oss", "at_s3", "at_azure"], indirect=True)
async def test_of_a_plan_that_the_server_refuses(tmp_path, small, watch, place):
    key = {"key": IN_BASE64} if isinstance(place.credential, AzureKey) else {"secret": SECRET[NEARLY]}
    wrong = replace(place, credential=msgspec.structs.replace(place.credential, **key))
    plan = presigner(wrong).upload_plan(5)
    ended = presigner(place, wall=lambda: time.time_ns() // 1_000_000 - 7_200_000).download_plan()
    async with watch.engine() as engine:
        await watch.ends(engine, meowcat.Upload(small, "", PresignedUpload(plan)), "403")
        stale = meowcat.Download("", str(tmp_path / "got"), protocol=PresignedDownload(ended))
        await watch.waits(engine, stale)
    urls = [plan.parts[0].url, plan.check.url, ended.url]
    signed = place.canaries + CANARIES + tuple(sig for url in urls for sig in signatures(url))
    assert replace(place, canaries=signed).found_in(await watch.shown()) == []


def environment_of(place):
    """As the command line is told of a credential."""
    key = place.credential
    if isinstance(key, AzureKey):
        return {"AZURE_STORAGE_ACCOUNT": key.account, "AZURE_STORAGE_KEY": key.key}
    if isinstance(key, AzureSas):
        return {"AZURE_STORAGE_SAS_TOKEN": key.token}
    if isinstance(place.settings, S3):
        return {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret}
    return {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": key.id,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": key.secret,
        "ALIBABA_CLOUD_SECURITY_TOKEN": key.token,
    }


def foreign(name):
    return not name.startswith(("AWS_", "AZURE_", "ALIBABA_CLOUD_", "OSS_", "MEOWCAT_"))


@pytest.mark.parametrize("good", [True, False], ids=["good", "wrong"])
@pytest.mark.parametrize("place", ["at_oss", "at_s3", "at_azure", "by_sas"], indirect=True)
def test_of_the_command_line(tmp_path, small, place, good):
    given = environment_of(place)
    if not good:  # the letter before the last one: the last one may say nothing in Base64
        given |= {
            name: re.sub(r"(.)(..=?=?|..(?:%3D)*)$", lambda at: ("b" if at[1] == "a" else "a") + at[2], value)
            for name, value in given.items()
            if re.search("KEY_SECRET|SECRET_ACCESS_KEY|STORAGE_KEY|SAS_TOKEN", name)
        }
    command = [Path(sys.executable).with_name("meowcat"), "put", "--json", "--journal", tmp_path / "t.db"]
    command += [small, place.url, "--endpoint", place.settings.endpoint]
    if isinstance(place.settings, AliyunOSS):
        command += ["--region", place.settings.region]
    inherited = {name: value for name, value in os.environ.items() if foreign(name)}
    done = subprocess.run(command, check=False, capture_output=True, env=inherited | given, timeout=60)
    shown = done.stdout + done.stderr + b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    assert (done.returncode == 0) == good, shown
    hidden = tuple(value[:-6] for name, value in given.items() if not name.endswith(("_ID", "ACCOUNT")))
    assert replace(place, canaries=hidden + place.canaries).found_in(shown) == []
