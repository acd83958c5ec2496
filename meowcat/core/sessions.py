"""What is known of the far end of an upload: what the protocol can do, and the session that was opened."""

from msgspec import Struct, field

from meowcat.core.pieces import MAX_PIECE, MAX_SIZE


class Capabilities(Struct, frozen=True, kw_only=True):
    """What an upload protocol can do at its server. Journaled when a session is opened, and never changed."""

    any_order: bool = True
    """Parts may be sent in any order, several at once; otherwise each follows on the one before it."""
    server_offset: bool = False
    """The server says how many bytes it has from the beginning, at any byte; goes with `any_order=False`."""
    session: bool = True
    """A session stands at the server, and has to be aborted where it is not committed."""
    creates_session: bool = True
    """`prepare` of no session creates one, so that it has an intent; otherwise somebody else has done so."""
    lists_parts: bool = True
    """`prepare` of a known session says which parts the server has."""
    commits_with_last_part: bool = False
    """Sending the last part makes the object: it is left to `commit`, which has an intent."""
    needs_digests: tuple[str, ...] = ()
    """Digests of the whole that have to be known before `prepare`: names of `Download.checksum`."""
    part_checksum: str | None = None
    """The checksum that the server compares each part with: one of those, or `crc64nvme`."""
    whole_checksum: str | None = None
    """The checksum that the server compares the whole with, at the commit."""
    empty: bool = True
    """Whether an upload of no bytes is possible."""
    max_parts: int = 10_000
    min_part: int = 1
    """Bytes in a part but for the last."""
    max_part: int = MAX_PIECE
    """Bytes."""
    max_size: int = MAX_SIZE
    """Bytes in all."""

    @property
    def asks(self) -> bool:
        """Whether `prepare` has to have an answer of the server before there is a session."""
        return (self.session and self.creates_session) or self.server_offset or self.lists_parts


class Session(Struct, frozen=True, kw_only=True):
    """An upload under way at a server. Holds no secret: it is journaled."""

    id: str
    """The server's name of it; "" where it has none."""
    capabilities: Capabilities
    facts: dict[str, str] = field(default_factory=dict)
    """What else the protocol has to remember of it."""


class Receipt(Struct, frozen=True, kw_only=True):
    """What the server said of a part that it has confirmed. Journaled, so it holds no secret."""

    text: str
    """What the commit has to name it by: an ETag, say, exactly as it came."""
    checksum: str | None = None
    """`algorithm:value` of the part's content, where the server (or the commit) speaks of one."""


class Held(Struct, frozen=True, kw_only=True):
    """A part that the server says it has."""

    size: int
    """Bytes."""
    receipt: Receipt
    md5: str | None = None
    """The MD5 of its content in hexadecimal, where the server vouches for one."""
