"""Events to bytes and back, and old versions of events to the current one.

A body is the event's JSON. It is written once and never again: an event that changes its shape gets a new
version and an upcaster, which turns the JSON object of one version into that of the next, at each reading.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from meowcat.core.errors import JournalDamaged, UnknownEvent
from meowcat.core.events import EVENT_TYPES, Event

JsonObject = dict[str, Any]
Upcaster = Callable[[JsonObject], JsonObject]
Upcasters = dict[tuple[str, int], Upcaster]

UPCASTERS: Upcasters = {}
"""By event tag and the version that they start from."""


def upcaster(tag: str, from_version: int, into: Upcasters = UPCASTERS) -> Callable[[Upcaster], Upcaster]:
    """Register a function from the JSON object of `from_version` to that of the version after it.

    Raises:
        ValueError: there is one already.

    """

    def register(function: Upcaster) -> Upcaster:
        if (tag, from_version) in into:
            raise ValueError(f"two upcasters for {tag!r} from version {from_version}")
        into[tag, from_version] = function
        return function

    return register


def check_chain(versions: Mapping[str, int], upcasters: Iterable[tuple[str, int]]) -> None:
    """See that every version from 1 on leads to the current one, and that no upcaster leads elsewhere.

    Raises:
        ValueError: which upcaster is missing, or which one is not needed.

    """
    needed = {(tag, version) for tag, current in versions.items() for version in range(1, current)}
    found = set(upcasters)
    if missing := sorted(needed - found):
        raise ValueError(f"no upcaster for {_names(missing)}")
    if beyond := sorted(found - needed):
        raise ValueError(f"upcasters that no event needs: {_names(beyond)}")


def _names(steps: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{tag!r} from version {version}" for tag, version in steps)


class Codec:
    """The codec of a set of events. `encode` and `decode` of this module are those of meowcat's own."""

    def __init__(self, events: Mapping[str, type[Event]], upcasters: Upcasters) -> None:
        """Take the events by tag.

        Raises:
            ValueError: the chain of upcasters has a hole, or goes beyond the current version.

        """
        self._versions = {tag: event.version for tag, event in events.items()}
        check_chain(self._versions, upcasters)
        self._upcasters = upcasters
        self._heads = {event: (tag, event.version) for tag, event in events.items()}
        self._encode = msgspec.json.Encoder().encode
        self._decoders = {tag: msgspec.json.Decoder(event) for tag, event in events.items()}
        self._current = {(tag, self._versions[tag]): decoder for tag, decoder in self._decoders.items()}

    def encode(self, event: Event) -> tuple[str, int, bytes]:
        """The event's tag, version and body."""
        tag, version = self._heads[type(event)]
        return tag, version, self._encode(event)

    def decode(self, tag: str, version: int, body: bytes) -> Event:
        """The event that was encoded, in its current version.

        Raises:
            UnknownEvent: a tag, or a version, that this meowcat does not know.
            JournalDamaged: the body is not that of such an event.

        """
        decoder = self._current.get((tag, version))
        if decoder is None:
            decoder, body = self._upcast(tag, version, body)
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalDamaged(f"event {tag!r} version {version} can't be read: {error}") from error

    def _upcast(self, tag: str, version: int, body: bytes) -> tuple["msgspec.json.Decoder[Event]", bytes]:
        current = self._versions.get(tag)
        if current is None:
            raise UnknownEvent(f"unknown event type {tag!r}: it was written by another version of meowcat")
        if not 1 <= version < current:
            raise UnknownEvent(f"event {tag!r} has version {version}, this meowcat knows up to {current}")
        try:
            fields: JsonObject = msgspec.json.decode(body, type=dict)
            for step in range(version, current):
                fields = self._upcasters[tag, step](fields)
        except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
            raise JournalDamaged(f"event {tag!r} version {version} can't be upcast: {error}") from error
        return self._decoders[tag], msgspec.json.encode(fields)


def _download_with(**fields: object) -> Upcaster:
    """To a version whose downloads have these fields, which nobody gave before."""

    def upcast(event: JsonObject) -> JsonObject:
        request = event.get("request")
        if isinstance(request, dict) and request.get("kind") == "download":
            return event | {"request": fields | request}
        return event

    return upcast


for _tag in ("created", "supplied"):
    upcaster(_tag, from_version=1)(_download_with(digest=None))
    upcaster(_tag, from_version=2)(_download_with(protocol=None, plan=None))
    upcaster(_tag, from_version=3)(_download_with(remote_time=False))


@upcaster("failed", from_version=1)
@upcaster("failed", from_version=2)
@upcaster("attempt-failed", from_version=1)
@upcaster("attempt-failed", from_version=2)
def _with_fewer_faults(fields: JsonObject) -> JsonObject:
    """Version 2 knows the faults of uploads as well, version 3 `exhausted` and `slow`."""
    return fields


@upcaster("completed", from_version=1)
def _without_origin(fields: JsonObject) -> JsonObject:
    """Version 2 says what came from where; one that did not is left without."""
    return {"url": None, "created": None, "client_file_sign": None} | fields


@upcaster("completed", from_version=2)
def _without_uploads(fields: JsonObject) -> JsonObject:
    """Version 3 is also of uploads, and says what the server said of the object."""
    return {"direction": "download", "result": {}} | fields


_CODEC = Codec(EVENT_TYPES, UPCASTERS)  # checks the chain at import: upcasters stand above this line

encode = _CODEC.encode
decode = _CODEC.decode
