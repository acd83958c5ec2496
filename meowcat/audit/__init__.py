"""A history that can be proved: signed checkpoints of a journal, and receipts of its transfers.

The records of a journal are the leaves of a Merkle tree (RFC 6962); checkpoints and receipts are in formats
that other tools read (C2SP signed-note, tlog-checkpoint, tlog-proof).
"""

from meowcat.audit.checkpoints import Checkpoint, verify_checkpoint
from meowcat.audit.keys import Key, Signer
from meowcat.audit.receipts import Receipt, verify_receipt
from meowcat.audit.verify import Check, Verification, verify_journal

__all__ = [
    "Check",
    "Checkpoint",
    "Key",
    "Receipt",
    "Signer",
    "Verification",
    "verify_checkpoint",
    "verify_journal",
    "verify_receipt",
]
