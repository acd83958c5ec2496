"""Not an example: servers on loopback for those that need Aliyun OSS or Azure, unless they are told of a real
one. What they need to know of it stands in the environment in both cases.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from meowcat.protocols.signing.sas import service_sas
from meowcat.testing.azurite import Azurite
from meowcat.testing.servers import Content, RangeServer, ServerMissing

SERVERS = Path(__file__).parents[1] / "tests" / "servers"

CNAME = "http://files.example"
"""A domain that belongs to the bucket on loopback; the stand-in is its own proxy to it."""


@contextmanager
def oss() -> Iterator[Path]:
    """Where EXAMPLE_OSS_URL does not name a place in a real bucket, a stand-in for OSS.

    Yields the folder to work in: the current one, so that whoever is killed goes on when run again; or one
    that ends with the stand-in.
    """
    if "EXAMPLE_OSS_URL" in os.environ:
        yield Path()
        return
    sys.path.insert(0, str(SERVERS))
    # Nobody who has a bucket needs it, and no checker finds it.
    from oss_server import OSSServer  # type: ignore[import-not-found]  # noqa: PLC0415  # see above

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(OSSServer(folder / "oss"))
        server.ask("add_cname", host=CNAME.partition("//")[2], bucket=server.bucket)
        session = server.session(3600)
        answer = {
            "Code": "Success",
            "AccessKeyId": session.id,
            "AccessKeySecret": session.secret,
            "SecurityToken": session.token,
            "Expiration": "2099-01-01T00:00:00Z",
        }
        sessions = stack.enter_context(RangeServer(Content(data=json.dumps(answer).encode())))
        os.environ |= {
            "EXAMPLE_OSS_URL": f"oss://{server.bucket}/examples",
            "EXAMPLE_OSS_ENDPOINT": server.origin,
            "EXAMPLE_OSS_REGION": server.region,
            "EXAMPLE_OSS_CNAME": CNAME,
            "EXAMPLE_PROXY": server.origin,
            "ALIBABA_CLOUD_ACCESS_KEY_ID": server.key.id,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": server.key.secret,
            "ALIBABA_CLOUD_CREDENTIALS_URI": sessions.url,
        }
        yield folder


@contextmanager
def azure() -> Iterator[Path]:
    """As `oss`, with EXAMPLE_AZURE_URL and Azurite."""
    if "EXAMPLE_AZURE_URL" in os.environ:
        yield Path()
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "azurite").mkdir()
        try:
            server = stack.enter_context(Azurite(folder / "azurite"))
        except ServerMissing as missing:
            sys.exit(str(missing))
        ends = time.time_ns() // 1_000_000 + 3_600_000
        sas = service_sas(server.key, server.container, permissions="rcw", expires=ends, https_only=False)
        tokens = stack.enter_context(RangeServer(Content(data=sas.token.encode())))
        os.environ |= {
            "EXAMPLE_AZURE_URL": f"azure://{server.container}/examples",
            "EXAMPLE_AZURE_ENDPOINT": server.endpoint,
            "EXAMPLE_SAS_URL": tokens.url,
            "AZURE_STORAGE_ACCOUNT": server.key.account,
            "AZURE_STORAGE_KEY": server.key.key,
        }
        yield folder
