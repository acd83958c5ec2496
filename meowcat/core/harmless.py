"""The lists that decide what of a request may be stored: headers and query parameters, by name.

A name that is on no list is unknown, and what is unknown is treated as a secret.
"""

import re

_HEADERS = frozenset(
    {
        "accept", "accept-charset", "accept-encoding", "accept-language",
        "cache-control", "pragma", "dnt", "expect", "user-agent",
        "content-digest", "content-disposition", "content-encoding", "content-language", "content-md5",
        "content-type", "digest", "repr-digest", "want-content-digest", "want-digest", "want-repr-digest",
        "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range",
        "traceparent", "x-correlation-id", "x-request-id",
        "x-amz-acl", "x-amz-storage-class", "x-goog-storage-class", "x-ms-blob-type", "x-ms-version",
        "x-oss-forbid-overwrite", "x-oss-object-acl", "x-oss-storage-class",
    }
)  # fmt: skip

_PARAMETERS = frozenset(
    {
        # which version, part or view of an object
        "versionid", "version", "v", "generation", "partnumber", "snapshot", "x-id", "x-oss-process",
        "restype", "comp", "uploads", "versions", "alt", "raw", "dl", "download", "export", "format", "type",
        # how it is presented
        "response-content-disposition", "response-content-encoding", "response-content-language",
        "response-content-type", "response-cache-control", "rscc", "rscd", "rsce", "rscl", "rsct",
        # names of things
        "id", "file", "filename", "name", "path", "prefix", "ref", "branch", "tag", "page", "part", "offset",
        "limit", "lang", "locale", "hl", "size", "width", "height", "quality",
    }
)  # fmt: skip

_SIGNATURES = frozenset(
    {
        # S3 version 2, Google, CloudFront, OSS
        "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "signature", "expires", "policy", "key-pair-id",
        "hash-algorithm", "keyname", "security-token",
        # Azure shared access signatures
        "sig", "se", "sp", "sv", "sr", "st", "ss", "srt", "sip", "spr", "si", "sdd", "skoid", "sktid", "skt",
        "ske", "sks", "skv", "saoid", "suoid", "scid", "ses",
        # Akamai, Facebook, Discord, and what home-made signatures are made of
        "hdnea", "hdntl", "hdnts", "__gda__", "oh", "oe", "ex", "is", "hm", "key", "api_key", "apikey", "sid",
        "sign", "nonce", "timestamp", "ts", "pin", "pass", "code",
    }
)  # fmt: skip
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-tos-", "x-obs-", "q-", "amz-")
_SECRET_WORD = re.compile(
    r"token|secret|passw|pwd|signature|credential|api[-_]?key|access[-_]?key|auth(?!or)|session|jwt|otp"
    r"|cookie|bearer|ticket"
)

_PLAIN_VALUE = re.compile(r"[^=&?@#%;\x00-\x1f\x7f]{1,128}")
"""A decoded value without the marks of a URL or a query inside it, and too short for most tokens."""
_PRESENTATION_VALUE = re.compile(r"[^&?@#%\x00-\x1f\x7f]{1,256}")


def harmless_header(name: str) -> bool:
    """Whether a request header's value may be stored. Anything that is not known to be harmless is not."""
    return name.strip().lower() in _HEADERS


def harmless_parameter(name: str, value: str) -> bool:
    """Whether a query parameter may be stored, both decoded: its name is on the list, its value is plain."""
    name = name.lower()
    if name not in _PARAMETERS:
        return False
    pattern = _PRESENTATION_VALUE if name.startswith(("response-", "rsc")) else _PLAIN_VALUE
    return not value or ("://" not in value and pattern.fullmatch(value) is not None)


def signature_parameter(name: str) -> bool:
    """Whether a query parameter is part of a signature, or a secret by its name.

    Such a parameter says who may read an object, not which object it is.
    """
    name = name.lower()
    if name in _PARAMETERS:
        return False
    return (
        name in _SIGNATURES or name.startswith(_SIGNATURE_PREFIXES) or _SECRET_WORD.search(name) is not None
    )
