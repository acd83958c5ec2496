"""Values of another kind than is wanted, told of without the value: it may be a secret."""

from collections.abc import Mapping
from typing import Any

from meowcat.core.errors import InvalidArgument

__all__ = ["check_registration", "check_size", "check_text", "kind_of", "named", "path_text"]


def kind_of(value: object) -> str:
    """What an error says that it has got."""
    if value is None:
        return "None"
    return (
        f"the class {value.__name__}"
        if isinstance(value, type)
        else f"an object of type {type(value).__name__}"
    )


def check_text(what: str, value: object) -> None:
    """See that a value is a text.

    Raises:
        InvalidArgument: it is not.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{what}: expected a text, got {kind_of(value)}")


def check_size(what: str, value: object) -> None:
    """See that a value is a number of bytes.

    Raises:
        InvalidArgument: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidArgument(f"{what} {value!r}: expected a whole number of bytes, 0 or more")


def path_text(what: str, value: object) -> str:
    """A path as a text.

    Raises:
        InvalidArgument: it is none, or one of bytes.
    """
    made = getattr(type(value), "__fspath__", None)  # as os.PathLike has it
    text = value if made is None else made(value)
    if not isinstance(text, str):
        raise InvalidArgument(f"{what}: expected a path, as a text or a Path; got {kind_of(value)}")
    return text


def named(what: str, given: object, of: str) -> Mapping[str, Any]:
    """What an argument gives by names; nothing where it is None.

    Raises:
        InvalidArgument: it is no mapping.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"{what}: expected a dict of names and {of}, got {kind_of(given)}")
    return given


def check_registration(what: str, name: object, value: object) -> None:
    """See that something may be registered under a name. A class may look as an instance of it does: it can
    be called, and has the methods.

    Raises:
        InvalidArgument: the name is no text, or empty; or a class stands in the place of an instance.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"the name of a {what} is {name!r}: expected a text that is not empty")
    if isinstance(value, type):
        raise InvalidArgument(f"{what} {name!r}: expected an instance, got {kind_of(value)} itself; call it")
