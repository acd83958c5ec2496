"""Uploads to Azure: one Put Blob for what is small, blocks in any order for the rest.

https://learn.microsoft.com/rest/api/storageservices/put-block-list

Azure knows no uploads. Blocks that nobody has committed belong to the blob; a commit, whoever sends it, drops
all that it does not list, and what nobody commits goes a week after the last block. There is no way to remove
them sooner without touching the blob, so nothing is ever removed here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

from meowcat.core.errors import InvalidArgument
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.transfers import ProtocolSpec
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.azure.address import address_of, resolve
from meowcat.protocols.azure.blocks import Block, block_id, held_of, nonce_of, owner_of
from meowcat.protocols.azure.client import DESCRIBING, PLACES, AzureSigner
from meowcat.protocols.azure.replies import blocks_of, completion, error_code
from meowcat.protocols.azure.settings import MARK, META, TAG
from meowcat.protocols.contract import (
    Job,
    Orphan,
    Outcome,
    Part,
    Prepared,
    Reconciled,
    Refused,
    Tools,
    UploadProtocol,
)
from meowcat.protocols.objects.documents import refusal
from meowcat.protocols.objects.exchange import Client, needs_of, whole
from meowcat.protocols.s3.checksums import base64_of, hex_of
from meowcat.protocols.signing.shared_key import VERSION
from meowcat.protocols.wire import Reply

__all__ = ["MAX_BLOCK", "MAX_BLOCKS", "MAX_SIZE", "AzureUpload", "blob_headers"]

ONE_PUT = 8 << 20
"""Bytes up to which a blob is sent by one request."""
MAX_BLOCK = 4000 << 20
MAX_BLOCKS = 50_000
MAX_SIZE = MAX_BLOCK * MAX_BLOCKS

MARKER = f"x-ms-meta-{MARK}"
_OK, _CREATED, _NOT_FOUND = 200, 201, 404
_DENIED = frozenset({"AuthorizationPermissionMismatch", "InsufficientAccountPermissions"})
"""What a SAS is answered that may write and not read."""
_TAKEN = frozenset({"BlobAlreadyExists", "ConditionNotMet", "InvalidBlockList", "UnauthorizedBlobOverwrite"})
"""What a commit is answered that took place already."""
_MARK, _ETAG = "mark", "etag"
"""What the session remembers: the blob's mark, and what was there at the beginning."""
_NOTHING, _UNKNOWN = "", "?"


class AzureUpload(UploadProtocol):
    """One upload of one blob."""

    tag: ClassVar[str] = TAG
    removes: ClassVar[bool] = False

    def __init__(self, job: Job, tools: Tools) -> None:
        super().__init__(job, tools)
        self._address = address_of(job.spec)
        self._signer = AzureSigner(self._address, str(job.spec.fields["credential"]), tools)
        self._client = Client(self._signer, tools)

    @classmethod
    def resolve(cls, url: str, spec: ProtocolSpec, plan: object | None = None) -> tuple[str, ProtocolSpec]:  # noqa: ARG003  # the contract's
        """See `address.resolve`."""
        for name in ("snapshot", "version_id"):
            if name in spec.fields:
                raise InvalidArgument(f"{name}: an upload makes a new blob; it is for downloads")
        return resolve(url, spec)

    @classmethod
    def needs(cls, spec: ProtocolSpec) -> tuple[str, ...]:
        return needs_of(spec)

    def capabilities(self) -> Capabilities:
        """What is small is one part, which the commit sends. Of the rest nothing has to be removed."""
        if self.job.size <= ONE_PUT:
            return Capabilities(
                session=False,
                lists_parts=False,
                commits_with_last_part=True,
                part_checksum=self._algorithm,
                max_parts=1,
                max_part=ONE_PUT,
                max_size=ONE_PUT,
            )
        return Capabilities(
            session=False,
            part_checksum=self._algorithm,
            empty=False,
            max_parts=MAX_BLOCKS,
            max_part=MAX_BLOCK,
            max_size=MAX_SIZE,
        )

    @property
    def _algorithm(self) -> str | None:
        wanted = str(self.job.spec.fields["checksum"])
        return {"auto": "md5", "none": None}.get(wanted, wanted)

    # The session

    async def prepare(self, session: Session | None) -> Prepared:
        if session is not None:
            return await self._resume(session)
        # The moment tells this attempt from an earlier one of the same task.
        mark = f"{self.job.task}-{self.tools.wall():x}"
        facts = {_MARK: mark, _ETAG: await self._there_before()}
        nonce = nonce_of(self.job.task, mark)
        return Prepared(session=Session(id=nonce, capabilities=self.capabilities(), facts=facts))

    async def _there_before(self) -> str:
        """The ETag of what is there now.

        Raises:
            Refused: TARGET_EXISTS, where it is to stay.
        """
        reply = await self._head()
        if reply.status == _OK and self._keeps:
            raise Refused(self._exists())
        if reply.status == _OK:
            return reply.header("etag") or _UNKNOWN
        if error_code(reply) in _DENIED:  # it may write and not read: the commit's condition has to do
            return _UNKNOWN
        if reply.status == _NOT_FOUND and error_code(reply) != "ContainerNotFound":
            return _NOTHING
        raise self._refused(reply, "a look at")

    @property
    def _keeps(self) -> bool:
        """Whether what is there stays."""
        return self.job.spec.fields["overwrite"] == "never"

    async def _resume(self, session: Session) -> Prepared:
        """What Azure has; the blob itself, where the blocks are gone because they were committed."""
        if session.capabilities.commits_with_last_part:
            return Prepared(session=session)
        held = held_of((await self._list())[0], session.id)
        if held or not self.job.confirmed:
            return Prepared(session=session, held=held)
        done = self._committed(session, await self._head())
        if done is None:
            raise Refused(self._lost())
        return Prepared(session=session, done=done)

    async def _list(self) -> tuple[list[Block], list[int]]:
        """The uncommitted blocks of meowcat's, and the sizes of all others."""
        url = self._address.with_query(("comp", "blocklist"), ("blocklisttype", "uncommitted"))
        reply = await self._client.ask("GET", url, self._plain())
        if reply.status == _NOT_FOUND and error_code(reply) in ("BlobNotFound", ""):
            return [], []
        if reply.status != _OK:
            raise self._refused(reply, "the list of blocks of")
        return blocks_of(reply)

    # Blocks

    async def send_part(self, session: Session, part: Part) -> Receipt:
        digest = await part.checksum("blake3")
        name = block_id(session.id, part.index, digest)
        url = self._address.with_query(("comp", "block"), ("blockid", name))
        checked = await self._checked(part)
        reply = await self._client.ask("PUT", url, self._plain() | checked, part.body, part.size)
        self._look_at(reply, checked, f"block {part.index + 1} of")
        return Receipt(text=name, checksum=f"blake3:{digest}")

    async def _checked(self, part: Part) -> dict[str, str]:
        """The header of a part's checksum."""
        algorithm = self._algorithm
        if algorithm is None:
            return {}
        digits = await part.checksum(algorithm)
        if algorithm == "md5":
            return {"content-md5": base64_of(digits)}
        return {"x-ms-content-crc64": base64_of(bytes.fromhex(digits)[::-1].hex())}  # the low byte first

    def _look_at(self, reply: Reply, checked: Mapping[str, str], doing: str) -> None:
        """See that Azure took what was sent.

        Raises:
            Refused: it did not.
        """
        if reply.status != _CREATED:
            raise self._refused(reply, doing)
        for name, value in checked.items():
            said = reply.header(name)
            if said is not None and hex_of(said) != hex_of(value):
                detail = f"{doing} {self._address.shown}: {name} is {said[:60]!r} there; {value!r} was sent"
                raise Refused(Fault(kind=FaultKind.CHECKSUM, detail=detail))

    # The commit

    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        headers = self._plain() | self._of_blob(session)
        if last is not None:
            checked = await self._checked(last)
            headers |= {"x-ms-blob-type": "BlockBlob", **checked}
            body = last.body if last.size else None
            reply = await self._client.ask("PUT", self._address.url, headers, body, last.size)
            doing = "the upload to"
        else:
            content = completion(receipts[index].text for index in sorted(receipts))
            checked = {"content-md5": base64_of(hashlib.md5(content, usedforsecurity=False).hexdigest())}
            headers |= {"content-type": "application/xml", **checked}
            url = self._address.with_query(("comp", "blocklist"))
            reply = await self._client.ask("PUT", url, headers, whole(content), len(content))
            doing = "the commit of"
        if reply.status != _CREATED and error_code(reply) in _TAKEN:
            return await self._not_taken(session, reply, doing)
        self._look_at(reply, checked, doing)
        return _result(reply)

    def _of_blob(self, session: Session) -> dict[str, str]:
        """What the blob has from its beginning, and the condition under which it may come to be."""
        headers = PLACES.sent(self.job.headers, creates=True)
        given = {name.lower(): value for name, value in self.job.headers.items()}
        headers |= {f"x-ms-blob-{name}": given[name] for name in DESCRIBING if name in given}
        headers |= {MARKER: session.facts[_MARK]} | blob_headers(self.job.spec.fields)
        if "md5" in self.job.digests:
            headers["x-ms-blob-content-md5"] = base64_of(self.job.digests["md5"])
        before = session.facts[_ETAG]
        if self._keeps or before == _NOTHING:
            return headers | {"if-none-match": "*"}
        return headers if before == _UNKNOWN else headers | {"if-match": before}

    async def _not_taken(self, session: Session, reply: Reply, doing: str) -> dict[str, str]:
        """What has changed may be what an earlier request has made, whose reply was lost."""
        head = await self._head()
        done = self._committed(session, head)
        if done is not None:
            return done
        if head.status == _OK and self._keeps:
            raise Refused(self._exists())
        raise self._refused(reply, doing)

    async def reconcile(self, session: Session) -> Reconciled:
        """A commit is repeated only where nothing has changed that it depends on; otherwise it would fail,
        and `prepare` has to tell what there is."""
        head = await self._head_told()
        done = self._committed(session, head)
        if done is None and await self._stands(session, head):
            return Reconciled(outcome=Outcome.NOT_COMMITTED)
        # The blocks are gone. The commit may have come through between the two questions.
        done = done or self._committed(session, await self._head_told())
        if done is not None:
            return Reconciled(outcome=Outcome.COMMITTED, result=done)
        return Reconciled(outcome=Outcome.LOST)

    async def _stands(self, session: Session, head: Reply) -> bool:
        """Whether the commit can still be sent."""
        now = _NOTHING if head.status == _NOT_FOUND else head.header("etag")
        before = session.facts[_ETAG]
        if before not in (_UNKNOWN, now) or (self._keeps and now != _NOTHING):
            return False
        if session.capabilities.commits_with_last_part:
            return True
        return any(block.nonce == session.id for block in (await self._list())[0])

    def _committed(self, session: Session, head: Reply) -> dict[str, str] | None:
        """What the commit has returned, where the blob that stands there has this session's mark."""
        same = head.status == _OK and head.header(MARKER) == session.facts[_MARK]
        same = same and head.header("content-length") == str(self.job.size)
        return _result(head) if same else None

    async def _head(self) -> Reply:
        return await self._client.ask("HEAD", self._address.url, self._plain())

    async def _head_told(self) -> Reply:
        """The same, where nothing else tells.

        Raises:
            Refused: it may not be asked for, or there is no answer.
        """
        reply = await self._head()
        if reply.status not in (_OK, _NOT_FOUND):
            raise self._refused(reply, "a look at")
        return reply

    # The end of a session

    async def abort(self, session: Session) -> None:
        """There is nothing that could be removed without touching the blob."""

    async def orphans(self) -> Sequence[Orphan]:
        """What uploads have left on this blob, whoever sent it: what is there of each session."""
        blocks, others = await self._list()
        blocks.sort(key=lambda block: block.nonce)
        owner = owner_of(self.job.task)
        found = [
            Orphan(id=nonce, ours=nonce.startswith(owner), detail=_kept([block.size for block in group]))
            for nonce, group in groupby(blocks, key=lambda block: block.nonce)
        ]
        return [*found, Orphan(id="others", detail=_kept(others))] if others else found

    # Words

    def _plain(self) -> dict[str, str]:
        """Those of the caller's headers that go with any request, and the version that all of them speak."""
        return PLACES.sent(self.job.headers) | {"x-ms-version": VERSION}

    def _refused(self, reply: Reply, doing: str) -> Refused:
        return Refused(self._signer.fault(reply, doing))

    def _exists(self) -> Fault:
        detail = (
            f"{self._address.shown} is there already, and stays as it is: name another one, or set "
            "AzureBlob(overwrite='replace')"
        )
        return Fault(kind=FaultKind.TARGET_EXISTS, detail=detail)

    def _lost(self) -> Fault:
        detail = f"Azure has none of the blocks of {self._address.shown} any more; it is begun anew"
        return Fault(kind=FaultKind.SESSION_LOST, detail=detail)


def blob_headers(fields: Mapping[str, str | int | bool]) -> dict[str, str]:
    """What settings say that a blob has, as headers of the request that makes it."""
    names = (("content_type", "x-ms-blob-content-type"), ("tier", "x-ms-access-tier"))
    headers = {header: str(fields[name]) for name, header in names if name in fields}
    return headers | {
        f"x-ms-meta-{name.removeprefix(META)}": str(value)
        for name, value in fields.items()
        if name.startswith(META)
    }


def _kept(sizes: Sequence[int]) -> str:
    return (
        f"{len(sizes)} uncommitted blocks of {sum(sizes):,} bytes: nothing removes them but time; Azure "
        "drops them a week after the last of them came, or when the blob is written"
    )


def _result(reply: Reply) -> dict[str, str]:
    version, etag = reply.header("x-ms-version-id"), reply.header("etag")
    if not etag:
        raise refusal("Azure made a blob and gave it no ETag")
    return {"etag": etag} | ({"version_id": version} if version else {})
