"""A file name out of a reply: what a server proposes, made harmless.

The name comes from somebody else and goes to a file system, so it is rebuilt rather than checked: one path
segment that means the same on Linux, macOS and Windows.
"""

import re
import unicodedata
from urllib.parse import unquote, unquote_to_bytes, urlsplit

LAST_RESORT = "download"
MAX_BYTES = 200
"""Of UTF-8. File systems take 255; the rest is left for the suffix of a part file."""
_MAX_SUFFIX_BYTES = 20

_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.DOTALL)
_EXTENDED = re.compile(r"([\w-]+)'[\w-]*'(.*)", re.ASCII)
_CHARSETS = {"utf-8", "iso-8859-1"}
_FORBIDDEN = re.compile(r'[<>:"|?*]')
"""What Windows allows in no name. A colon also names a stream or a drive there, and a folder on macOS."""
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])[ ]*(\.|$)", re.IGNORECASE)
"""Device names of Windows, whatever the suffix."""
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories without a glyph. Cf has the marks that turn the direction of writing around, which make
`gpj.exe` read as `exe.jpg`."""


def file_name(content_disposition: str | None, url: str) -> str:
    """A safe name for the content of `url`: never a path, never empty.

    From Content-Disposition (RFC 6266 4.3: `filename*` first, then `filename`), else from the last segment
    of the URL's path, else `download`. No control or invisible characters, no separators of any system, no
    leading dots, no device names of Windows; at most 200 bytes of UTF-8, the suffix kept.
    """
    for proposal in (*_proposals(content_disposition or ""), _from_url(url)):
        name = _harmless(proposal)
        if name:
            return name
    return LAST_RESORT


def _proposals(disposition: str) -> list[str]:
    """The names that Content-Disposition gives, the preferred one first."""
    given: dict[str, str] = {}
    for name, value in _PARAMETER.findall(disposition):
        given.setdefault(name.lower(), value.strip())
    return [_extended(given.get("filename*", "")), _plain(given.get("filename", ""))]


def _extended(value: str) -> str:
    """`charset'language'percent-encoded` (RFC 8187 3.2); "" where it is not that."""
    match = _EXTENDED.fullmatch(value)
    if match is None or match[1].lower() not in _CHARSETS:
        return ""
    try:
        return unquote_to_bytes(match[2]).decode(match[1])
    except UnicodeDecodeError:
        return ""


def _plain(value: str) -> str:
    """A token or a quoted string. Raw UTF-8, which many servers send, arrives as Latin-1 and is put right."""
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _from_url(url: str) -> str:
    try:
        return unquote(urlsplit(url).path, errors="replace")
    except ValueError:  # what the standard parser raises on a broken host
        return ""


def _harmless(proposal: str) -> str:
    """The last path segment of `proposal` as a name that no system takes for anything else; may be ""."""
    segment = re.split(r"[/\\]", proposal)[-1]
    segment = unicodedata.normalize("NFC", segment)
    segment = "".join(char for char in segment if unicodedata.category(char) not in _INVISIBLE)
    segment = _FORBIDDEN.sub("_", segment)
    name = _shortened(_trimmed(segment))
    # A reserved stem is found only now: cutting a name short can uncover one.
    return f"_{name}" if _RESERVED.match(name) else name


def _trimmed(name: str) -> str:
    """Without dots and blanks at its ends: hidden files, `..`, and what Windows drops in silence."""
    return name.lstrip(" .").rstrip(" .") if name.strip() else ""


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _MAX_SUFFIX_BYTES:
        stem, dot, suffix = name, "", ""
    room = MAX_BYTES - len((dot + suffix).encode()) - 1  # one byte for the underscore of a reserved name
    return _trimmed(stem.encode()[:room].decode(errors="ignore")) + dot + suffix
