"""What an engine is told about its audit."""

import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from meowcat.audit.keys import Key, Signer
from meowcat.audit.notes import check_name, parse_vkey
from meowcat.core.errors import InvalidArgument

Export = str | os.PathLike[str] | Callable[[str], object]


@dataclass(frozen=True)
class Audit:
    """Makes an engine's history provable: `Engine(..., audit=Audit("audit.key"))`.

    Raises:
        InvalidArgument: a value that makes no sense. AuditError: a name that no log can have.
    """

    key: str | os.PathLike[str] | Signer = field(repr=False)
    """The file of a private key, read when the engine opens, or an object that signs."""
    _: KW_ONLY
    origin: str | None = None
    """The log's name in all that is signed: unique, and the same for ever for one journal. By default that
    of the key; give each journal its own where one key signs for several."""
    every: int | None = None
    """Sign a checkpoint in the background whenever so many records were added since the last one."""
    at_close: bool = True
    """Sign one when the engine closes."""
    checkpoints: Export | None = None
    """Where checkpoints go besides the journal: a file of this log's own that each is appended to, or a
    function that is called with each (a coroutine, or in a thread of its own); a close waits for it for 5 s.
    What leaves the machine proves the most."""

    def __post_init__(self) -> None:
        if not isinstance(self.key, str | os.PathLike | Signer):
            raise InvalidArgument("key: expected the path of a key file, or an object with 'vkey' and 'sign'")
        if self.every is not None and not (isinstance(self.every, int) and self.every >= 1):
            raise InvalidArgument(f"every {self.every!r}: expected a number of records from 1, or None")
        if self.origin is not None:
            check_name(self.origin)

    def signer(self) -> Signer:
        """The key, read from its file where it is in one. Blocking.

        Raises:
            AuditError: it can't be used; the message says why.

        """
        signer = self.key if isinstance(self.key, Signer) else Key.load(self.key)
        parse_vkey(signer.vkey)
        return signer
