"""Reading the authorities that a user trusts beside the usual ones."""

import re
from pathlib import Path

from meowcat.core.errors import InvalidArgument

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.DOTALL)


def read_certificates(bundle: str | Path | bytes) -> list[bytes]:
    """The certificates of a PEM bundle, given by its path or as bytes, one by one.

    Raises:
        InvalidArgument: it can't be read, or holds no certificate.
    """
    try:
        pem = bundle if isinstance(bundle, bytes) else Path(bundle).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"CA bundle {str(bundle)!r}: it can't be read: {error.strerror}") from error
    certificates = _PEM.findall(pem)
    if not certificates:
        name = "" if isinstance(bundle, bytes) else f" {str(bundle)!r}"
        raise InvalidArgument(f"CA bundle{name}: expected PEM with at least one certificate")
    return certificates
