"""A store that takes signed requests, a back end that signs for it, and what an engine lends to a protocol.

The store is scripted: it forgets, refuses and answers late as the tests say. A signature is a word in the
query, good while the store says so.
"""

import hashlib
import threading
from collections import defaultdict

import anyio
from werkzeug import Response

from meowcat.core.plans import PlanPart, PlanRequest, UploadPlan
from meowcat.core.values import TaskId
from meowcat.protocols.contract import Job, Tools
from meowcat.protocols.credentials import Credentials
from meowcat.protocols.presigned import PresignedProtocol
from meowcat.protocols.presigned_settings import PresignedUpload
from meowcat.protocols.refreshers import Refreshers

CANARY = "c0ffee5ec12e7c0ffee5ec12e7"
"""Part of every signature: it may stand nowhere but in requests."""
NOW = 1_700_000_000_000
CHUNK = 1000
EXPIRED = (
    "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)


def error(code, status):
    """An error of S3's, with a quote of the signature in it, as some servers do."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>sig={CANARY}</Message></Error>"
    return Response(body, status, content_type="application/xml")


def _md5(data):
    return hashlib.md5(data, usedforsecurity=False)


class Piece:
    """A part, as the engine hands it over."""

    def __init__(self, index, start, data):
        self.index, self.start, self.size, self.data = index, start, len(data), data

    async def checksum(self, algorithm):
        return hashlib.new(algorithm, self.data).hexdigest()

    async def body(self):
        for at in range(0, self.size, 300):
            yield self.data[at : at + 300]


def pieces(content, chunk=CHUNK):
    return [Piece(at // chunk, at, content[at : at + chunk]) for at in range(0, len(content), chunk)]


class Store:
    """Answers every request to `server`: keeps parts by number, joins them on POST, drops them on DELETE."""

    def __init__(self, server):
        self.server = server
        self.good = {f"{CANARY}0"}
        """Signatures that are taken."""
        self.uploads = {"u1": {}}
        self.object = None
        self.joined = None, ""
        """The object that was made of parts, and its ETag."""
        self.more = {}
        """More headers of the object."""
        self.requests = []
        self.answers = defaultdict(list)
        """By method: replies that are given in turn, in the place of the store's own; None is its own."""
        self.after = defaultdict(list)
        """The same, but after the request has done its work: the reply that is lost."""
        self.gate = None
        """A barrier that each PUT waits at."""
        self.lock = threading.Lock()
        server.expect_request("/bucket/big.iso").respond_with_handler(self)

    @property
    def url(self):
        return self.server.url_for("/bucket/big.iso")

    def count(self, method):
        return sum(request.method == method for request in self.requests)

    def __call__(self, request):
        request.get_data()
        if self.gate is not None and request.method == "PUT":
            self.gate.wait(10)
        with self.lock:
            self.requests.append(request)
            if request.args.get("sig") not in self.good:
                return Response(EXPIRED, 403, content_type="application/xml")
            planned = self.answers[request.method]
            if planned and (answer := planned.pop(0)) is not None:
                return answer
            done = getattr(self, f"do_{request.method.lower()}")(request)
            late = self.after[request.method]
            return (late.pop(0) if late else None) or done

    def do_put(self, request):
        upload = request.args.get("uploadId")
        if upload is None:
            self.object = request.get_data()
            return Response("", 200, {"ETag": '"whole"'})
        if upload not in self.uploads:
            return error("NoSuchUpload", 404)
        data = request.get_data()
        self.uploads[upload][int(request.args["partNumber"])] = data
        return Response("", 200, {"ETag": f'"{_md5(data).hexdigest()}"'})

    def do_post(self, request):
        parts = self.uploads.pop(request.args["uploadId"], None)
        if parts is None:
            return error("NoSuchUpload", 404)
        self.object = b"".join(parts[number] for number in sorted(parts))
        md5s = b"".join(_md5(parts[number]).digest() for number in sorted(parts))
        self.joined = self.object, f"{_md5(md5s).hexdigest()}-{len(parts)}"
        return Response("<CompleteMultipartUploadResult><ETag>&quot;joined-3&quot;</ETag></…>", 200)

    def do_delete(self, request):
        known = self.uploads.pop(request.args["uploadId"], None)
        return Response("", 204) if known is not None else error("NoSuchUpload", 404)

    def do_head(self, request):
        if self.object is None:
            return Response("", 404)
        content, etag = self.joined
        etag = etag if content is self.object else _md5(self.object).hexdigest()
        return Response(self.object, 200, {"ETag": f'"{etag}"', "x-amz-meta-upload": "order-7"} | self.more)


class BackEnd:
    """Signs plans for a store, as a refresher."""

    def __init__(self, store, size, **fields):
        self.store = store
        self.size = size
        self.fields = fields
        self.asked = []
        self.signature = 0
        self.upload = "u1"
        self.failure = None
        self.lifetime = None

    def sign(self, **query):
        words = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{self.store.url}?{words}&sig={CANARY}{self.signature}"

    def plan(self, **changes):
        expires = None if self.lifetime is None else NOW + self.lifetime
        parts = tuple(
            PlanPart(
                piece.index + 1,
                piece.start,
                piece.size,
                self.sign(partNumber=piece.index + 1, uploadId=self.upload),
                expires=expires,
            )
            for piece in pieces(bytes(self.size))
        )
        ending = {
            "complete": PlanRequest("POST", self.sign(uploadId=self.upload), expires=expires),
            "abort": PlanRequest("DELETE", self.sign(uploadId=self.upload), expires=expires),
            "check": PlanRequest("HEAD", self.sign(), expires=expires),
            "completion": "s3-xml",
            "upload_id": self.upload,
        }
        fields = ending | self.fields | changes
        return UploadPlan(total_size=self.size, chunk_size=CHUNK, parts=parts, **fields)

    async def __call__(self, request):
        self.asked.append(request)
        await anyio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.signature += 1
        with self.store.lock:
            self.store.good = {f"{CANARY}{self.signature}"}
        return self.plan()


class Lent:
    """What an engine lends, with a clock of the test's own."""

    def __init__(self, transport, refreshers=None):
        self.now = NOW
        self.refreshers = Refreshers(refreshers)
        self.tools = Tools(transport, lambda: self.now, Credentials(), self.refreshers, {})

    def protocol(self, plan, *, handed=True, refresher="", size=None, confirmed=(), headers=None):
        """A protocol object, as each operation of a task gets one of its own."""
        settings = PresignedUpload(plan, refresher)
        job = Job(
            task=TaskId("01"),
            spec=settings.spec(),
            url=plan.object,
            headers=headers or {},
            name="big.iso",
            size=plan.total_size if size is None else size,
            digests={},
            plan=plan if handed else None,
            confirmed=numbers(confirmed),
        )
        return PresignedProtocol(job, self.tools)


def numbers(indices):
    from meowcat.core.pieces import IntervalSet  # noqa: PLC0415  # of this one function

    return IntervalSet.of(*((index, index + 1) for index in indices))
