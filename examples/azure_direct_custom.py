"""Azure Blob, direct, by a protocol of one's own: each part becomes a blob, and the commit writes a list
of them. So whoever reads can have slices of their own, from a cache, say.

python examples/azure_direct_custom.py

It talks to Azurite on loopback, or to Azure, as azure_direct.py does. Signatures, clocks that are wrong and
credentials that end are left to what `AzureBlob` is made of.
"""

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

import loopback
import msgspec

import meowcat
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.azure.address import address_of, resolve
from meowcat.protocols.azure.client import AzureSigner
from meowcat.protocols.contract import (
    Job,
    Outcome,
    Part,
    Prepared,
    Reconciled,
    Refused,
    Tools,
    UploadProtocol,
)
from meowcat.protocols.objects.exchange import Client, needs_of, whole
from meowcat.protocols.signing.shared_key import VERSION
from meowcat.protocols.wire import Reply

MIB = 1 << 20
SIZE = 10 * MIB + 4711
MARKER = "x-ms-meta-session"
"""By which a list is proved to be of one upload."""
_OPEN = "open"


class Slices(msgspec.Struct, frozen=True):
    """What users choose it by: `protocol=Slices(meowcat.AzureBlob(…))`."""

    settings: meowcat.AzureBlob

    def spec(self) -> meowcat.ProtocolSpec:
        return msgspec.structs.replace(self.settings.spec(), tag=SlicesUpload.tag)


class SlicesUpload(UploadProtocol):
    """`azure://container/name` becomes the list; the slices of an attempt are `name.ATTEMPT/0`, `/1` and so
    on. As long as it is under way there is `name.ATTEMPT/open`."""

    tag = "azure-slices"

    def __init__(self, job: Job, tools: Tools) -> None:
        super().__init__(job, tools)
        self._address = address_of(job.spec)
        self._signer = AzureSigner(self._address, str(job.spec.fields["credential"]), tools)
        self._client = Client(self._signer, tools)

    @classmethod
    def resolve(
        cls,
        url: str,
        spec: meowcat.ProtocolSpec,
        plan: object | None = None,  # noqa: ARG003  # the contract's
    ) -> tuple[str, meowcat.ProtocolSpec]:
        found, complete = resolve(url, spec)
        return found, msgspec.structs.replace(complete, tag=cls.tag)

    @classmethod
    def needs(cls, spec: meowcat.ProtocolSpec) -> tuple[str, ...]:
        return needs_of(spec)

    def capabilities(self) -> Capabilities:
        return Capabilities(lists_parts=False, part_checksum="md5", empty=False)

    async def prepare(self, session: Session | None) -> Prepared:
        """The moment tells an attempt from an earlier one of the same task."""
        if session is None:
            session = Session(id=f"{self.job.task}-{self.tools.wall():x}", capabilities=self.capabilities())
            self._expect(await self._ask("PUT", session, _OPEN), "the begin of", 201)
            return Prepared(session=session)
        found = await self.reconcile(session)
        if found.outcome is Outcome.LOST:
            raise Refused(Fault(kind=FaultKind.SESSION_LOST, detail="the upload is gone; it is begun anew"))
        return Prepared(session=session, done=found.result if found.outcome is Outcome.COMMITTED else None)

    async def send_part(self, session: Session, part: Part) -> Receipt:
        digest = bytes.fromhex(await part.checksum("md5"))
        headers = {"content-md5": base64.b64encode(digest).decode()}
        reply = await self._ask("PUT", session, str(part.index), headers, part)
        self._expect(reply, f"slice {part.index} of", 201)
        return Receipt(text=reply.header("etag") or "", checksum=f"md5:{digest.hex()}")

    async def commit(
        self, session: Session, receipts: Mapping[int, Receipt], last: Part | None
    ) -> dict[str, str]:
        assert last is None  # noqa: S101  # no part commits
        slices = [self._key(session, str(index)) for index in sorted(receipts)]
        body = json.dumps({"size": self.job.size, "slices": slices}).encode()
        headers = self._headers("PUT") | {MARKER: session.id, "x-ms-blob-content-type": "application/json"}
        reply = await self._client.ask("PUT", self._address.url, headers, whole(body), len(body))
        self._expect(reply, "the list of", 201)
        await self.abort(session)  # its mark alone
        return {"etag": reply.header("etag") or "", "slices": str(len(slices))}

    async def reconcile(self, session: Session) -> Reconciled:
        reply = await self._client.ask("HEAD", self._address.url, self._headers("HEAD"))
        self._expect(reply, "a look at", 200, 404)
        if reply.status == 200 and reply.header(MARKER) == session.id:  # noqa: PLR2004  # a status
            result = {"etag": reply.header("etag") or "", "slices": str(self._count)}
            return Reconciled(outcome=Outcome.COMMITTED, result=result)
        mark = await self._ask("HEAD", session, _OPEN)
        self._expect(mark, "a look at the upload of", 200, 404)
        lost = mark.status == 404  # noqa: PLR2004  # a status
        return Reconciled(outcome=Outcome.LOST if lost else Outcome.NOT_COMMITTED)

    async def abort(self, session: Session) -> None:
        """Slices that a list names stay. The mark goes last: until then the removal is owed."""
        committed = (await self.reconcile(session)).outcome is Outcome.COMMITTED
        for name in (*(() if committed else map(str, range(self._count))), _OPEN):
            self._expect(await self._ask("DELETE", session, name), f"the removal of {name} of", 202, 404)

    @property
    def _count(self) -> int:
        return -(-self.job.size // self.job.part_size) if self.job.part_size else 0

    def _key(self, session: Session, name: str) -> str:
        return f"{self._address.blob}.{session.id}/{name}"

    async def _ask(
        self,
        method: str,
        session: Session,
        name: str,
        headers: Mapping[str, str] | None = None,
        part: Part | None = None,
    ) -> Reply:
        """A request for one object of an attempt."""
        url = msgspec.structs.replace(self._address, blob=self._key(session, name)).url
        headers = self._headers(method) | dict(headers or {})
        if part is None:
            return await self._client.ask(method, url, headers, length=0 if method == "PUT" else None)
        return await self._client.ask(method, url, headers, part.body, part.size)

    def _headers(self, method: str) -> dict[str, str]:
        made = {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
        return {**self.job.headers, **made, "x-ms-version": VERSION}

    def _expect(self, reply: Reply, doing: str, *statuses: int) -> None:
        if reply.status not in statuses:
            raise Refused(self._signer.fault(reply, doing))


async def main(folder: Path) -> None:
    key = meowcat.AzureKey(account=os.environ["AZURE_STORAGE_ACCOUNT"], key=os.environ["AZURE_STORAGE_KEY"])
    azure = meowcat.AzureBlob(account=key.account, endpoint=os.environ.get("EXAMPLE_AZURE_ENDPOINT"))
    url = f"{os.environ['EXAMPLE_AZURE_URL']}/sliced"
    container = "/".join(url.split("/")[:3])
    source = folder / "source.bin"
    source.write_bytes(os.urandom(SIZE))
    async with meowcat.Engine(
        folder / "transfers.db", credentials={"default": key}, protocols=[SlicesUpload]
    ) as engine:
        request = meowcat.Upload(str(source), url, Slices(azure), piece_size=4 * MIB)
        result = await (await engine.submit(request)).result()
        print(f"uploaded {result.size:,} bytes in {result.remote['slices']} slices")
        await engine.download(url, folder / "list.json", protocol=azure)
        for number, slice_ in enumerate(listed(folder)):
            await engine.download(f"{container}/{slice_}", folder / f"{number}.slice", protocol=azure)
    print(
        "the slices are together", "the file" if joined(folder) == source.read_bytes() else "SOMETHING ELSE"
    )


def listed(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "list.json").read_bytes())["slices"]
    return found


def joined(folder: Path) -> bytes:
    return b"".join((folder / f"{number}.slice").read_bytes() for number in range(len(listed(folder))))


if __name__ == "__main__":
    with loopback.azure() as name:
        asyncio.run(main(name))
