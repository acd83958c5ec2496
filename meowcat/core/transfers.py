"""What users ask for, as values: a download, an upload.

Both are msgspec Structs so that they can be journaled. What a user builds may hold secrets (a signed URL,
an Authorization header); `meowcat.core.urls.seal` splits them off before anything is stored, and leaves
their names in `needs`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, get_type_hints

from msgspec import NODEFAULT, Struct, field
from msgspec.structs import force_setattr, replace

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import kind_of
from meowcat.core.pieces import MAX_PIECE, MIN_PIECE
from meowcat.core.urls import HIDDEN, identity, redact
from meowcat.core.values import Checksum

Overwrite = Literal["never", "replace"]
Probe = Literal["get", "head"]
Direction = Literal["download", "upload"]

_OVERWRITES, _PROBES = get_args(Overwrite), get_args(Probe)  # 2 us each time that they are asked for
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\0-\x08\n-\x1f\x7f]")
"""All but the tab."""

FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Header fields that are left out of what a caller gives, since they tell where a body ends (RFC 9112 6)."""

CHOOSING = frozenset(
    {"range", "if-match", "if-none-match", "if-range", "if-unmodified-since", "if-modified-since"}
)
"""Header fields by which a reply has other bytes, or none (RFC 9110 13 and 14): a download's
requests have the engine's own, which knows what it has."""

DIGEST_LENGTHS = {
    "sha256": 64,
    "sha512": 128,
    "sha1": 40,
    "md5": 32,
    "blake3": 64,
    "crc32c": 8,
    "crc64nvme": 16,
    "crc64xz": 16,
}
"""Known checksum algorithms and the length of their hexadecimal form."""

NO_DIGEST = "none"
"""What `digest` says where none is to be computed, whatever the engine's settings are."""


def parse_checksum(text: str) -> Checksum:
    """Read `algorithm:hex`, as in `sha256:9f86d0…`.

    Raises:
        InvalidArgument: an unknown algorithm, or not the digits that it has.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"checksum {text!r}: expected a text, as in 'sha256:9f86d0…'")
    algorithm, colon, digits = text.partition(":")
    algorithm = algorithm.strip().lower().replace("-", "")
    digits = digits.strip().lower()
    length = DIGEST_LENGTHS.get(algorithm)
    if not colon or length is None:
        known = ", ".join(DIGEST_LENGTHS)
        raise InvalidArgument(f"checksum {text!r}: expected 'algorithm:hex' with one of {known}")
    if len(digits) != length or not set(digits) <= set("0123456789abcdef"):
        raise InvalidArgument(f"checksum {text!r}: {algorithm} has {length} hexadecimal digits")
    return Checksum(algorithm, digits)


class _Shown(Struct, frozen=True, gc=False):
    """Shows of a request what is no secret, also to `rich`, which would ask msgspec for all of the fields.

    The URL is redacted, header values are hidden, defaults left out.
    """

    def __repr__(self) -> str:
        shown = (repr(value) if name == "url" else f"{name}={value!r}" for name, value in self._shown())
        return f"{type(self).__name__}({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return list(self._shown())

    def _shown(self) -> Iterator[tuple[str, object]]:
        defaults = dict(
            zip(reversed(self.__struct_fields__), reversed(self.__struct_defaults__), strict=False)
        )
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "url":
                yield name, redact(value)
            elif name == "headers":
                if value:
                    yield name, dict.fromkeys(value, HIDDEN) if isinstance(value, Mapping) else HIDDEN
            elif name in ("data", "plan"):
                if value is not None:
                    yield name, HIDDEN
            elif value != defaults.get(name, NODEFAULT):
                yield name, value


class ProtocolSpec(Struct, frozen=True):
    """A protocol as a plain value: which one, in which version, with which settings. Holds no secret."""

    tag: str
    version: int = 1
    fields: dict[str, str | int | bool] = field(default_factory=dict)


class Settings(Protocol):
    """What users choose a protocol by, as `FormUpload()`. A `plan` of it is taken along, and never stored."""

    def spec(self) -> ProtocolSpec:
        """As it is stored."""


if TYPE_CHECKING:

    class _Chosen:
        """Settings are taken, and a spec is given: what checkers know of a field that is a descriptor."""

        def __get__(self, owner: object, kind: object = None) -> ProtocolSpec: ...
        def __set__(self, owner: object, value: ProtocolSpec | Settings) -> None: ...

    class _Choosable:
        """The same for a field that may be None."""

        def __get__(self, owner: object, kind: object = None) -> ProtocolSpec | None: ...
        def __set__(self, owner: object, value: ProtocolSpec | Settings | None) -> None: ...
else:
    _Chosen, _Choosable = ProtocolSpec, ProtocolSpec | None


class Download(_Shown, frozen=True, tag="download", tag_field="kind"):
    """A download of one URL to one path. Fields left at None take the engine's `Config`.

    Building one does no I/O; `Engine.submit` makes `to` absolute.
    """

    direction: ClassVar[Direction] = "download"
    url: str
    to: str = ""
    """Where the finished file goes; its folder must exist. Nothing stands there before all is verified."""
    checksum: str | None = None
    """`algorithm:hex` of the whole content: sha256, sha512, sha1, md5, blake3, crc32c, crc64nvme or
    crc64xz."""
    headers: dict[str, str] = field(default_factory=dict)
    connections: int | None = None
    """Requests at once, 1 to 256."""
    piece_size: int | None = None
    """Bytes in a piece, the unit of digest and reuse: 64 KiB to 512 MiB."""
    overwrite: Overwrite = "never"
    """`never` fails with TARGET_EXISTS where a file stands at `to`; `replace` replaces it, in one step."""
    priority: int = 0
    """Higher goes first."""
    limit_rate: int | None = None
    """Bytes a second for this task."""
    retries: int | None = None
    """Extra attempts after a failure without progress in between; 0 disables."""
    probe: Probe = "get"
    """How the size and validator are learned: by the first ranged GET, or by HEAD first."""
    accept: str | None = None
    """The Accept header of requests over plain HTTP; `*/*` unless the `Config` says another."""
    total_size: int | None = None
    """The size in bytes where it is known: a server that says otherwise fails the task."""
    keep_encoding: bool = False
    """Take a reply with a Content-Encoding as it is, coded bytes and all, instead of refusing it."""
    remote_time: bool = False
    """Give the file the time at which the server says that the content was last changed, where it does."""
    client_file_sign: str | None = None
    """Any text of the application's own, shown in TaskInfo and history: a database key, say."""
    key: str | None = None
    """The task's name, unique among live tasks; the target's path by default."""
    digest: str | None = None
    """An algorithm that `checksum` knows, to be computed over the whole file and recorded although there is
    no digest to compare with; `none` computes none, whatever the `Config` says."""
    needs: tuple[str, ...] = ()
    """Set by `seal`: what was left out because it may be secret, by name (`header:authorization`)."""
    protocol: _Choosable = None  # type: ignore[assignment]  # a None like any other that it is given
    """How the content is asked for; None is plain HTTP. Also settings as `S3`, `AliyunOSS`."""
    plan: Any = None
    """A presigned plan, taken from the settings. Never stored."""

    def __post_init__(self) -> None:
        if self.protocol is not None:
            _take_settings(self)


Origin = Literal["file", "named", "bytes"]
VerifySource = Literal["auto", "always"]


class Upload(_Shown, frozen=True, tag="upload", tag_field="kind"):
    """An upload of one source to one URL, by a protocol. Fields left at None take the engine's `Config`.

    Building one does no I/O; `Engine.submit` makes the path of a file absolute.
    """

    direction: ClassVar[Direction] = "upload"
    source: str
    """The path of a file; or the name of a registered source, or of bytes that were handed in."""
    url: str
    protocol: _Chosen
    """How the bytes are sent. Also settings such as `FormUpload`, `S3` or `AliyunOSS`."""
    origin: Origin = "file"
    """What `source` is."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request of the upload."""
    connections: int | None = None
    """Parts sent at once, 1 to 256, where the protocol takes them in any order."""
    piece_size: int | None = None
    """Bytes in a part; chosen within the provider's limits unless given."""
    verify_source: VerifySource = "auto"
    """`auto` reads the source once more before the commit where anything hints that it was touched; `always`
    does so in any case."""
    priority: int = 0
    limit_rate: int | None = None
    """Bytes a second for this task."""
    retries: int | None = None
    """Extra attempts to send after a failure without progress in between; 0 disables."""
    prepare_retries: int | None = None
    """Extra attempts to prepare the upload; 0 disables."""
    client_file_sign: str | None = None
    """Any text of the application's own, shown in TaskInfo and history: a database key, say."""
    key: str | None = None
    """The task's name, unique among live tasks; by default the object's URL, or that and the source where
    the URL is an endpoint for many."""
    digest: str | None = None
    """An algorithm that `Download.checksum` knows, to be computed over the whole source and recorded."""
    needs: tuple[str, ...] = ()
    """Set when it is stored: what has to be supplied, or be registered, before anything is sent."""
    data: bytes | None = None
    """The content itself, where `origin` is `bytes`. Never stored."""
    plan: Any = None
    """A presigned plan, taken from the settings. Never stored."""

    def __post_init__(self) -> None:
        _take_settings(self)


Request = Download | Upload


_TEXT_KINDS = frozenset((str, type(None)))
_FIELD_KINDS = frozenset((str, int, bool))


def _take_settings(request: Request) -> None:
    """Settings of a protocol become the plain value that is stored, and a plan that is not."""
    settings: Any = request.protocol
    if isinstance(settings, ProtocolSpec):
        return
    if isinstance(settings, type) or not callable(getattr(settings, "spec", None)):
        raise InvalidArgument(
            f"protocol: expected settings such as FormUpload(), or a ProtocolSpec; got {kind_of(settings)}"
        )
    if getattr(settings, "plan", None) is not None:
        force_setattr(request, "plan", settings.plan)
    force_setattr(request, "protocol", settings.spec())


def check(request: Request) -> None:
    """See that every field is of its kind and within its bounds, before anything is recorded: a record with
    another kind of value could be written, and never be read again.

    Raises:
        InvalidArgument: names the field, the value and what is allowed.
    """
    if not request.url:
        raise InvalidArgument("url is empty: expected http://… or https://…, or what its protocol takes")
    _check_numbers(request)
    _check_texts(request)
    if request.headers != {}:  # as most are: a call less
        check_headers(request.headers)
    if request.protocol is not None:
        _check_spec(request.protocol)
    if isinstance(request, Download):
        _check_download(request)
    else:
        _check_upload(request)


def same_content(one: Request, other: Request) -> bool:
    """Whether two requests, sealed or not, ask for the same content at the same place."""
    return _content(one) == _content(other)


def _content(request: Request) -> tuple[object, ...]:
    url = identity(request.url)
    if isinstance(request, Download):
        return ("download", url, request.to, request.checksum)
    return ("upload", url, request.source, request.origin, request.protocol.tag)


_UNCOMPARED = ("url", "headers", "needs", "data", "plan")


def changed_options(one: Request, other: Request) -> tuple[str, ...]:
    """The fields in which two requests for the same content differ; what may be secret is not compared."""
    return tuple(
        name
        for name in one.__struct_fields__
        if name not in _UNCOMPARED and getattr(one, name) != getattr(other, name)
    )


def whereabouts(request: Request) -> tuple[object, ...]:
    """Where the content is, and what opens it, as far as that is recorded."""
    return request.url, request.headers, request.needs


def with_named(present: Request, fresh: Request, names: Iterable[str]) -> Request:
    """The recorded request with what `names` says that `fresh` has brought: an option by its field's name;
    any other name, or none at all, means where the content is, and what opens it.

    Somebody else may have recorded another change since `fresh` was made of what was recorded then.
    """
    named = set(names)
    options = set(fresh.__struct_fields__).difference(_UNCOMPARED)
    if named and named <= options:
        return replace(present, **{name: getattr(fresh, name) for name in named})
    return replace(fresh, **{name: getattr(present, name) for name in options - named})


def check_chosen(headers: Mapping[str, str]) -> None:
    """See that a download's bytes are not chosen by the caller's headers.

    Raises:
        InvalidArgument: names the one that would.
    """
    for name in headers:
        if name.lower() in CHOOSING:
            raise InvalidArgument(
                f"header {name!r}: expected none of those by which a reply has other bytes, or none; a "
                "download sends its own and brings all of one version. Say by checksum= which one is meant"
            )


def _check_download(request: Download) -> None:
    if request.headers != {}:
        check_chosen(request.headers)
    if not request.to:
        raise InvalidArgument("to is empty: expected the path of the file to make")
    _check_path("to", request.to)
    if request.checksum is not None:
        parse_checksum(request.checksum)
    if request.accept:
        check_header("accept", request.accept)
    if request.digest is not None:
        check_digest(request.digest)
    if request.overwrite not in _OVERWRITES:
        raise InvalidArgument(f"overwrite {request.overwrite!r}: expected 'never' or 'replace'")
    if request.probe not in _PROBES:
        raise InvalidArgument(f"probe {request.probe!r}: expected 'get' or 'head'")
    _flag("keep_encoding", request.keep_encoding)
    _flag("remote_time", request.remote_time)
    if request.total_size is not None:
        _within("total_size", request.total_size, 0, (1 << 63) - 1)


def _check_upload(request: Upload) -> None:
    if not request.source:
        raise InvalidArgument("source is empty: expected the path of a file, or a name")
    if request.origin not in get_args(Origin):
        raise InvalidArgument(f"origin {request.origin!r}: expected 'file', 'named' or 'bytes'")
    if request.origin == "file":
        _check_path("source", request.source)
    if request.verify_source not in get_args(VerifySource):
        raise InvalidArgument(f"verify_source {request.verify_source!r}: expected 'auto' or 'always'")
    if request.data is not None and request.origin != "bytes":
        raise InvalidArgument("data: is the content of an upload with origin='bytes', and of no other")
    if not isinstance(request.data, bytes | None):
        raise InvalidArgument(f"data: expected bytes, got {kind_of(request.data)}")
    if request.prepare_retries is not None:
        _within("prepare_retries", request.prepare_retries, 0, 1_000_000)
    check_digest(request.digest)


def _check_path(name: str, path: str) -> None:
    if "\0" in str(path):  # it may be a `Path` until it is stored
        raise InvalidArgument(f"{name} {path!r}: has a NUL, which no path can have")


def _check_spec(spec: ProtocolSpec) -> None:
    """What a protocol is chosen by is journaled as it is, and has to be readable again."""
    if not isinstance(spec.tag, str) or not isinstance(spec.fields, dict):
        raise InvalidArgument(f"protocol {spec!r}: expected a text as its tag, and a dict of fields")
    _within("version of a protocol", spec.version, 0, 1 << 31)
    if not _FIELD_KINDS.issuperset(map(type, spec.fields.values())):
        for name, value in spec.fields.items():
            if not isinstance(value, str | int):
                raise InvalidArgument(
                    f"protocol {spec.tag!r}, field {name!r}: expected a text, a whole number or a bool, "
                    f"got {kind_of(value)}"
                )
    if not _TEXT_KINDS.issuperset(map(type, spec.fields)) or None in spec.fields:
        raise InvalidArgument(f"protocol {spec.tag!r}: expected fields whose names are texts")


def check_digest(algorithm: str | None) -> None:
    """See that `algorithm` is one that can be computed, or none.

    Raises:
        InvalidArgument: it is another.
    """
    if algorithm is not None and algorithm not in (*DIGEST_LENGTHS, NO_DIGEST):
        known = ", ".join((*DIGEST_LENGTHS, NO_DIGEST))
        raise InvalidArgument(f"digest {algorithm!r}: expected one of {known}")


def _check_numbers(request: Request) -> None:
    """What is not given, as most is of a queue's, costs a look and no call."""
    if request.connections is not None:
        _within("connections", request.connections, 1, 256)
    if request.piece_size is not None:
        _within("piece_size", request.piece_size, MIN_PIECE, MAX_PIECE)
    if request.limit_rate is not None:
        _within("limit_rate", request.limit_rate, 1, 1 << 50)
    if request.retries is not None:
        _within("retries", request.retries, 0, 1_000_000)
    if type(request.priority) is not int or request.priority:
        _within("priority", request.priority, -(1 << 31), 1 << 31)


def _check_texts(request: Request) -> None:
    """All fields that may be any text."""
    if isinstance(request, Download):
        plain = _plain(
            request.url,
            request.to,
            request.checksum,
            request.accept,
            request.client_file_sign,
            request.key,
            request.digest,
        )
    else:
        plain = _plain(request.source, request.url, request.client_file_sign, request.key, request.digest)
    if not plain:
        _refuse_other_kinds(request)
        _refuse_surrogates(request)


def _plain(*texts: object) -> bool:
    """Whether all of them are texts of ASCII alone, or not given."""
    for each in texts:  # noqa: SIM110  # a generator would take as long again
        if each is not None and (type(each) is not str or not each.isascii()):
            return False
    return True


def _within(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgument(f"{name} {value!r}: expected a whole number from {least:,} to {most:,}")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{name} {value!r}: expected True or False")


def _refuse_other_kinds(request: Request) -> None:
    """A text is a `str`, or of a kind that is stored as one; the target may be a path as well."""
    form_names = (name for name, hint in get_type_hints(type(request)).items() if hint in (str, str | None))
    for name in form_names:
        value = getattr(request, name)
        if isinstance(value, str | None) or (name == "to" and hasattr(value, "__fspath__")):
            continue
        shown = name if name == "url" else f"{name} {value!r}"
        raise InvalidArgument(f"{shown}: expected a text, got {kind_of(value)}")


def _refuse_surrogates(request: Request) -> None:
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if isinstance(value, str) and _SURROGATE.search(value):
            raise InvalidArgument(
                f"{name}: has half of a character (a lone surrogate), which nothing can store"
            )


def check_headers(headers: Mapping[str, str]) -> None:
    """See that all of them can be sent.

    Raises:
        InvalidArgument: names the one that can't; a value is never shown.
    """
    if not isinstance(headers, Mapping):
        raise InvalidArgument(f"headers: expected a dict of names and texts, got {kind_of(headers)}")
    for name, value in headers.items():
        check_header(name, value)


def check_header(name: str, value: str) -> None:
    """A field name is a token, a value has no control characters (RFC 9110 5.1, 5.5). The value is never
    shown; nor does a colon follow the name, behind which `scrub` would take all for it.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        raise InvalidArgument(f"header {name!r} has {kind_of(value)} as its value: expected a text")
    if _TOKEN.fullmatch(name) is None:
        raise InvalidArgument(f"header {name!r}: expected a name of letters, digits and !#$%&'*+-.^_`|~")
    if _CONTROL.search(value) or _SURROGATE.search(value):
        raise InvalidArgument(
            f"header {name!r} has a line break, another control character or half of a character in its value"
        )
