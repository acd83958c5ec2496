"""What users ask for, made ready to be recorded: checked, completed by the settings, without its secrets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from meowcat.config import Config
from meowcat.core.errors import InvalidArgument
from meowcat.core.kinds import kind_of, path_text
from meowcat.core.plans import DownloadPlan, UploadPlan
from meowcat.core.seal import Secrets, seal
from meowcat.core.transfers import NO_DIGEST, Download, Request, Upload, check, check_chosen, check_headers
from meowcat.core.urls import identity
from meowcat.protocols.registry import (
    Protocols,
    download_needs_of,
    download_protocol_of,
    upload_needs_of,
    upload_protocol_of,
)

__all__ = ["Intake", "Sealed", "absolute", "supplied"]

_ROOT = "/" if os.name == "posix" else None
"""What a path from the root on begins with; on Windows that is not all that it takes."""

Sealed = tuple[Request, Secrets, str]
"""A request as it is stored, what is kept of it in memory only, and its key."""


@dataclass(frozen=True)
class Intake:
    """Takes requests in.

    Attributes:
        config: what is asked for otherwise.
        protocols: those that can be named.
        digest: what is computed over each whole where neither the request nor `config` says anything.

    """

    config: Config
    protocols: Protocols
    digest: str | None

    def take(self, request: object) -> Sealed:
        """Make a request ready.

        Raises:
            InvalidArgument: names the field, the value and what is expected.
        """
        if isinstance(request, Download):
            return self._download(request)
        if isinstance(request, Upload):
            return self._upload(request)
        kind = type(request).__name__  # its value may be a URL with a secret
        raise InvalidArgument(f"request: expected a meowcat.Download or a meowcat.Upload, got a {kind}")

    def _download(self, request: Download) -> Sealed:
        if request.protocol is not None:
            request = self.reached(request)
        check(request)
        config, accept = self.config, request.accept or None
        if accept is None and request.protocol is None and not _names_accept(request.headers):
            accept = config.accept
        request = replace(
            request,
            to=absolute(request.to),
            connections=request.connections or config.connections,
            piece_size=request.piece_size or config.piece_size,
            retries=config.retries if request.retries is None else request.retries,
            digest=self._digest_for(request),
            accept=accept,
        )
        sealed, secrets = seal(request)
        return sealed, secrets, request.key or request.to

    def reached(self, request: Download) -> Download:
        """With the http(s) URL that its protocol makes of the one that was given, and what it needs.

        Raises:
            InvalidArgument: a protocol that nobody registered, or a URL that it does not take.
        """
        spec = request.protocol
        if spec is None:
            return request
        protocol = download_protocol_of(self.protocols, spec)
        url, spec = protocol.resolve(request.url, spec, request.plan)
        needs = (*request.needs, *download_needs_of(protocol, spec))
        return replace(request, url=url, protocol=spec, needs=needs)

    def _upload(self, request: Upload) -> Sealed:
        protocol = upload_protocol_of(self.protocols, request.protocol)
        url, spec = protocol.resolve(request.url, request.protocol, request.plan)
        config, source, prepare_retries = self.config, request.source, request.prepare_retries
        if request.origin == "file" and source:
            source = absolute(path_text("source", source))
        request = replace(
            request,
            url=url,
            protocol=spec,
            source=source,
            connections=config.connections if request.connections is None else request.connections,
            retries=config.retries if request.retries is None else request.retries,
            prepare_retries=config.prepare_retries if prepare_retries is None else prepare_retries,
            digest=self._digest_for(request),
            needs=upload_needs_of(protocol, spec, request),
        )
        check(request)
        sealed, secrets = seal(request)
        place = identity(url) if protocol.owns_url else f"{identity(url)} {request.source}"
        return sealed, secrets, request.key or place

    def _digest_for(self, request: Request) -> str | None:
        chosen = request.digest or self.config.digest or self.digest
        return None if chosen == NO_DIGEST else chosen


def absolute(path: str) -> str:
    """A path from the root on. Symlinks stay as they are."""
    plain = type(path) is str and path[:1] == _ROOT and path[-1:] != "/"
    if plain and "//" not in path and "/." not in path:
        return path  # as most of a queue are; `abspath` asks a dozen times before it says so
    return os.path.abspath(path)  # noqa: PTH100  # Path.resolve follows symlinks


def _names_accept(headers: Mapping[str, str]) -> bool:
    return bool(headers) and any(name.lower() == "accept" for name in headers)


def supplied(
    request: Request,
    url: str | None,
    headers: Mapping[str, str],
    data: bytes | None,
    plan: UploadPlan | DownloadPlan | None,
) -> tuple[Request, Secrets, tuple[str, ...]]:
    """A recorded request with what was handed in: as it is stored, its secrets, and the names of what came.

    Raises:
        InvalidArgument: nothing came, or something that the request has no use for.
    """
    if url is None and not headers and data is None and plan is None:
        raise InvalidArgument("supply: expected a url, headers, data or a plan")
    check_headers(headers)
    if isinstance(request, Download):
        check_chosen(headers)
    if plan is not None and not isinstance(plan, UploadPlan | DownloadPlan):
        raise InvalidArgument(f"plan: expected an UploadPlan or a DownloadPlan, got {kind_of(plan)}")
    fresh = replace(request, url=url or request.url, headers=_merged(request.headers, headers), plan=plan)
    if data is not None:
        if not isinstance(fresh, Upload) or fresh.origin != "bytes":
            raise InvalidArgument("supply: data is for uploads of bytes")
        fresh = replace(fresh, data=data)
    check(fresh)
    if plan is not None:
        plan.validate()
    came = {"url": url is not None, "data": data is not None, "plan": plan is not None}
    names = (*(f"header:{name.lower()}" for name in headers), *(name for name in came if came[name]))
    return *seal(fresh), names


def _merged(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Header fields, whose names are the same in any case (RFC 9110 5.1)."""
    names = {name.lower() for name in new}
    return {name: value for name, value in old.items() if name.lower() not in names} | dict(new)
