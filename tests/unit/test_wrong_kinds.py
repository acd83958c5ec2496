"""A value of another kind than is wanted is refused at once, by the name of the argument."""

from pathlib import Path

import anyio
import httpx
import pytest

import meowcat
from journal_adapters.memory import MemoryJournal
from meowcat.core.errors import InvalidArgument, UnknownJournal
from meowcat.core.kinds import kind_of, path_text
from meowcat.transport.httpx import HttpxTransport

pytestmark = pytest.mark.anyio

URL = "https://host/x"


async def coroutine(*_):
    return None


async def opened(**options):
    async with meowcat.Engine(**options):
        pass


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"config": {}}, "config: expected a meowcat.Config, got an object of type dict"),
        ({"config": meowcat.Config}, "config: expected a meowcat.Config, got the class Config"),
        ({"audit": "audit.key"}, "audit: expected a meowcat.Audit, got an object of type str"),
        ({"on_restart": coroutine}, "or a plain function TaskInfo -> bool"),
        ({"credentials": ["prod"]}, "credentials: expected a dict of names"),
        ({"credentials": {5: lambda: None}}, "the name of a credential is 5"),
        (
            {"credentials": {"prod": meowcat.AccessKey}},
            "credential 'prod': expected an instance, got the class",
        ),
        ({"refreshers": 5}, "refreshers: expected a dict of names and functions"),
        ({"refreshers": {"": coroutine}}, "the name of a refresher is ''"),
        ({"refreshers": {"backend": meowcat.UploadPlan}}, "expected an instance, got the class UploadPlan"),
        ({"completions": [5]}, "completions: expected a dict of names"),
        ({"completions": {"mine": coroutine}}, "expected a plain function, got a coroutine function"),
        ({"sources": "x"}, "sources: expected a dict of names"),
        ({"sources": {"disk": meowcat.Source}}, "source 'disk': expected an instance, got the class Source"),
        ({"protocols": 5}, "protocols: expected a list of classes, got an object of type int"),
        ({"protocols": meowcat.S3}, "protocols: expected a list of classes, got the class S3"),
        ({"http_client": httpx.Client}, "http_client"),
        ({"http_client": HttpxTransport}, "expected an httpx.AsyncClient or a Transport"),
    ],
)
async def test_an_engine_refuses_arguments_of_another_kind(options, what):
    with pytest.raises(InvalidArgument, match=what):
        await opened(**options)


@pytest.mark.parametrize("journal", [5, b"t.db", ["t.db"], MemoryJournal])
async def test_a_journal_is_a_path_a_url_or_an_instance(journal):
    with pytest.raises(UnknownJournal, match=f"a Journal or None, got {kind_of(journal)}"):
        await opened(journal=journal)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"max_downloads": "2"}, "max_downloads '2': expected a whole number from 1 to 1,024"),
        ({"max_downloads": None}, "max_downloads None"),
        ({"max_downloads": True}, "max_downloads True"),
        ({"max_downloads": 1.5}, "max_downloads 1.5"),
        ({"flush_seconds": [1]}, "flush_seconds .*: expected 0.001 to 60"),
        ({"proxy": 5}, "proxy: expected a URL"),
        ({"http2": "no"}, "http2 'no': expected True or False"),
        ({"control": 0}, "control 0: expected True or False"),
        ({"ca_bundle": 5}, "ca_bundle: expected the path of a PEM file"),
    ],
)
def test_a_config_refuses_settings_of_another_kind(settings, what):
    with pytest.raises(InvalidArgument, match=what):
        meowcat.Config(**settings)


@pytest.mark.parametrize("kind", [meowcat.S3, meowcat.AliyunOSS, meowcat.AzureBlob])
@pytest.mark.parametrize(
    ("field", "value"), [("credential", 5), ("content_type", ["x"]), ("endpoint", 5), ("metadata", None)]
)
def test_settings_of_protocols_refuse_fields_of_another_kind(kind, field, value):
    with pytest.raises(InvalidArgument, match=rf"^{field}: expected a .*, got {kind_of(value)}"):
        kind(**{field: value}).spec()


def test_an_account_of_azure_is_a_text():
    with pytest.raises(InvalidArgument, match="account: expected a text"):
        meowcat.AzureBlob(account=5).spec()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda engine, task: engine.pause(task), "task: expected the id of a task, as Task.id has it"),
        (lambda engine, _: engine.cancel(["x"]), "got an object of type list"),
        (lambda engine, _: anext(engine.tasks(state=5)), "state: expected one or more of Queued"),
        (lambda engine, _: anext(engine.events(after="x")), "after 'x': expected a position"),
        (
            lambda engine, _: engine.add_sink("books", meowcat.callback(print), after=True),
            "after True: expected a position",
        ),
        (lambda engine, _: engine.submit_many(meowcat.Download(URL, "y")), "requests: expected a list"),
        (
            lambda engine, _: engine.submit(meowcat.Download(URL, "y", protocol=meowcat.S3)),
            "got the class S3",
        ),
        (lambda engine, _: engine.submit(meowcat.Upload("y", URL, None)), "protocol: expected settings"),
        (
            lambda engine, _: engine.submit(meowcat.Upload(5, URL, meowcat.FormUpload())),
            "source: expected a path",
        ),
        (lambda engine, _: engine.download(URL, 5), "to: expected a path"),
        (lambda engine, _: engine.upload(5, URL, protocol=meowcat.FormUpload()), "source: expected a path"),
        (lambda engine, _: engine.fetch(URL, headers=["x"]), "headers: expected a dict"),
        (lambda engine, _: engine.fetch(5), "URL: expected a text"),
        (lambda engine, _: engine.fetch("s3://bucket/x"), "an object needs the protocol that reaches it"),
        (lambda _, task: task.supply(headers=["x"]), "headers: expected a dict"),
        (lambda _, task: task.supply(plan={}), "plan: expected an UploadPlan or a DownloadPlan"),
        (lambda engine, _: engine.set_limit_rate(5, host=5), "host: expected a text"),
        (lambda engine, _: engine.set_limit_rate(True), "rate True: expected a whole number"),
        (lambda engine, _: engine.set_limit_rate(True, host=URL), "rate True: expected a whole number"),
        (lambda _, task: task.set_limit_rate(True), "rate True: expected a whole number"),
        (lambda engine, _: engine.remove_sink([]), "sink name: expected a text"),
        (
            lambda engine, _: engine.add_sink("a", meowcat.sinks.JSONLines),
            "no object with 'async def deliver",
        ),
        (lambda engine, _: engine.add_sink("a", meowcat.sinks.Logging(), timeout="5"), "timeout '5'"),
    ],
)
async def test_methods_refuse_arguments_of_another_kind(call, what):
    async with meowcat.Engine(on_restart="leave") as engine:
        task = await engine.submit(meowcat.Download(URL, "x"), paused=True)
        with pytest.raises(InvalidArgument, match=what):
            await call(engine, task)
        await task.cancel()


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (meowcat.UploadPlan(total_size="5", chunk_size=5), "total_size"),
        (meowcat.UploadPlan(total_size=5, chunk_size=5, parts=7), "parts"),
        (meowcat.DownloadPlan(url=URL, headers=5), "headers"),
        (meowcat.DownloadPlan(url=URL, refresh_before=object()), "object"),
    ],
)
def test_a_plan_with_fields_of_another_kind_is_refused(plan, what):
    with pytest.raises(InvalidArgument, match=what):
        plan.validate()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: meowcat.sinks.Webhook(5, secret="whsec_" + "A" * 32), "URL: expected a text"),
        (lambda: meowcat.sinks.Webhook(URL, secret=5), "secret: expected a text, bytes"),
        (lambda: meowcat.sinks.Webhook(URL, secret=b"s" * 24, headers=5), "headers: expected a dict"),
        (lambda: meowcat.sinks.Webhook(URL, secret=b"s" * 24, timeout="5"), "timeout '5'"),
        (lambda: meowcat.sinks.Webhook(URL, secret=b"s" * 24, types=5), "types"),
        (lambda: meowcat.sinks.verify_webhook(5, b"", b"s" * 24), "headers: expected a dict"),
        (lambda: meowcat.Audit("k", every="5"), "every '5'"),
        (lambda: meowcat.Presigner(5, meowcat.S3(), meowcat.AccessKey(id="a", secret="b")), "URL"),
        (lambda: meowcat.AzurePresigner(URL, 5, meowcat.AzureKey(account="a", key="Zm9v")), "protocol"),
    ],
)
def test_sinks_audits_and_presigners_refuse_arguments_of_another_kind(make, what):
    with pytest.raises(InvalidArgument, match=what):
        make()


def test_a_receipt_and_an_origin_are_texts():
    with pytest.raises(meowcat.AuditError, match="expected its text, got an object of type int"):
        meowcat.audit.verify_receipt(5, "x")
    with pytest.raises(meowcat.AuditError, match="key name 5"):
        meowcat.Audit("k", origin=5)


@pytest.mark.parametrize("value", ["5", True, -1])
def test_a_presigner_refuses_what_is_no_size(value):
    presigner = meowcat.Presigner(
        "s3://bucket/x", meowcat.S3(region="here"), meowcat.AccessKey(id="a", secret="b")
    )
    with pytest.raises(InvalidArgument, match=r"size .*: expected a whole number of bytes"):
        presigner.upload_plan(value)
    with pytest.raises(InvalidArgument, match=r"piece_size .*: expected a whole number of bytes"):
        presigner.upload_plan(5, "id", part_size=value)


def test_a_request_of_other_kinds_can_be_shown():
    assert repr(meowcat.Download(5, "x", headers="secret")) == "Download('***', to='x', headers='***')"


def test_a_path_of_bytes_is_told_as_one():
    async def live():
        async with meowcat.Engine() as engine:
            await engine.download(URL, b"x")

    with pytest.raises(InvalidArgument, match=r"to: expected a path, as a text or a Path; got .* bytes"):
        anyio.run(live)


def test_a_path_may_be_one_of_pathlib():
    assert path_text("to", Path("folder/x")) == "folder/x"


def test_none_is_told_as_none():
    assert kind_of(None) == "None"
