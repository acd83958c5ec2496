"""What settings of several providers have in common: names, choices, and metadata of objects."""

from collections.abc import Mapping
from typing import get_args

from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import check_text, kind_of
from meowcat.core.transfers import check_header

__all__ = [
    "MARK",
    "META",
    "check_choice",
    "check_endpoint",
    "check_metadata",
    "check_name",
    "metadata_fields",
    "object_headers",
]

META = "meta-"
"""What the names of metadata begin with among the fields of a spec."""
MARK = "meowcat-task"
"""The name of the metadata that proves an object to be of one upload of one task."""


def check_choice(name: str, value: object, choices: object) -> None:
    """See that a value is one of a `Literal`.

    Raises:
        InvalidArgument: names all of them.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidArgument(f"{name} {value!r}: expected one of {', '.join(allowed)}")


def check_name(name: str, value: str | None) -> None:
    """See that a value, where there is one, can stand in a header field.

    Raises:
        InvalidArgument: it is empty, or has what none may have.
    """
    if value is not None:
        check_text(name, value)
    if value is not None and not (value and value.isascii() and value.isprintable()):
        raise InvalidArgument(f"{name} {value!r}: expected a name in ASCII, without line breaks")


def check_endpoint(endpoint: str | None) -> None:
    """See that an endpoint, where there is one, is a text; what it says is looked at with the URL.

    Raises:
        InvalidArgument: it is none.
    """
    if endpoint is not None:
        check_text("endpoint", endpoint)


def check_metadata(metadata: Mapping[str, str]) -> None:
    """See that each name and value can be a header field, and none is meowcat's own.

    Raises:
        InvalidArgument: names the first that can't.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(f"metadata: expected a dict of names and texts, got {kind_of(metadata)}")
    for name, value in metadata.items():
        check_header(name, value)
        if not (value.isascii() and value.isprintable()):
            raise InvalidArgument(f"metadata {name!r}: expected a value in ASCII, without line breaks")
        if name.lower() == MARK:
            raise InvalidArgument(f"metadata {name!r}: the name is taken by meowcat's own mark")


def metadata_fields(metadata: Mapping[str, str]) -> dict[str, str | int | bool]:
    """As a spec has them."""
    return {META + name.lower(): value for name, value in metadata.items()}


def object_headers(fields: Mapping[str, str | int | bool], prefix: str) -> dict[str, str]:
    """The headers that say what an object is to have.

    Args:
        fields: of a spec.
        prefix: what the names of the provider's headers begin with: `x-amz-`.
    """
    named = (("content_type", "content-type"), ("storage_class", f"{prefix}storage-class"))
    headers = {header: str(fields[name]) for name, header in named if name in fields}
    metadata = {
        f"{prefix}meta-{name.removeprefix(META)}": str(value)
        for name, value in fields.items()
        if name.startswith(META)
    }
    return headers | metadata
