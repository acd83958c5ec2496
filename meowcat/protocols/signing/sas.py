"""Shared access signatures of Azure Storage: queries that let whoever has them do something, until they end.

https://learn.microsoft.com/rest/api/storageservices/create-service-sas
https://learn.microsoft.com/rest/api/storageservices/create-account-sas
"""

from datetime import UTC, datetime

from meowcat.core.errors import InvalidArgument
from meowcat.protocols.credentials import AzureKey, AzureSas
from meowcat.protocols.signing.canonical import escaped_query
from meowcat.protocols.signing.shared_key import VERSION, mac

__all__ = ["account_sas", "service_sas"]

_PERMISSIONS = "racwdxyltfmeopi"
"""In the order in which the service wants them."""
_SERVICES = "bqtf"
_RESOURCES = "sco"


def service_sas(
    key: AzureKey,
    container: str,
    blob: str | None = None,
    *,
    permissions: str,
    expires: int,
    starts: int | None = None,
    ip: str | None = None,
    https_only: bool = True,
    snapshot: str | None = None,
    version_id: str | None = None,
) -> AzureSas:
    """A signature for one blob, or for all of a container.

    Args:
        key: of the account.
        container: its name.
        blob: its name; None for all that are in the container.
        permissions: letters of `racwdxyltfmei`: `r` reads, `c` makes what was not there, `w` writes, `d`
            deletes, `l` lists a container. An upload needs `cw`, and `r` to look first and to prove its end.
        expires: milliseconds since 1970 UTC; whole seconds count.
        starts: the same; None is at once. Clocks differ: leave it out, or take a quarter of an hour off.
        ip: an address, or two with a `-` between them, that may use it; None is any.
        https_only: refuse it over plain HTTP.
        snapshot: the instant of the one snapshot that it is for.
        version_id: the one version that it is for.

    Raises:
        InvalidArgument: permissions that there are not; or both a snapshot and a version.
    """
    if snapshot is not None and version_id is not None:
        raise InvalidArgument("snapshot and version_id: a blob's one or its other; give one of them")
    resource = "c" if blob is None else "bs" if snapshot else "bv" if version_id else "b"
    path = f"/blob/{key.account}/{container}" + (f"/{blob}" if blob is not None else "")
    fields = {
        "st": "" if starts is None else _moment(starts),
        "se": _moment(expires),
        "sp": _letters("permissions", permissions, _PERMISSIONS),
        "sip": ip or "",
        "spr": "https" if https_only else "https,http",
        "sv": VERSION,
        "sr": resource,
    }
    signed = [fields["sp"], fields["st"], fields["se"], path, "", fields["sip"], fields["spr"], fields["sv"]]
    signed += [
        resource,
        snapshot or version_id or "",
        *[""] * 6,
    ]  # a scope of encryption, and headers of replies
    return _token(key, fields, "\n".join(signed))


def account_sas(
    key: AzureKey,
    *,
    permissions: str,
    expires: int,
    starts: int | None = None,
    services: str = "b",
    resources: str = "co",
    ip: str | None = None,
    https_only: bool = True,
) -> AzureSas:
    """A signature for all of an account.

    Args:
        key: of the account.
        permissions: as in `service_sas`.
        expires: the same.
        starts: the same.
        services: `b` for blobs, `q` for queues, `t` for tables, `f` for files.
        resources: `s` for the service itself, `c` for containers, `o` for blobs.
        ip: as in `service_sas`.
        https_only: the same.

    Raises:
        InvalidArgument: letters that there are not.
    """
    fields = {
        "st": "" if starts is None else _moment(starts),
        "se": _moment(expires),
        "sp": _letters("permissions", permissions, _PERMISSIONS),
        "sip": ip or "",
        "spr": "https" if https_only else "https,http",
        "sv": VERSION,
        "ss": _letters("services", services, _SERVICES),
        "srt": _letters("resources", resources, _RESOURCES),
    }
    names = ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv")
    signed = [key.account, *(fields[name] for name in names), "", ""]
    return _token(key, fields, "\n".join(signed))


def _token(key: AzureKey, fields: dict[str, str], signed: str) -> AzureSas:
    given = [(name, value) for name, value in fields.items() if value]
    return AzureSas(token=escaped_query([*given, ("sig", mac(key.key, signed))]))


def _letters(name: str, given: str, known: str) -> str:
    """In the order that is signed."""
    unknown = [letter for letter in given if letter not in known]
    if unknown or not given:
        raise InvalidArgument(f"{name} {given!r}: expected one or more of the letters {known!r}")
    return "".join(letter for letter in known if letter in given)


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
