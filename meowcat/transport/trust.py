"""Whom TLS trusts: the authorities of the system, and those that a user names beside them."""

import os
import re
import ssl
import sys
from pathlib import Path

from meowcat.core.errors import InvalidArgument

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
"""The name of a certificate in a folder where OpenSSL finds it."""


def read_certificates(bundle: str | Path | bytes) -> list[bytes]:
    """The certificates of a PEM bundle, given by its path or as bytes, one by one.

    Raises:
        InvalidArgument: it can't be read, or holds no certificate.
    """
    try:
        pem = bundle if isinstance(bundle, bytes) else Path(bundle).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"CA bundle {str(bundle)!r}: it can't be read: {error.strerror}") from error
    certificates = [each + b"\n" for each in _PEM.findall(pem)]  # what stands behind one is none of it
    if not certificates:
        name = "" if isinstance(bundle, bytes) else f" {str(bundle)!r}"
        raise InvalidArgument(f"CA bundle{name}: expected PEM with at least one certificate")
    return certificates


def system_context(bundle: str | Path | bytes | None) -> ssl.SSLContext | None:
    """A context for clients that trusts the authorities of the system, and those of a PEM bundle.

    A host has to be among the names that its certificate is for; that of its subject is none (RFC 9110
    4.3.4).

    None where it is not OpenSSL that knows the system's: on macOS and Windows, whose own verifiers would have
    to be asked, and where it finds none. In a folder it finds those that are named after their hash.

    Raises:
        InvalidArgument: the bundle can't be read, or is none.
    """
    paths = ssl.get_default_verify_paths()
    if sys.platform in {"darwin", "win32"} or not (paths.cafile or paths.capath):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.load_default_certs()
    in_file = context.cert_store_stats()["x509"] > 0
    if "SSL_CERT_DIR" in os.environ and "SSL_CERT_FILE" not in os.environ:
        in_file = False  # it is the folder that somebody wants
    if not (in_file or (paths.capath and _has_hashed(Path(paths.capath)))):
        return None
    if bundle is not None:
        trust_besides(context, bundle)
    return context


def _has_hashed(folder: Path) -> bool:
    try:
        return any(_HASHED.fullmatch(each.name) for each in folder.iterdir())
    except OSError:
        return False


def trust_besides(context: ssl.SSLContext, bundle: str | Path | bytes) -> None:
    """Trust whoever stands in a PEM bundle, too, be it an authority under another one.

    Raises:
        InvalidArgument: the bundle can't be read, or is none.
    """
    certificates = b"".join(read_certificates(bundle))
    try:
        context.load_verify_locations(cadata=certificates.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise InvalidArgument("CA bundle: it holds something that is no certificate") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
