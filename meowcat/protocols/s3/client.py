"""Requests as S3 takes them: signed with version 4, and with those headers that have a place there."""

from collections.abc import Mapping

from meowcat.core.values import Fault
from meowcat.protocols.contract import Tools
from meowcat.protocols.credentials import AccessKey, Credential
from meowcat.protocols.objects.documents import error_code
from meowcat.protocols.objects.exchange import Signer, Unsigned
from meowcat.protocols.objects.headers import Placement
from meowcat.protocols.s3.address import Address
from meowcat.protocols.s3.replies import classify
from meowcat.protocols.signing.sigv4 import EMPTY_SHA256, UNSIGNED, sign
from meowcat.protocols.wire import Reply

__all__ = ["PLACES", "S3Signer", "sent_with"]

_STALE = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"})
"""What a credential that was good before leads to."""

PLACES = Placement(
    ours=(
        "authorization", "host", "range", "content-length", "content-md5", "transfer-encoding", "x-amz-date",
        "x-amz-content-sha256*", "x-amz-security-token*", "x-amz-checksum-*", "x-amz-sdk-checksum-*",
    ),
    of_object=(
        "cache-control", "expires", "x-amz-acl", "x-amz-storage-class", "x-amz-tagging",
        "content-*", "x-amz-grant-*", "x-amz-meta-*", "x-amz-object-lock-*", "x-amz-server-side-encryption*",
        "x-amz-website-*",
    ),
    of_commit=("if-match", "if-none-match"),
    everywhere=("x-amz-server-side-encryption-customer-*",),
)  # fmt: skip

sent_with = PLACES.sent


class S3Signer(Signer):
    """Signs requests to the server of one object."""

    def __init__(self, address: Address, credential: str, tools: Tools) -> None:
        super().__init__(address.endpoint, credential, tools)
        self._address = address

    def signed(self, request: Unsigned, key: Credential, at: int) -> tuple[str, Mapping[str, str]]:
        """That there is no body is signed in any case."""
        payload = request.payload or (UNSIGNED if request.length else EMPTY_SHA256)
        region = self._address.region
        assert isinstance(key, AccessKey)  # noqa: S101  # `kinds` says so
        added = sign(request.method, request.url, request.headers, key, region=region, at=at, payload=payload)
        return request.url, added

    def is_clock(self, reply: Reply) -> bool:
        return error_code(reply) == "RequestTimeTooSkewed"

    def is_stale(self, reply: Reply, method: str, key: Credential) -> bool:
        assert isinstance(key, AccessKey)  # noqa: S101  # see above
        silent = method == "HEAD" and reply.status == 400 and key.token is not None  # noqa: PLR2004  # what ExpiredToken comes with
        return silent or error_code(reply) in _STALE

    def fault(self, reply: Reply, doing: str) -> Fault:
        return classify(reply, doing, self._address, self.credential, self._tools.wall())
