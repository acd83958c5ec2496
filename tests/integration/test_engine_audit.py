"""An engine whose history is signed: what a user of the public API sees."""

import logging
import shutil
import threading

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from shelf import Shelf, ShelfProtocol, spec

import meowcat
from journal_adapters.sqlite import SQLiteJournal
from meowcat.audit import Key, verify_checkpoint, verify_journal, verify_receipt
from meowcat.audit.checkpoints import split_checkpoints
from meowcat.audit.log import HEAD_SNAPSHOT
from meowcat.runtime import auditing
from meowcat.testing.content import Content
from meowcat.testing.range_server import RangeServer

pytestmark = pytest.mark.anyio

BIG = Content(3 << 20)
KEY = Key.generate("example.com/log")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def server():
    with RangeServer(BIG) as server:
        yield server


def config(**changes):
    return meowcat.Config(**({"piece_size": 256 << 10, "flush_seconds": 0.02} | changes))


async def test_a_download_has_a_receipt_that_verifies_offline(tmp_path, server):
    file = tmp_path / "checkpoints"
    KEY.save(tmp_path / "audit.key")
    audit = meowcat.Audit(tmp_path / "audit.key", checkpoints=file)
    async with meowcat.Engine(tmp_path / "t.db", config=config(), audit=audit) as engine:
        result = await engine.download(server.url, tmp_path / "a", client_file_sign="row 7")
        text = await engine.receipt(result.task)
        checkpoint = await engine.checkpoint()
    receipt = verify_receipt(text, KEY.vkey)
    assert (receipt.task, receipt.url, receipt.path) == (result.task, server.url, str(tmp_path / "a"))
    assert (receipt.size, receipt.client_file_sign) == (BIG.size, "row 7")
    assert [str(each) for each in receipt.digests] == [f"sha256:{BIG.sha256}"]
    assert receipt.created <= receipt.completed
    assert verify_checkpoint(checkpoint, KEY.vkey).size >= receipt.position
    exported = split_checkpoints(file.read_text())
    assert checkpoint in exported
    found = verify_journal(
        tmp_path / "t.db",
        KEY.vkey,
        checkpoints=[("file", each) for each in exported],
        receipts=[("receipt", text)],
    )
    assert found.proved
    assert found.covered == found.records


async def test_an_upload_has_a_receipt_of_what_went_where_and_what_the_server_said(tmp_path):
    shelf, source = Shelf("audit.example"), tmp_path / "a"
    source.write_bytes(BIG.bytes())
    async with meowcat.Engine(audit=meowcat.Audit(KEY), protocols=[ShelfProtocol]) as engine:
        result = await engine.upload(source, f"{shelf.url}?token=secret", protocol=spec())
        receipt = verify_receipt(await engine.receipt(result.task), KEY.vkey)
    assert (receipt.direction, receipt.path, receipt.size) == ("upload", str(source), BIG.size)
    assert receipt.url == f"{shelf.url}?token=***"
    assert [str(each) for each in receipt.digests] == [f"sha256:{BIG.sha256}"]
    assert receipt.remote == result.remote
    assert receipt.remote["etag"]


async def test_the_digest_can_be_left_out_and_the_receipt_says_so(tmp_path, server):
    async with meowcat.Engine(config=config(digest="none"), audit=meowcat.Audit(KEY)) as engine:
        result = await engine.download(server.url, tmp_path / "a")
        receipt = verify_receipt(await engine.receipt(result.task), KEY.vkey)
    assert receipt.digests == ()


async def test_a_checkpoint_is_signed_at_close_and_covers_everything(tmp_path, server):
    async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(KEY)) as engine:
        await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")))
    found = verify_journal(tmp_path / "t.db", KEY.vkey)
    assert found.proved
    assert found.covered == found.records > 0


async def test_nothing_is_signed_at_close_where_that_is_not_wanted(tmp_path, server):
    async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(KEY, at_close=False)) as engine:
        await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
    assert [each.what for each in verify_journal(tmp_path / "t.db", KEY.vkey).checks] == ["records"]


async def test_an_empty_journal_is_not_signed_at_close(tmp_path):
    async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(KEY, checkpoints=tmp_path / "c")):
        pass
    assert not (tmp_path / "c").exists()
    assert [each.what for each in verify_journal(tmp_path / "t.db", KEY.vkey).checks] == ["records"]


async def test_checkpoints_are_signed_in_the_background_every_so_many_records(tmp_path, server):
    texts = []
    twice = anyio.Event()

    async def export(text):
        texts.append(text)
        if len(texts) >= 2:
            twice.set()

    audit = meowcat.Audit(KEY, every=20, at_close=False, checkpoints=export)
    async with meowcat.Engine(tmp_path / "t.db", audit=audit) as engine:
        for count in range(50):
            await engine.submit(meowcat.Download(server.url, str(tmp_path / str(count))), paused=True)
        with anyio.fail_after(10):
            await twice.wait()
    sizes = [verify_checkpoint(text, KEY.vkey).size for text in texts]
    assert sizes == sorted(sizes)
    assert sizes[0] >= 20
    assert sizes[1] - sizes[0] >= 20
    assert verify_journal(tmp_path / "t.db", KEY.vkey, checkpoints=[("f", text) for text in texts]).proved


class Stuck:
    """A key store that does not answer."""

    vkey = KEY.vkey

    def __init__(self):
        self.asked, self.answer = threading.Event(), threading.Event()

    def sign(self, message):
        self.asked.set()
        assert self.answer.wait(30)
        return KEY.sign(message)


async def test_a_key_store_that_does_not_answer_holds_up_no_transfer(tmp_path, server):
    stuck = Stuck()
    audit = meowcat.Audit(stuck, every=1)
    async with meowcat.Engine(tmp_path / "t.db", config=config(), audit=audit) as engine:
        await engine.submit(meowcat.Download(server.url, str(tmp_path / "first")), paused=True)
        assert await anyio.to_thread.run_sync(stuck.asked.wait, 10)
        result = await engine.download(server.url, tmp_path / "a")
        assert result.size == BIG.size
        assert not stuck.answer.is_set()
        stuck.answer.set()
        assert verify_receipt(await engine.receipt(result.task), KEY.vkey).size == BIG.size


async def test_a_key_store_that_fails_is_told_and_the_engine_goes_on(tmp_path, server, caplog):
    class Failing:
        vkey = KEY.vkey

        def sign(self, message):
            raise OSError("the card was pulled")

    async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(Failing(), every=1)) as engine:
        assert (await engine.download(server.url, tmp_path / "a")).size == BIG.size
        with pytest.raises(OSError, match="pulled"):
            await engine.checkpoint()
    assert "no checkpoint: the card was pulled" in caplog.text
    assert [each.what for each in verify_journal(tmp_path / "t.db", KEY.vkey).checks] == ["records"]


async def test_what_could_not_be_exported_is_exported_by_the_next_call(tmp_path, server):
    given = []

    def export(text):
        given.append(text)
        if len(given) == 1:
            raise ConnectionError("secret detail")

    async with meowcat.Engine(audit=meowcat.Audit(KEY, at_close=False, checkpoints=export)) as engine:
        with pytest.raises(meowcat.AuditError, match="exporting it raised ConnectionError") as failed:
            await engine.checkpoint()
        assert "secret" not in str(failed.value)
        assert given == [await engine.checkpoint()] * 2
        await engine.checkpoint()
        assert len(given) == 2


async def test_a_checkpoint_is_kept_in_the_journal_before_anybody_sees_it(tmp_path, server):
    seen = []

    def export(text):
        journal = SQLiteJournal(tmp_path / "t.db")
        journal.open_for_reading()
        seen.append((text, journal.get_snapshot(HEAD_SNAPSHOT)[1].decode()))
        journal.close()

    audit = meowcat.Audit(KEY, every=2, checkpoints=export)
    async with meowcat.Engine(tmp_path / "t.db", config=config(), audit=audit) as engine:
        await engine.download(server.url, tmp_path / "a")
        await engine.checkpoint()
    assert seen
    assert [text for text, _ in seen] == [kept for _, kept in seen]


async def test_nothing_is_kept_while_the_journal_is_in_doubt(tmp_path, server, monkeypatch):
    monkeypatch.setattr("meowcat.runtime.appends.REFUSED_PAUSE", (0.0, 0.0))

    class Failing(SQLiteJournal):
        broken = False
        kept = 0

        def append(self, batch):
            if self.broken:
                raise OSError("the disk did not answer")
            return super().append(batch)

        def reopen(self):
            if self.broken:
                raise OSError("the disk does not answer")
            return super().reopen()

        def put_snapshot(self, *arguments):
            self.kept += 1
            super().put_snapshot(*arguments)

    journal = Failing(tmp_path / "t.db")
    async with meowcat.Engine(journal, audit=meowcat.Audit(KEY)) as engine:
        first = meowcat.Download(server.url, str(tmp_path / "first"))
        await engine.submit(first, paused=True)
        journal.broken = True

        async def submit():
            with pytest.raises(meowcat.JournalRejected, match="not stored"):  # told once that is known
                await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)

        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            while engine._runtime.writer.poisoned is None:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(meowcat.AuditError, match="in doubt"):
                await engine.checkpoint()
            assert journal.kept == 0
            journal.broken = False
        await engine.submit(meowcat.Download(server.url, str(tmp_path / "b")), paused=True)
        assert verify_checkpoint(await engine.checkpoint(), KEY.vkey).size == 2
    assert journal.kept > 0


async def test_a_task_that_is_not_complete_has_no_receipt(tmp_path, server):
    async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(KEY)) as engine:
        task = await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
        with pytest.raises(meowcat.InvalidTaskState, match="is Paused: only a Complete task"):
            await engine.receipt(task.id)
        with pytest.raises(meowcat.TaskNotFound):
            await engine.receipt("01K0000000000000000000NONE")


async def test_an_engine_without_an_audit_says_how_to_have_one(tmp_path):
    async with meowcat.Engine() as engine:
        for call in (engine.checkpoint, lambda: engine.receipt("x")):
            with pytest.raises(meowcat.AuditError, match=r"audit=meowcat\.Audit") as refused:
                await call()
            assert refused.value.code == 151


async def test_an_earlier_transfer_has_a_receipt_after_the_engine_was_opened_again(tmp_path, server):
    async with meowcat.Engine(tmp_path / "t.db", config=config()) as engine:
        early = await engine.download(server.url, tmp_path / "early")  # not audited at all
    async with meowcat.Engine(tmp_path / "t.db", config=config(), audit=meowcat.Audit(KEY)) as engine:
        receipt = verify_receipt(await engine.receipt(early.task), KEY.vkey)
    assert (receipt.url, receipt.digests) == (server.url, ())


@pytest.mark.parametrize("trouble", ["missing", "open to all"])
async def test_a_key_that_can_not_be_used_is_refused_before_anything_is_opened(tmp_path, trouble):
    if trouble == "open to all":
        KEY.save(tmp_path / "audit.key")
        (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(meowcat.AuditError, match=r"chmod 600|keygen"):
        async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(tmp_path / "audit.key")):
            pass
    assert not (tmp_path / "t.db").exists()
    async with meowcat.Engine(tmp_path / "t.db"):
        pass


async def test_the_private_key_is_nowhere_but_in_its_file(tmp_path, server, caplog):
    caplog.set_level(logging.DEBUG)
    KEY.save(tmp_path / "audit.key")
    secret = (tmp_path / "audit.key").read_text().strip().split("+", 4)[4]  # base64, which may hold a + too
    audit = meowcat.Audit(tmp_path / "audit.key", every=1, checkpoints=tmp_path / "checkpoints")
    async with meowcat.Engine(tmp_path / "t.db", config=config(), audit=audit) as engine:
        result = await engine.download(server.url, tmp_path / "a")
        shown = [repr(audit), repr(meowcat.Audit(KEY)), await engine.receipt(result.task), caplog.text]
    stored = [path.read_bytes() for path in tmp_path.iterdir() if path.name not in ("audit.key", "a")]
    assert not any(secret in each for each in shown)
    assert not any(secret.encode() in each or KEY._private.private_bytes_raw() in each for each in stored)


async def test_a_history_that_was_changed_while_nobody_looked_is_not_signed_and_transfers_go_on(
    tmp_path, server, caplog
):
    file, journal, backup = tmp_path / "checkpoints", tmp_path / "t.db", tmp_path / "backup.db"
    audit = meowcat.Audit(KEY, checkpoints=file)
    async with meowcat.Engine(journal, config=config()) as engine:
        await engine.submit(meowcat.Download(server.url, str(tmp_path / "a")), paused=True)
    shutil.copy(journal, backup)
    async with meowcat.Engine(journal, config=config(), audit=audit) as engine:
        await engine.download(server.url, tmp_path / "a")
    shutil.copy(backup, journal)
    before = file.read_text()
    async with meowcat.Engine(tmp_path / "t.db", config=config(), audit=audit) as engine:
        assert (await engine.download(server.url, tmp_path / "b")).size == BIG.size
        with pytest.raises(meowcat.AuditError, match="nothing is signed"):
            await engine.checkpoint()
    assert "nothing is signed" in caplog.text
    assert file.read_text() == before
    found = verify_journal(
        tmp_path / "t.db", KEY.vkey, checkpoints=[("f", each) for each in split_checkpoints(before)]
    )
    assert not found.proved


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"key": 5}, "expected the path of a key file, or an object"),
        ({"key": KEY, "every": 0}, "every 0: expected a number of records from 1"),
        ({"key": KEY, "origin": "a b"}, "key name 'a b'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_they_are_made(wrong, told):
    with pytest.raises(meowcat.MeowcatError, match=told):
        meowcat.Audit(**wrong)


async def test_a_checkpoint_that_can_not_be_read_at_first_ends_nothing(tmp_path, server):
    class Unreadable(SQLiteJournal):
        def get_snapshot(self, name):
            raise OSError(5, "the disk has a bad sector")

    audit = meowcat.Audit(KEY, every=5)
    async with meowcat.Engine(Unreadable(tmp_path / "t.db"), config=config(), audit=audit) as engine:
        with anyio.fail_after(20):
            result = await engine.download(server.url, tmp_path / "a")
    assert result.size == BIG.size


@pytest.mark.parametrize("call", ["close", "checkpoint"])
@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_a_call_from_inside_an_export_that_would_wait_for_it_is_refused(tmp_path, kind, call):
    refusals = []

    async def export(text):
        try:
            await getattr(engine, call)()
        except meowcat.WouldDeadlock as error:
            refusals.append(error)

    token = anyio.lowlevel.current_token()

    def export_in_thread(text):
        anyio.from_thread.run(export, text, token=token)

    target = export if kind == "coroutine" else export_in_thread
    engine = meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(KEY, checkpoints=target, at_close=False))
    with anyio.fail_after(20):
        async with engine:
            await engine.checkpoint()
    assert len(refusals) == 1


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_an_export_that_hangs_holds_up_no_close(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(auditing, "CLOSE_WITHIN", 0.1)
    answer = threading.Event()

    async def export(text):
        await anyio.sleep_forever()

    def export_in_thread(text):
        assert answer.wait(30)

    target = export if kind == "coroutine" else export_in_thread
    with anyio.fail_after(20):
        async with meowcat.Engine(tmp_path / "t.db", audit=meowcat.Audit(KEY, checkpoints=target)) as engine:
            await engine.submit(meowcat.Download("http://127.0.0.1:9/", str(tmp_path / "a")), paused=True)
    assert not answer.is_set()
    answer.set()
    assert verify_journal(tmp_path / "t.db", KEY.vkey).proved  # it was kept before it was exported
