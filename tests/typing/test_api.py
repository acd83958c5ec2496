"""The public API as type checkers see it: checked by mypy and pyright in strict mode, never run.

A change that makes a type weaker (an Any, a lost Optional) fails the check, not a test at run time.
"""

import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, assert_type

import httpx

import meowcat
from meowcat import audit, sinks
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.protocols.contract import Outcome, Part, Prepared, Reconciled, Tools, UploadProtocol


async def the_shortest_program() -> None:
    async with meowcat.Engine("transfers.db") as engine:
        assert_type(engine, meowcat.Engine)
        result = await engine.download("https://host/big.iso", "big.iso", checksum="sha256:00", connections=8)
        assert_type(result, meowcat.Result)
        assert_type(result.path, str)
        assert_type(result.size, int)
        assert_type(result.digests, tuple[meowcat.Checksum, ...])
        assert_type(result.task, meowcat.TaskId)
        await engine.download("https://host/big.iso", Path("big.iso"))


def wanted(info: meowcat.TaskInfo) -> bool:
    assert_type(info.state, meowcat.State)
    assert_type(info.phase, meowcat.Phase)
    assert_type(info.size, int | None)
    assert_type(info.fraction, float)
    assert_type(info.waiting_for, meowcat.WaitingFor | None)
    assert_type(info.needs, tuple[str, ...])
    assert_type(info.fault, meowcat.Fault | None)
    assert_type(info.client_file_sign, str | None)
    return info.priority > 0


async def every_argument_of_an_engine() -> None:
    config = meowcat.Config(max_downloads=2, max_uploads=2, durability="power", limit_rate=None)
    async with httpx.AsyncClient() as client:
        engine = meowcat.Engine(Path("transfers.db"), config=config, on_restart=wanted, http_client=client)
        assert_type(engine.config, meowcat.Config)
        assert_type(engine.closed, bool)
        assert_type(await engine.open(), meowcat.Engine)
        await engine.close()
    meowcat.Engine()
    meowcat.Engine("memory:", on_restart="resume")
    meowcat.Engine("memory:", on_restart="pause")
    meowcat.Engine("memory:", audit=meowcat.Audit(Path("audit.key"), origin="example.com/log", every=1000))


async def proofs(engine: meowcat.Engine, task: meowcat.TaskId, key: audit.Key) -> None:
    assert_type(await engine.checkpoint(), str)
    assert_type(await engine.receipt(task), str)
    receipt = audit.verify_receipt("text", key.vkey, origin="example.com/log")
    assert_type(receipt, audit.Receipt)
    assert_type(receipt.url, str | None)
    assert_type(receipt.direction, Literal["download", "upload"])
    assert_type(receipt.remote, dict[str, str])
    assert_type(receipt.digests, tuple[meowcat.Checksum, ...])
    assert_type(receipt.checkpoint, audit.Checkpoint)
    assert_type(audit.verify_checkpoint("text", [key.vkey]).size, int)
    found = audit.verify_journal("transfers.db", key.vkey, checkpoints=[("mine", "text")])
    assert_type(found, audit.Verification)
    assert_type(found.proved, bool)
    assert_type(found.checks, tuple[audit.Check, ...])
    signer: audit.Signer = key
    meowcat.Audit(signer, checkpoints=print, at_close=False)


async def a_fresh_key() -> meowcat.AccessKey:
    return meowcat.AccessKey(id="made up", secret="made up", token=None, expires=1_764_000_000_000)


async def a_fresh_plan(request: meowcat.RefreshRequest) -> meowcat.UploadPlan:
    assert_type(request.task, meowcat.TaskId)
    assert_type(request.same_upload, bool)
    return a_plan()


def a_plan() -> meowcat.UploadPlan:
    plan = meowcat.UploadPlan(
        total_size=1,
        chunk_size=1,
        parts=(meowcat.PlanPart(1, 0, 1, "https://host/part?sig=made-up"),),
        complete=meowcat.PlanRequest("POST", "https://host/complete?sig=made-up", expires=1_764_000_000_000),
        completion="s3-xml",
    )
    assert_type(plan.object, str)
    return plan.with_resumed_parts([])


async def presigned(task: meowcat.Task) -> None:
    engine = meowcat.Engine("transfers.db", refreshers={"backend": a_fresh_plan})
    upload = meowcat.PresignedUpload(a_plan(), refresher="backend")
    assert_type(await engine.upload("big.iso", protocol=upload), meowcat.Result)
    await engine.submit(meowcat.Upload("big.iso", "", upload))
    plan = meowcat.DownloadPlan(url="https://host/big.iso?sig=made-up", total_size=1)
    download = meowcat.PresignedDownload(plan)
    await engine.submit(meowcat.Download("", to="big.iso", protocol=download))
    await engine.add_refresher("later", a_fresh_plan)
    await task.supply(plan=plan)
    source: meowcat.Source = OwnSource()
    await engine.add_source("own", source)


class OwnSource:
    def size(self) -> int:
        return 1

    async def identity(self) -> str:
        return "1"

    def read(self, offset: int, size: int) -> bytes:
        return b"x"[offset : offset + size]


own_source: meowcat.Source = OwnSource()


class OwnProtocol(UploadProtocol):
    tag = "own"

    def capabilities(self) -> Capabilities:
        assert_type(self.tools, Tools)
        assert_type(self.job.digests, Mapping[str, str])
        return Capabilities(any_order=False, needs_digests=("md5",))

    async def prepare(self, session: Session | None) -> Prepared:
        return Prepared(session=session or Session(id="1", capabilities=self.capabilities()))

    async def send_part(self, session: Session, part: Part) -> Receipt:
        assert_type(part.body(), AsyncIterator[bytes | memoryview])
        return Receipt(text=await part.checksum("md5"))

    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        return {"etag": receipts[0].text}

    async def reconcile(self, session: Session) -> Reconciled:
        return Reconciled(outcome=Outcome.LOST)

    async def abort(self, session: Session) -> None: ...


class OwnSettings:
    def spec(self) -> meowcat.ProtocolSpec:
        return meowcat.ProtocolSpec("own", 1, {"bucket": "b", "fast": True})


async def uploads() -> None:
    engine = meowcat.Engine(
        "transfers.db",
        credentials={
            "fixed": meowcat.AccessKey(id="a", secret="b"),
            "fresh": a_fresh_key,
            "sas": meowcat.AzureSas(token="sig=x"),
            "token": lambda: meowcat.BearerToken(token="x", expires=1_764_000_000_000),
        },
        sources={"row 7": OwnSource()},
        protocols=[OwnProtocol],
    )
    form = meowcat.FormUpload(method="PUT", category="images")
    result = await engine.upload(Path("big.iso"), "https://host/upload", protocol=form, digest="sha256")
    assert_type(result, meowcat.Result)
    assert_type(result.remote, dict[str, str])
    await engine.upload(b"bytes", "https://host/upload", protocol=form, name="bytes.txt")
    await engine.upload("row 7", "https://host/object", protocol=OwnSettings(), origin="named")
    azure = meowcat.AzureBlob(account="acct", overwrite="replace", tier="Cool", metadata={"a": "b"})
    meowcat.Upload("a.bin", "azure://container/a.bin", azure)
    key = meowcat.AzureKey(account="acct", key="bWFkZS11cA==")
    presigner = meowcat.AzurePresigner("azure://container/a.bin", azure, key, expires=60)
    assert_type(presigner.upload_plan(1, "order"), meowcat.UploadPlan)
    assert_type(presigner.download_plan(), meowcat.DownloadPlan)
    s3 = meowcat.S3(endpoint="https://host", region="eu-1", credential="fresh", metadata={"a": "b"})
    request = meowcat.Upload("big.iso", "s3://bucket/key", s3, connections=8, verify_source="always")
    task = await engine.submit(request, paused=True)
    assert_type(task, meowcat.Task)
    assert_type(request.direction, Literal["download", "upload"])
    assert_type(request.protocol, meowcat.ProtocolSpec)
    await task.supply(data=b"bytes")
    assert_type(task.info.remote, dict[str, str])
    await engine.add_credential("later", a_fresh_key)
    await engine.add_source("later", OwnSource())
    assert_type(await engine.stands(task.id), bool)
    orphans = await engine.orphans()
    assert_type(orphans, list[meowcat.Orphan])
    assert_type(orphans[0].ours, bool)
    assert_type(await engine.abort_orphans(), list[meowcat.TaskId])
    await engine.submit(meowcat.Download("s3://bucket/key", to="key", protocol=s3))
    oss = meowcat.AliyunOSS(region="cn-hangzhou", style="virtual", additional_headers=("host",))
    await engine.upload("big.iso", "oss://bucket/key", protocol=oss)
    await engine.download("oss://bucket/key", "key", protocol=oss)


async def small_bodies(engine: meowcat.Engine, blocking: meowcat.blocking.Engine) -> None:
    assert_type(await engine.name_of("https://host/x", headers={"A": "b"}), str)
    assert_type(blocking.name_of("s3://bucket/x", protocol=meowcat.S3()), str)
    fetched = await engine.fetch("https://host/list", max_bytes=1 << 20, headers={"A": "b"}, max_redirects=0)
    assert_type(fetched, meowcat.Fetched)
    assert_type(fetched.content, bytes)
    assert_type(fetched.headers, Mapping[str, str])
    assert_type(fetched.text(), str)
    assert_type(blocking.fetch("https://host/list", timeout=1.5), meowcat.Fetched)
    try:
        await engine.fetch("https://host/list")
    except meowcat.FetchFailed as failed:
        assert_type(failed.status, int | None)


async def a_handle(engine: meowcat.Engine) -> None:
    request = meowcat.Download(
        "https://host/big.iso",
        to="big.iso",
        connections=8,
        headers={"Accept-Language": "en"},
        overwrite="replace",
        probe="head",
    )
    task = await engine.submit(request, paused=False)
    assert_type(task, meowcat.Task)
    assert_type(await engine.submit_nowait(request), meowcat.Task)
    assert_type(task.id, meowcat.TaskId)
    assert_type(task.state, meowcat.State)
    assert_type(task.info, meowcat.TaskInfo)
    async for progress in task.progress():
        assert_type(progress, meowcat.Progress)
        assert_type(progress.fraction, float)
        assert_type(progress.rate, float)
        assert_type(progress.eta, float | None)
    async for logged in task.history():
        assert_type(logged, meowcat.LoggedEvent)
        assert_type(logged.event.state, meowcat.State)
    assert_type(await task.result(), meowcat.Result)


async def commands(engine: meowcat.Engine, task: meowcat.Task) -> None:
    await task.pause()
    await task.resume()
    await task.cancel()
    await task.retry()
    assert_type(await task.set_limit_rate(1_000_000), None)
    await task.supply(url="https://host/big.iso", headers={"Authorization": "made up"})
    await engine.pause(task.id)
    await engine.resume(task.id)
    await engine.cancel(task.id)
    await engine.retry(task.id)
    assert_type(await engine.task(task.id), meowcat.Task)


async def all_tasks(engine: meowcat.Engine) -> None:
    requests = [meowcat.Download(f"https://host/{number}", to=str(number)) for number in range(3)]
    assert_type(await engine.submit_many(requests), list[meowcat.TaskId])
    assert_type(await engine.pause_many(state=meowcat.State.QUEUED), list[meowcat.TaskId])
    assert_type(await engine.cancel_many(state=["Queued", "Paused"]), list[meowcat.TaskId])
    assert_type(await engine.resume_many(direction="download"), list[meowcat.TaskId])
    assert_type(await engine.retry_many(), list[meowcat.TaskId])
    async for info in engine.tasks(state="Paused", direction="download"):
        assert_type(info, meowcat.TaskInfo)
    async for logged in engine.events(after=0):
        assert_type(logged, meowcat.LoggedEvent)
    snapshot = await engine.snapshot()
    assert_type(snapshot, meowcat.Snapshot)
    assert_type(snapshot.states, dict[str, int])
    assert_type(snapshot.limit_rate, int | None)
    assert_type(snapshot.hosts, dict[str, meowcat.HostInfo])
    assert_type(snapshot.hosts["https://host:443"].most, int | None)
    assert_type(await engine.set_limit_rate(1_000_000), None)
    await engine.set_limit_rate(None, host="https://host")
    assert_type(engine.quarantined(), dict[meowcat.TaskId, str])
    await engine.drain()


def told(info: meowcat.TaskInfo) -> None: ...


def taken(logged: meowcat.LoggedEvent) -> None: ...


async def taken_at_leisure(logged: meowcat.LoggedEvent) -> None: ...


class OwnSink:
    async def deliver(self, events: Sequence[meowcat.LoggedEvent]) -> None:
        assert_type(events[0].id, str)
        raise meowcat.RetryLater(30)


async def sinks_and_listeners(engine: meowcat.Engine, task: meowcat.Task) -> None:
    sink: meowcat.Sink = OwnSink()
    assert_type(await engine.add_sink("own", sink, after=0, timeout=30.0), None)
    await engine.add_sink("function", meowcat.callback(taken))
    await engine.add_sink("coroutine", meowcat.callback(taken_at_leisure))
    await engine.add_sink("lines", sinks.JSONLines(Path("events.jsonl"), sync=False))
    await engine.add_sink("stream", sinks.JSONLines(sys.stdout))
    await engine.add_sink("log", sinks.Logging(logging.getLogger("app"), level=logging.DEBUG))
    hook = sinks.Webhook("https://host/hook", secret=["whsec_00", b"key"], types=["completed"])
    await engine.add_sink("hook", hook)
    await engine.remove_sink("own")
    snapshot = await engine.snapshot()
    assert_type(snapshot.sinks, dict[str, meowcat.SinkInfo])
    assert_type(snapshot.sinks["own"].next_try, int | None)
    assert_type(engine.add_listener(told, task=task.id), meowcat.Subscription)
    with task.add_listener(told) as subscription:
        assert_type(subscription, meowcat.Subscription)
    subscription.close()


def without_async() -> None:
    with meowcat.blocking.Engine("transfers.db", on_restart=wanted) as engine:
        assert_type(engine, meowcat.blocking.Engine)
        assert_type(engine.config, meowcat.Config)
        assert_type(engine.download("https://host/big.iso", Path("big.iso"), connections=8), meowcat.Result)
        engine.download("https://host/big.iso", "big.iso", timeout=5)
        request = meowcat.Download("https://host/big.iso", to="big.iso")
        task = engine.submit(request, paused=False)
        assert_type(task, meowcat.blocking.Task)
        assert_type(engine.submit_nowait(request), meowcat.blocking.Task)
        assert_type(engine.task(task.id), meowcat.blocking.Task)
        assert_type(engine.submit_many([request], paused=True), list[meowcat.TaskId])
        assert_type(engine.pause_many(state=meowcat.State.QUEUED), list[meowcat.TaskId])
        assert_type(engine.cancel_many(state=["Queued", "Paused"]), list[meowcat.TaskId])
        for info in engine.tasks(state="Paused", direction="download"):
            assert_type(info, meowcat.TaskInfo)
        for logged in engine.events(after=0):
            assert_type(logged, meowcat.LoggedEvent)
        for logged in engine.history(task.id):
            assert_type(logged, meowcat.LoggedEvent)
        assert_type(engine.snapshot(), meowcat.Snapshot)
        assert_type(engine.set_limit_rate(1_000_000, task=task.id), None)
        assert_type(task.set_limit_rate(None), None)
        assert_type(engine.quarantined(), dict[meowcat.TaskId, str])
        engine.supply(task.id, headers={"Authorization": "made up"})
        form = meowcat.FormUpload()
        assert_type(engine.upload("big.iso", "https://host/upload", protocol=form, timeout=5), meowcat.Result)
        engine.add_credential("prod", meowcat.AccessKey(id="made up", secret="made up"))
        assert_type(engine.orphans(), list[meowcat.Orphan])
        engine.cancel(task.id)
        engine.drain(timeout=1.5)
    opened = meowcat.blocking.Engine().open()
    assert_type(opened, meowcat.blocking.Engine)
    opened.close()


def a_blocking_handle(task: meowcat.blocking.Task) -> None:
    assert_type(task.id, meowcat.TaskId)
    assert_type(task.state, meowcat.State)
    assert_type(task.info, meowcat.TaskInfo)
    for progress in task.progress():
        assert_type(progress, meowcat.Progress)
    assert_type(next(task.history()), meowcat.LoggedEvent)
    assert_type(task.result(timeout=5), meowcat.Result)
    task.pause()
    task.supply(url="https://host/big.iso")


async def errors(task: meowcat.Task) -> None:
    try:
        await task.result()
    except meowcat.TransferCanceled as canceled:
        assert_type(canceled.task, str)
    except meowcat.TransferFailed as failed:
        assert_type(failed.code, meowcat.Code)
    except meowcat.JournalOwned as owned:
        assert_type(owned.owner, str)
    except meowcat.MeowcatError as error:
        assert_type(error.code, meowcat.Code)


def plans_of_a_back_end(key: meowcat.AccessKey) -> None:
    signs = meowcat.Presigner("oss://bucket/k", meowcat.AliyunOSS(region="cn-hangzhou"), key, expires=900)
    assert_type(signs.begin(mark="order-7"), meowcat.PlanRequest)
    assert_type(signs.upload_id(b""), str)
    assert_type(signs.upload_plan(7, "id", part_size=1 << 20, mark="order-7"), meowcat.UploadPlan)
    assert_type(signs.download_plan(7), meowcat.DownloadPlan)
    meowcat.Presigner("s3://bucket/k", meowcat.S3(), key)
