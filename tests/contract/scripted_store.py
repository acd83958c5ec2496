"""A server that answers as it is told, in the place of an object store of either kind."""

import re
from dataclasses import dataclass

import pytest
from objects_harness import PART, Sending, downloading, tools_of
from werkzeug.wrappers import Response

from meowcat.core.sessions import Receipt
from meowcat.protocols.contract import Refused
from meowcat.protocols.oss import AliyunOSS
from meowcat.protocols.s3 import S3

CONTENT = bytes(2 * PART + 10)
CREATED = "<InitiateMultipartUploadResult><UploadId>U1</UploadId></InitiateMultipartUploadResult>"
COMPLETED = '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
NO_PARTS = "<ListPartsResult/>"


def error(code, status=400, **headers):
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        (f"<Error><Code>{code}</Code><Message>m</Message></Error>"),
    )


GONE = error("NoSuchUpload", 404)


def reply(status=200, body="", **headers):
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


class Script:
    """Answers one request after the other, each with the next reply, and remembers what was asked."""

    def __init__(self, httpserver):
        self.origin = httpserver.url_for("").rstrip("/")
        self.replies = []
        self.seen = []
        httpserver.expect_request(re.compile(".*")).respond_with_handler(self._answer)

    def _answer(self, request):
        request.get_data()
        self.seen.append(request)
        status, headers, body = self.replies.pop(0)
        made = Response(body, status, headers)
        if "Content-Length" in headers:  # of a HEAD
            made.automatically_set_content_length = False
            made.headers["Content-Length"] = headers["Content-Length"]
            if not headers["Content-Length"]:
                del made.headers["Content-Length"]
        return made

    def answers(self, *replies):
        assert self.replies == [], "replies that nobody has asked for"
        self.seen.clear()
        self.replies += replies

    @property
    def asked(self):
        return [f"{each.method} {each.query_string.decode()}".strip() for each in self.seen]


@dataclass(frozen=True)
class Store:
    """One kind of store, as far as a script has to know it."""

    scheme: str
    prefix: str
    expired: tuple[str, int]
    """The code and the status by which a token has run out."""

    def settings(self, script, **more):
        if self.scheme == "s3":
            return S3(endpoint=script.origin, **more)
        return AliyunOSS(endpoint=script.origin, region="cn-hangzhou", **more)

    @property
    def marker(self):
        return f"{self.prefix}meta-meowcat-task"

    def run_out(self):
        return error(*self.expired)

    def sending(self, script, content=CONTENT, tools=None, headers=None, **more):
        return Sending(
            tools or tools_of(),
            f"{self.scheme}://bucket/key",
            content,
            self.settings(script, **more),
            headers or {},
        )

    async def begun(self, script, content=CONTENT, receipts=3, **options):
        sent = self.sending(script, content, **options)
        script.answers(reply(body=CREATED))
        await sent.prepare()
        sent.receipts = {index: Receipt(text=f'"{index}"') for index in range(receipts)}
        return sent

    def marked(self, sent, size=2 * PART + 10, **headers):
        mark = sent.session.facts["mark"]
        return reply(
            200, "", **{self.marker: mark, "Content-Length": f"{size or ''}", "ETag": '"e"', **headers}
        )

    def downloading(self, script, tools=None, *, keep_encoding=False, **more):
        url, settings = f"{self.scheme}://bucket/key", self.settings(script, **more)
        return downloading(settings, url, tools or tools_of(), keep_encoding=keep_encoding)


ON_S3 = Store("s3", "x-amz-", ("ExpiredToken", 400))
ON_OSS = Store("oss", "x-oss-", ("SecurityTokenExpired", 403))


def listed(*numbers, marker="", etag="0" * 32):
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>1</Size></Part>"
        for number in numbers
    )
    more = f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>"
    return reply(body=f"<ListPartsResult>{more if marker else ''}{parts}</ListPartsResult>")


async def refused(coroutine):
    with pytest.raises(Refused) as raised:
        await coroutine
    return raised.value.fault
