"""Azure uploads and downloads against Azurite, which really verifies signatures."""

import os
from dataclasses import replace

import pytest
from azure.storage.blob import BlobBlock
from azure_harness import (
    PART,
    PATIENT,
    container_of,
    download_of,
    fresh_key,
    name_of,
    sending,
    stored,
    tools_of,
    uncommitted,
    wall,
)

from meowcat.core.http_rules import Asked, Partial, Whole, Wrong
from meowcat.core.values import FaultKind
from meowcat.protocols.azure.blocks import ID_SIZE
from meowcat.protocols.azure.settings import MARK
from meowcat.protocols.contract import Outcome, Refused
from meowcat.protocols.credentials import AzureKey, BearerToken
from meowcat.protocols.signing.sas import account_sas, service_sas
from meowcat.transport.httpx import HttpxTransport
from meowcat.transport.reqwest import ReqwestTransport

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CONTENT = os.urandom(2 * PART + 1234)
SMALL = b"a small one"
MINUTE = 60 * 1000
WRONG = "d3Jvbmcgd3Jvbmcgd3Jvbmc="


@pytest.fixture
def anyio_backend():
    return "asyncio"


def properties(server, sent):
    with container_of(server) as client:
        return client.get_blob_client(name_of(sent)).get_blob_properties()


async def refused(coroutine):
    with pytest.raises(Refused) as error:
        await coroutine
    return error.value.fault


@pytest.mark.parametrize("content", [b"", SMALL, CONTENT[: 8 << 20], CONTENT], ids=["0", "11", "8M", "8M+"])
async def test_the_official_sdk_reads_back_what_was_uploaded(azurite, content):
    sent = sending(azurite, content)
    result = await sent.all()
    assert stored(azurite, name_of(sent)) == content
    assert properties(azurite, sent)["etag"] == result["etag"]
    assert uncommitted(azurite, name_of(sent)) == []


async def test_what_the_official_sdk_uploads_is_read_back(azurite):
    name = fresh_key("ü b.bin")
    with container_of(azurite) as client:
        client.upload_blob(name, CONTENT, max_concurrency=2)
    protocol = download_of(azurite, f"azure://{azurite.container}/{name}", tools_of(azurite.key))
    assert (await read(protocol.ask(Asked(0, None, None))))[1] == CONTENT


@pytest.mark.parametrize("checksum", ["auto", "md5", "none"])
@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_each_checksum_that_the_emulator_knows_works(azurite, checksum, content):
    sent = sending(azurite, content, checksum=checksum)
    await sent.all()
    assert stored(azurite, name_of(sent)) == content


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_what_is_damaged_on_its_way_is_refused_and_sent_again(azurite, content):
    sent = sending(azurite, content)
    await sent.prepare()

    async def other(part):
        yield b"x" * part.size

    part = sent.parts()[0]
    part.body = lambda: other(part)
    small = len(sent.parts()) == 1
    call = (
        sent.protocol.commit(sent.session, {}, part) if small else sent.protocol.send_part(sent.session, part)
    )
    fault = await refused(call)
    assert fault.status == 400
    assert "MD5 doesn't match" in fault.detail  # the emulator's own words for Md5Mismatch
    assert stored(azurite, name_of(sent)) is None
    assert uncommitted(azurite, name_of(sent)) == []


@pytest.mark.parametrize(
    "odd", ["a b+c.bin", "ä/ö ü.bin", "q?u#e%20ry=1&2", "(1)!'*~$,;:@", "x" * 200, "日本"]
)
@pytest.mark.parametrize("transport", [ReqwestTransport, HttpxTransport])
async def test_names_of_all_kinds_signed_by_a_key_and_by_a_sas(azurite, odd, transport):
    end = wall() + 60 * MINUTE
    sas = service_sas(azurite.key, azurite.container, permissions="rcwl", expires=end, https_only=False)
    for credential in (azurite.key, sas):
        tools = replace(tools_of(credential), transport=transport(timeouts=PATIENT))
        sent = sending(azurite, SMALL, name=fresh_key(odd), tools=tools)
        await sent.all()
        assert stored(azurite, name_of(sent)) == SMALL
        assert list(await sent.protocol.orphans()) == []
        back = await read(download_of(azurite, sent.url, tools).ask(Asked(2, 5, None)))
        assert back[1] == SMALL[2:5]
        await tools.transport.aclose()


async def test_metadata_media_type_and_the_callers_headers_go_with_the_blob(azurite):
    for content in (SMALL, CONTENT):
        sent = sending(
            azurite,
            content,
            content_type="text/x-made-up",
            metadata={"Owner_2": "meow cat"},
            tier="Cool",
            headers={"Cache-Control": "max-age=60", "x-ms-meta-more": "2", "X-Other": "no matter"},
        )
        await sent.all()
        found = properties(azurite, sent)
        assert found.content_settings.content_type == "text/x-made-up"
        assert found.content_settings.cache_control == "max-age=60"
        assert found.blob_tier == "Cool"
        metadata = {name.lower(): value for name, value in found.metadata.items()}
        assert metadata.pop(MARK).startswith(sent.task)
        assert metadata == {"owner_2": "meow cat", "more": "2"}


# What is there already


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_blob_that_stands_there_is_left_alone_and_nothing_is_sent(azurite, content):
    name = fresh_key()
    await sending(azurite, b"older", name=name).all()
    sent = sending(azurite, content, name=name)
    fault = await refused(sent.prepare())
    assert fault.kind is FaultKind.TARGET_EXISTS
    assert "overwrite='replace'" in fault.detail
    assert stored(azurite, name) == b"older"


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_blob_that_comes_meanwhile_is_left_alone(azurite, content):
    sent = sending(azurite, content)
    await sent.prepare()
    with container_of(azurite) as client:
        client.upload_blob(name_of(sent), b"somebody else's")
    if not sent.session.capabilities.commits_with_last_part:
        await sent.send()
    fault = await refused(sent.commit())
    assert fault.kind is FaultKind.TARGET_EXISTS
    assert stored(azurite, name_of(sent)) == b"somebody else's"


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_blob_is_replaced_where_that_is_asked_for(azurite, content):
    name = fresh_key()
    await sending(azurite, b"older", name=name).all()
    await sending(azurite, content, name=name, overwrite="replace").all()
    assert stored(azurite, name) == content


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_blob_that_is_another_one_than_at_the_beginning_is_not_replaced(azurite, content):
    name = fresh_key()
    await sending(azurite, b"older", name=name).all()
    sent = sending(azurite, content, name=name, overwrite="replace")
    await sent.prepare()
    with container_of(azurite) as client:
        client.upload_blob(name, b"newer", overwrite=True)
    if not sent.session.capabilities.commits_with_last_part:
        await sent.send()
    fault = await refused(sent.commit())
    assert (fault.kind, fault.status) == (FaultKind.STATUS, 412)
    assert "somebody has written or deleted it meanwhile" in fault.detail
    assert stored(azurite, name) == b"newer"
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST


# Resuming


async def test_after_a_restart_azure_says_what_it_has(azurite):
    sent = sending(azurite, CONTENT)
    await sent.prepare()
    await sent.send(0, 2)
    prepared = await sent.prepare()
    assert prepared.done is None
    assert {index: held.size for index, held in prepared.held.items()} == {0: PART, 2: 1234}
    for index, held in prepared.held.items():
        assert held.receipt == sent.receipts[index]
        assert held.receipt.checksum == f"blake3:{await sent.parts()[index].checksum('blake3')}"
    await sent.send(1)
    await sent.commit()
    assert stored(azurite, name_of(sent)) == CONTENT


async def test_blocks_of_another_task_are_not_ours_and_its_commit_is_noticed(azurite):
    """Uncommitted blocks belong to the blob: who commits first drops those of the other."""
    name = fresh_key()
    sent = sending(azurite, CONTENT, name=name, overwrite="replace")
    other = sending(azurite, CONTENT[::-1], name=name, overwrite="replace")
    other.task = "01JDTASK000000000000000AZ2"
    for each in (sent, other):
        await each.prepare()
        await each.send()
    assert len(uncommitted(azurite, name)) == 6
    assert len((await sent.prepare()).held) == 3
    await other.commit()
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.LOST
    assert (await sent.prepare()).held == {}
    fault = await refused(sent.commit())
    assert fault.kind in (FaultKind.SESSION_LOST, FaultKind.STATUS)
    assert stored(azurite, name) == CONTENT[::-1]


async def test_a_commit_of_blocks_that_are_gone_is_a_lost_session(azurite):
    sent = sending(azurite, CONTENT)
    await sent.prepare()
    await sent.send()
    with container_of(azurite) as client:
        blob = client.get_blob_client(name_of(sent))
        blob.stage_block("x" * ID_SIZE, b"another one")
        blob.commit_block_list([BlobBlock("x" * ID_SIZE)])
        blob.delete_blob()
    fault = await refused(sent.commit())
    assert fault.kind is FaultKind.SESSION_LOST
    assert "written the blob meanwhile" in fault.detail


async def test_blocks_with_ids_of_another_length_are_in_the_way_and_the_error_says_so(azurite):
    sent = sending(azurite, CONTENT)
    await sent.prepare()
    with container_of(azurite) as client:
        client.get_blob_client(name_of(sent)).stage_block("AAAA", b"x")
    fault = await refused(sent.send(0))
    assert fault.status == 400
    assert "ids of another length" in fault.detail
    assert [(each.id, each.detail[:32]) for each in await sent.protocol.orphans()] == [
        ("others", "1 uncommitted blocks of 1 bytes:")
    ]


# The commit


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_commit_is_proved_by_the_blob_alone(azurite, content):
    sent = sending(azurite, content)
    await sent.prepare()
    if not sent.session.capabilities.commits_with_last_part:
        await sent.send()
    assert (await sent.protocol.reconcile(sent.session)).outcome is Outcome.NOT_COMMITTED
    result = await sent.commit()
    found = await sent.protocol.reconcile(sent.session)
    assert (found.outcome, found.result["etag"]) == (Outcome.COMMITTED, result["etag"])


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_commit_that_is_sent_again_finds_what_it_has_made(azurite, content):
    sent = sending(azurite, content)
    result = await sent.all()
    again = await sent.commit()
    assert again["etag"] == result["etag"]


async def test_a_blob_of_blocks_is_made_of_those_that_are_named_alone(azurite):
    sent = sending(azurite, CONTENT)
    await sent.prepare()
    await sent.send()
    with container_of(azurite) as client:
        stray = client.get_blob_client(name_of(sent))
        stray.stage_block("x" * ID_SIZE, b"a stray block")
        await sent.commit()
        assert stored(azurite, name_of(sent)) == CONTENT
        assert len(stray.get_block_list("all")[0]) == 3


async def test_an_abort_changes_nothing_and_what_stands_is_told(azurite):
    sent = sending(azurite, CONTENT)
    await sent.prepare()
    await sent.send(0, 1)
    await sent.protocol.abort(sent.session)
    (orphan,) = await sent.protocol.orphans()
    assert (orphan.id, orphan.ours) == (sent.session.id, True)
    assert orphan.detail.startswith(f"2 uncommitted blocks of {2 * PART:,} bytes")
    assert "a week after" in orphan.detail


async def test_an_abort_of_an_upload_to_a_blob_that_is_there_leaves_the_blob(azurite):
    name = fresh_key()
    await sending(azurite, b"older", name=name).all()
    sent = sending(azurite, CONTENT, name=name, overwrite="replace")
    await sent.prepare()
    await sent.send(0)
    await sent.protocol.abort(sent.session)
    assert stored(azurite, name) == b"older"


# What is wrong is said


async def test_a_wrong_key_and_an_unknown_account_and_container(azurite):
    wrong = sending(azurite, SMALL, tools=tools_of(AzureKey(account=azurite.key.account, key=WRONG)))
    fault = await refused(wrong.all())
    assert fault.status == 403
    assert "'default'" in fault.detail
    assert WRONG not in fault.detail
    unknown = sending(azurite, SMALL, tools=tools_of(AzureKey(account="nobody", key=WRONG)))
    assert (await refused(unknown.all())).status in (403, 404)
    nowhere = sending(azurite, CONTENT)
    nowhere.url = "azure://no-such-container/name"
    fault = await refused(nowhere.all())
    assert (fault.status, "no container 'no-such-container'" in fault.detail) == (404, True)


async def test_a_token_over_plain_http_and_a_key_of_s3_are_refused(azurite):
    sent = sending(azurite, SMALL, tools=tools_of(BearerToken(token="made-up")))
    fault = await refused(sent.all())
    assert fault.status in (401, 403)
    assert "made-up" not in fault.detail


def sas_of(server, permissions, end=60 * MINUTE, **options):
    return service_sas(
        server.key,
        server.container,
        permissions=permissions,
        expires=wall() + end,
        https_only=False,
        **options,
    )


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_sas_that_may_read_create_and_write_is_enough(azurite, content):
    sent = sending(azurite, content, tools=tools_of(sas_of(azurite, "rcw")))
    await sent.all()
    assert stored(azurite, name_of(sent)) == content


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_sas_of_an_account_is_enough(azurite, content):
    sas = account_sas(azurite.key, permissions="rcw", expires=wall() + MINUTE, https_only=False)
    sent = sending(azurite, content, tools=tools_of(sas))
    await sent.all()
    assert stored(azurite, name_of(sent)) == content


async def test_a_sas_that_may_only_read_does_not_upload_and_one_that_may_only_write_does_not_download(
    azurite,
):
    reader = sending(azurite, SMALL, tools=tools_of(sas_of(azurite, "r")))
    fault = await refused(reader.all())
    assert fault.status == 403
    assert "A SAS needs r to download; cw to upload" in fault.detail
    there = sending(azurite, SMALL)
    await there.all()
    protocol = download_of(azurite, there.url, tools_of(sas_of(azurite, "w")))
    verdict, _ = await read(protocol.ask(Asked(0, 5, None)))
    assert isinstance(verdict, Wrong)
    assert verdict.fault.status == 403
    assert "A SAS needs r to download" in verdict.fault.detail


@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["put", "blocks"])
async def test_a_sas_that_may_not_read_uploads_what_is_not_there_and_nothing_else(azurite, content):
    sent = sending(azurite, content, tools=tools_of(sas_of(azurite, "cw")))
    await sent.all()
    assert stored(azurite, name_of(sent)) == content
    again = sending(azurite, content[::-1], name=name_of(sent), tools=tools_of(sas_of(azurite, "cw")))
    fault = await refused(again.all())
    assert fault.status in (409, 412)
    assert stored(azurite, name_of(sent)) == content


async def test_a_sas_that_has_ended_is_told_by_itself_and_by_the_server(azurite):
    ended = sas_of(azurite, "rcw", -MINUTE)
    fault = await refused(sending(azurite, SMALL, tools=tools_of(ended)).all())
    assert fault.kind is FaultKind.EXPIRED
    late = tools_of(ended, clock=lambda: wall() - 2 * MINUTE)  # ours is late: the server has to say it
    fault = await refused(sending(azurite, SMALL, tools=late).all())
    assert fault.status == 403
    assert "sig=" not in fault.detail


async def test_a_sas_that_the_server_takes_no_more_is_asked_for_anew_once_and_nothing_is_sent_again(azurite):
    given = []

    def provider():
        # The first one has ended for the server, and not by the clock here.
        given.append(sas_of(azurite, "rcw", 60 * MINUTE if given else -MINUTE))
        return given[-1]

    sent = sending(azurite, CONTENT, tools=tools_of(provider, clock=lambda: wall() - 2 * MINUTE))
    await sent.all()
    assert len(given) == 2
    assert stored(azurite, name_of(sent)) == CONTENT


# Downloads


async def read(asking):
    async with asking as answer:
        body = bytearray()
        while not isinstance(answer.verdict, Wrong) and (chunk := await answer.read(1 << 20)):
            body += chunk
        return answer.verdict, bytes(body)


async def test_a_download_reads_signed_ranges(azurite):
    sent = sending(azurite, CONTENT)
    await sent.all()
    protocol = download_of(azurite, sent.url, sent.tools)
    verdict, body = await read(protocol.ask(Asked(0, 1000, None)))
    assert isinstance(verdict, Partial)
    assert (body, verdict.generation.size) == (CONTENT[:1000], len(CONTENT))
    pinned = verdict.generation
    assert (await read(protocol.ask(Asked(PART, None, pinned))))[1] == CONTENT[PART:]
    whole, body = await read(protocol.ask(Asked(0, None, None)))
    assert isinstance(whole, Whole)
    assert body == CONTENT


async def test_a_replaced_blob_is_not_mixed_with_the_older_one(azurite):
    sent = sending(azurite, SMALL)
    await sent.all()
    protocol = download_of(azurite, sent.url, sent.tools)
    verdict, _ = await read(protocol.ask(Asked(0, 5, None)))
    await sending(azurite, SMALL[::-1], name=name_of(sent), overwrite="replace").all()
    verdict, _ = await read(protocol.ask(Asked(5, None, verdict.generation)))
    assert type(verdict).__name__ == "Changed"


@pytest.mark.parametrize("with_sas", [False, True])
async def test_a_snapshot_is_read_when_the_blob_has_changed(azurite, with_sas):
    sent = sending(azurite, SMALL)
    await sent.all()
    with container_of(azurite) as client:
        snapshot = client.get_blob_client(name_of(sent)).create_snapshot()["snapshot"]
    await sending(azurite, SMALL[::-1], name=name_of(sent), overwrite="replace").all()
    for which, content in (({"snapshot": snapshot}, SMALL), ({}, SMALL[::-1])):
        sas = sas_of(azurite, "r", blob=name_of(sent), **which)
        protocol = download_of(azurite, sent.url, tools_of(sas if with_sas else azurite.key), **which)
        assert (await read(protocol.ask(Asked(0, 5, None))))[1] == content[:5]


async def test_a_blob_that_is_not_there_is_a_clear_error(azurite):
    url = f"azure://{azurite.container}/nothing"
    verdict, _ = await read(download_of(azurite, url, tools_of(azurite.key)).ask(Asked(0, 5, None)))
    assert isinstance(verdict, Wrong)
    assert verdict.fault.status == 404
    assert "no such blob" in verdict.fault.detail


async def test_blocks_that_another_program_has_committed_are_a_blob_as_any(azurite):
    name = fresh_key()
    with container_of(azurite) as client:
        blob = client.get_blob_client(name)
        for number in range(3):
            blob.stage_block(f"{number:04}", CONTENT[number * PART : (number + 1) * PART])
        blob.commit_block_list([BlobBlock(f"{number:04}") for number in range(3)])
    protocol = download_of(azurite, f"azure://{azurite.container}/{name}", tools_of(azurite.key))
    assert (await read(protocol.ask(Asked(PART - 1, PART + 1, None))))[1] == CONTENT[PART - 1 : PART + 1]
