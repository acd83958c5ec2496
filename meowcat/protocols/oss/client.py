"""Requests as OSS takes them: signed with version 4, and with those headers that have a place there."""

from collections.abc import Mapping

from meowcat.core.values import Fault
from meowcat.protocols.contract import Tools
from meowcat.protocols.credentials import AccessKey, Credential
from meowcat.protocols.objects.documents import text_of
from meowcat.protocols.objects.exchange import Signer, Unsigned
from meowcat.protocols.objects.headers import Placement
from meowcat.protocols.oss.address import Address
from meowcat.protocols.oss.replies import classify, told_error
from meowcat.protocols.signing.oss_v4 import sign
from meowcat.protocols.wire import Reply

__all__ = ["FORBID_OVERWRITE", "PLACES", "OSSSigner"]

_STALE = frozenset({"SecurityTokenExpired", "InvalidSecurityToken", "InvalidAccessKeyId"})
"""What a credential that was good before leads to."""

FORBID_OVERWRITE = "x-oss-forbid-overwrite"

PLACES = Placement(
    ours=(
        "authorization", "date", "host", "range", "content-length", "content-md5", "transfer-encoding",
        "x-oss-date", "x-oss-content-sha256", "x-oss-security-token", "x-oss-range-behavior",
        "x-oss-hash-*", "x-oss-signature-version", "x-oss-additional-headers",
    ),
    of_object=(
        "cache-control", "expires", "content-*", "x-oss-object-acl", "x-oss-storage-class", "x-oss-tagging",
        "x-oss-meta-*", "x-oss-server-side-*", "x-oss-persistent-headers",
    ),
    of_commit=(FORBID_OVERWRITE, "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
)  # fmt: skip


class OSSSigner(Signer):
    """Signs requests to the bucket of one object.

    Args:
        address: of the object.
        credential: the name of the one that signs.
        tools: of the engine.
        additional: names of headers that are signed besides, separated by `;`.
    """

    def __init__(self, address: Address, credential: str, tools: Tools, additional: str) -> None:
        super().__init__(address.endpoint, credential, tools)
        self._address = address
        self._additional = tuple(filter(None, additional.split(";")))

    def signed(self, request: Unsigned, key: Credential, at: int) -> tuple[str, Mapping[str, str]]:
        address = self._address
        assert isinstance(key, AccessKey)  # noqa: S101  # `kinds` says so
        return request.url, sign(
            request.method,
            request.url,
            request.headers,
            key,
            region=address.region,
            at=at,
            bucket=None if address.style == "path" else address.bucket,
            additional_headers=self._additional,
        )

    def is_clock(self, reply: Reply) -> bool:
        return text_of(told_error(reply), "Code") == "RequestTimeTooSkewed"

    def is_stale(self, reply: Reply, method: str, key: Credential) -> bool:  # noqa: ARG002  # OSS says it to a HEAD, too
        return text_of(told_error(reply), "Code") in _STALE

    def fault(self, reply: Reply, doing: str) -> Fault:
        return classify(reply, doing, self._address, self.credential, self._tools.wall())
