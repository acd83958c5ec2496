"""Canaries in every slot that a credential of Azure has, and nothing that anybody sees holds one."""

import base64
import json
import logging
import sys
import traceback
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))  # importlib mode imports no neighbours

from azure_harness import fresh_key

import meowcat
from meowcat import AzureBlob, AzureKey, AzureSas, BearerToken

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

SIGNATURE = base64.b64encode(b"canary-of-a-signature").decode()
CREDENTIALS = {
    "key": (AzureKey(account="devstoreaccount1", key=SIGNATURE), SIGNATURE),
    "sas": (
        AzureSas(token=f"sv=2023-11-03&sp=rcw&sr=c&se=2099-01-01T00:00:00Z&sig={quote(SIGNATURE, safe='')}"),
        SIGNATURE,
    ),
    "token": (BearerToken(token="canary.of-a.token"), "canary.of-a.token"),
}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def disguises(secret):
    """As it may turn up."""
    raw = secret.encode()
    plain = {secret, quote(secret, safe=""), quote(secret, safe="").lower(), raw.hex()}
    return plain | {
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }


def chain(error):
    return "".join(traceback.format_exception(error)) + "".join(map(repr, error.args))


@pytest.mark.parametrize("way", ["refused", "unreachable"])
@pytest.mark.parametrize("kind", CREDENTIALS)
async def test_nothing_that_anybody_sees_holds_a_secret(tmp_path, azurite, caplog, kind, way):
    caplog.set_level(logging.DEBUG)
    credential, secret = CREDENTIALS[kind]
    path = tmp_path / "source.bin"
    path.write_bytes(bytes(9 << 20))
    endpoint = azurite.endpoint if way == "refused" else "http://127.0.0.1:9/devstoreaccount1"
    settings = AzureBlob(endpoint=endpoint)
    config = meowcat.Config(control=False, retries=0, prepare_retries=0)
    told = []
    async with meowcat.Engine(
        tmp_path / "t.db", config=config, credentials={"default": credential}
    ) as engine:
        engine.add_listener(lambda event: told.append(repr(event)))
        url = f"azure://{azurite.container}/{fresh_key()}"
        tasks = [
            await engine.submit(meowcat.Upload(str(path), url, settings)),
            await engine.submit(meowcat.Download(url + ".other", str(tmp_path / "back"), protocol=settings)),
        ]
        for task in tasks:
            if way == "refused" and kind != "token":
                with pytest.raises(meowcat.TransferFailed) as error:
                    await task.result()
                told.append(chain(error.value))
            else:  # it waits: for the host, or for a token that is good
                async for event in engine.events():
                    if event.task == task.id and type(event.event).__name__ in ("AttemptFailed", "Failed"):
                        break
            told += [repr(task.info), repr([each async for each in task.history()])]
            told.append(msgspec.json.encode(task.info).decode())
        told.append(repr(engine))
    told.append(caplog.text)
    told.append(json.dumps([record.getMessage() for record in caplog.records]))
    files = b"".join(path.read_bytes() for path in tmp_path.glob("t.db*"))
    for disguise in disguises(secret):
        assert disguise not in "".join(told)
        assert disguise.encode() not in files
