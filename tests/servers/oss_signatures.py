"""Who signed a request to the stand-in OSS, and when: version 4, in the header or in the query.

Written from the documentation, and from nothing that meowcat signs with:
https://help.aliyun.com/en/oss/developer-reference/recommend-to-use-signature-version-4 (header)
https://help.aliyun.com/en/oss/developer-reference/add-signatures-to-urls (query)
The codes and texts of refusals are those of https://help.aliyun.com/en/oss/user-guide/0002-00000202 and its
neighbours, whose last number is the `EC` of an error.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import quote, unquote_plus

ALGORITHM = "OSS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
SKEW_MS = 15 * 60 * 1000
LONGEST = 7 * 24 * 3600
"""Seconds that a URL may be good for: EC 0002-00000232."""
OF_THE_QUERY = "x-oss-signature-version"


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        code: OSS's word for it.
        text: the message.
        ec: OSS's number for it, where it is known.
        elements: further ones of the error's XML.
    """

    def __init__(self, status, code, text, ec="", **elements):
        super().__init__(f"{status} {code}: {text}")
        self.status, self.code, self.text, self.ec, self.elements = status, code, text, ec, elements


@dataclass(frozen=True)
class Asked:
    """What of a request is signed."""

    method: str
    bucket: str
    name: str
    """Of the object, or ""."""
    query: str
    """As it came."""
    headers: Mapping[str, str]
    """Names in lower case; several fields of one name are joined by commas."""


@dataclass(frozen=True)
class Claim:
    """What a signature says of itself."""

    credential: str
    additional: str
    signature: str
    moment: str
    """`20260131T235959Z`."""
    token: str | None
    where: str


def query_pairs(query):
    """Decoded names and values, as they come. A plus is a blank: oss2 sends one, and signs `%20`."""
    pairs = (segment.partition("=")[::2] for segment in query.split("&") if segment)
    return [(unquote_plus(name), unquote_plus(value)) for name, value in pairs]


def verify(asked: Asked, key_of: Callable, region: str, now: int):
    """Returns the id of whoever signed.

    Args:
        asked: the request.
        key_of: an access key by its id, or None.
        region: which the buckets are in.
        now: milliseconds since 1970 UTC, by this server's clock.

    Raises:
        Refusal: nobody did who may.
    """
    query = dict(query_pairs(asked.query))
    if OF_THE_QUERY in query:
        claim = _claim_of_query(query)
    elif "authorization" in asked.headers:
        claim = _claim_of_header(asked.headers)
    else:
        raise Refusal(403, "AccessDenied", "You have no right to access this object because of bucket acl.")
    scope, id_ = _scope(claim, region)
    _check_additional(claim, asked.headers)
    at = _instant(claim)
    if OF_THE_QUERY in query:
        _check_not_over(at, query.get("x-oss-expires", ""), now)
    elif abs(now - at) > SKEW_MS:
        raise Refusal(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            "0002-00000504",
            RequestTime=iso(at),
            ServerTime=iso(now),
            MaxAllowedSkewMilliseconds=SKEW_MS,
        )
    key = key_of(id_)
    _check_key(key, id_, claim.token, now)
    canonical = _canonical_request(asked, claim.additional)
    text = "\n".join([ALGORITHM, claim.moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    expected = _signature(key.secret, scope, text)
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        raise Refusal(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key "
            "and signing method.",
            OSSAccessKeyId=id_,
            SignatureProvided=claim.signature,
            StringToSign=text,
            CanonicalRequest=canonical,
        )
    return id_


def _claim_of_query(query):
    if query[OF_THE_QUERY] != ALGORITHM:
        raise _invalid(f"Unsupported signature version {query[OF_THE_QUERY]!r}; this server takes version 4.")
    for name in ("x-oss-credential", "x-oss-date", "x-oss-expires", "x-oss-signature"):
        if not query.get(name):
            raise Refusal(403, "AccessDenied", f"The query parameter {name} is missing.", "0002-00000215")
    additional = query.get("x-oss-additional-headers")
    if additional == "":
        raise _invalid("x-oss-additional-headers is empty.", "0002-00000076")
    return Claim(
        query["x-oss-credential"],
        additional or "",
        query["x-oss-signature"],
        query["x-oss-date"],
        query.get("x-oss-security-token"),
        "x-oss-credential",
    )


def _claim_of_header(headers):
    algorithm, _, terms = headers["authorization"].partition(" ")
    if algorithm != ALGORITHM:
        raise _invalid(f"Unsupported signature version {algorithm!r}; this server takes version 4.")
    known = dict(term.strip().partition("=")[::2] for term in terms.split(","))
    if not {"Credential", "Signature"} <= known.keys() <= {"Credential", "Signature", "AdditionalHeaders"}:
        raise _invalid("Invalid Authorization header.", "0002-00000202")
    if known.get("AdditionalHeaders") == "":
        raise _invalid("AdditionalHeaders is empty.", "0002-00000209")
    if headers.get("x-oss-content-sha256") != UNSIGNED:
        raise _invalid("x-oss-content-sha256 must be UNSIGNED-PAYLOAD.")
    moment = headers.get("x-oss-date") or _moment_of_date(headers.get("date", ""))
    return Claim(
        known["Credential"],
        known.get("AdditionalHeaders", ""),
        known["Signature"],
        moment,
        headers.get("x-oss-security-token"),
        "Authorization header",
    )


def _moment_of_date(date):
    try:
        return parsedate_to_datetime(date).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    except ValueError:
        raise Refusal(403, "AccessDenied", "OSS authentication requires a valid Date.") from None


def _scope(claim, region):
    """The part of the credential behind the key's id, which has to be for this day, region and service."""
    id_, _, scope = claim.credential.partition("/")
    match = re.fullmatch(r"(\d{8})/([^/]+)/oss/aliyun_v4_request", scope)
    if match is None:
        raise _invalid(f"Invalid credential in {claim.where}.", "0002-00000213")
    if match[1] != claim.moment[:8]:
        raise _invalid(f"Invalid signing date in {claim.where}.", "0002-00000212")
    if match[2] != region:
        raise _invalid(f"Invalid signing region in {claim.where}.", "0002-00000226")
    return scope, id_


def _check_additional(claim, headers):
    """EC 0002-00000210: in lower case, in order, none empty."""
    names = claim.additional.split(";") if claim.additional else []
    if names != sorted({name.lower() for name in names}) or not all(names):
        raise _invalid(
            "AdditionalHeaders have to be in lower case, in order, and none empty.", "0002-00000210"
        )
    for name in names:
        if name not in headers:
            raise _invalid(f"The additional header {name} is missing.")


def _instant(claim):
    try:
        moment = datetime.strptime(claim.moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refusal(403, "AccessDenied", "OSS authentication requires a valid Date.") from None
    return int(moment.timestamp() * 1000)


def _check_not_over(at, expires, now):
    if not expires.isdecimal() or not 1 <= int(expires) <= LONGEST:
        raise _invalid(f"x-oss-expires {expires!r}: expected 1 to {LONGEST} seconds.", "0002-00000232")
    if at - now > SKEW_MS:
        raise Refusal(403, "AccessDenied", "Request is not yet valid.", ServerTime=iso(now))
    end = at + int(expires) * 1000
    if now >= end:
        raise Refusal(
            403,
            "AccessDenied",
            "Request has expired.",
            "0002-00000069",
            Expires=iso(end),
            ServerTime=iso(now),
        )


def _check_key(key, id_, token, now):
    if key is None or (key.token is not None and token is None):
        raise Refusal(
            403,
            "InvalidAccessKeyId",
            "The OSS Access Key Id you provided does not exist in our records.",
            "" if key is None else "0002-00000003",
            OSSAccessKeyId=id_,
        )
    if token != key.token:
        raise Refusal(
            403, "InvalidSecurityToken", "The security token you provided is invalid.", "0002-00000006"
        )
    if key.expires is not None and now >= key.expires:
        raise Refusal(
            403, "SecurityTokenExpired", "The security token you provided has expired.", "0002-00000007"
        )


def _canonical_request(asked, additional):
    path = f"/{asked.bucket}/{asked.name}" if asked.bucket else "/"
    pairs = sorted(
        (quote(name, safe=""), quote(value, safe=""))
        for name, value in query_pairs(asked.query)
        if name != "x-oss-signature"
    )
    extra = additional.split(";")
    fields = {
        name: value.strip()
        for name, value in sorted(asked.headers.items())
        if name.startswith("x-oss-") or name in ("content-type", "content-md5") or name in extra
    }
    return "\n".join(
        [
            asked.method,
            quote(path, safe="/"),
            "&".join(f"{name}={value}" if value else name for name, value in pairs),
            "".join(f"{name}:{value}\n" for name, value in fields.items()),
            additional,
            fields.get("x-oss-content-sha256", UNSIGNED),
        ]
    )


def _signature(secret, scope, text):
    key = ("aliyun_v4" + secret).encode()
    for step in (*scope.split("/"), text):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    return key.hex()


def _invalid(text, ec=""):
    return Refusal(400, "InvalidArgument", text, ec)


def http_date(at):
    """Milliseconds since 1970 UTC, as the field Date has them."""
    return format_datetime(datetime.fromtimestamp(at // 1000, UTC), usegmt=True)


def iso(at):
    """As OSS's XML has it: in whole seconds, since clients take nothing else behind the point than `000`."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
