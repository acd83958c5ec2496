"""What the tests of Azure share: uploads, and the official SDK for what stands there in the end."""

import objects_harness
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient
from objects_harness import PART, PATIENT, Sending, fresh_key, wall
from objects_harness import downloading as downloading_of

from meowcat.protocols.azure import AzureBlob, AzureDownload
from meowcat.protocols.contract import Tools
from meowcat.protocols.credentials import AzureKey

__all__ = ["KEY", "PART", "PATIENT", "Sending", "fresh_key", "wall"]

KEY = AzureKey(account="account", key="bWFkZS11cA==")


def tools_of(credential=KEY, *, clock=wall) -> Tools:
    return objects_harness.tools_of(credential, clock=clock)


def sending(server, content, *, name=None, tools=None, headers=None, **settings) -> Sending:
    """An upload to a real server."""
    return Sending(
        tools or tools_of(server.key),
        f"azure://{server.container}/{name or fresh_key()}",
        content,
        AzureBlob(endpoint=server.endpoint, **settings),
        headers or {},
    )


def download_of(server, url, tools, **settings) -> AzureDownload:
    return downloading_of(AzureBlob(endpoint=server.endpoint, **settings), url, tools)


def container_of(server) -> ContainerClient:
    """The official SDK's."""
    key = {"account_name": server.key.account, "account_key": server.key.key}
    return ContainerClient(server.endpoint, server.container, credential=key)


def name_of(sent: Sending) -> str:
    return sent.url.split("/", 3)[3]


def stored(server, name: str) -> bytes | None:
    """What stands there."""
    with container_of(server) as client:
        try:
            return client.download_blob(name).readall()
        except ResourceNotFoundError:
            return None


def uncommitted(server, name: str):
    """The uncommitted blocks of a blob."""
    with container_of(server) as client:
        try:
            return client.get_blob_client(name).get_block_list("uncommitted")[1]
        except ResourceNotFoundError:
            return []
