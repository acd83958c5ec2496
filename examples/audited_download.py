"""A download that can be proved: a signed history, a receipt, and what verifying it says.

python examples/audited_download.py
"""

import asyncio
import tempfile
from pathlib import Path

import meowcat
from meowcat.audit import Key, verify_journal, verify_receipt
from meowcat.testing.servers import Content, RangeServer


async def main(folder: Path) -> None:
    Key.generate("example.com/audited-download").save(folder / "audit.key")
    audit = meowcat.Audit(folder / "audit.key", checkpoints=folder / "checkpoints.txt")

    with RangeServer(Content(8 << 20)) as server:
        async with meowcat.Engine(folder / "transfers.db", audit=audit) as engine:
            result = await engine.download(server.url, folder / "file.bin", client_file_sign="order 4711")
            receipt = await engine.receipt(result.task)

    # From here on it could be another machine and another year: it takes the receipt and the public key.
    vkey = Key.load(folder / "audit.key").vkey
    proven = verify_receipt(receipt, vkey)
    print(f"proved: {proven.size:,} bytes, {proven.digests[0]}, for {proven.client_file_sign}")

    forged = receipt.replace("index ", "index 1")
    try:
        verify_receipt(forged, vkey)
    except meowcat.AuditError as error:
        print(f"not proved: {error}")

    # Whoever has the journal can read all of it, and compare it with every checkpoint that was kept.
    found = verify_journal(
        folder / "transfers.db",
        vkey,
        checkpoints=[("checkpoints.txt", (folder / "checkpoints.txt").read_text())],
        receipts=[("receipt", receipt)],
    )
    print(
        f"the whole history: {found.records} records, {found.covered} of them signed, proved: {found.proved}"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
