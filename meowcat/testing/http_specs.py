"""HTTP specs: replies and what `meowcat.core.http_rules` makes of them, written in TOML.

    [[http]]
    name = "a part that begins elsewhere is refused"
    rfc = "RFC 9110 15.3.7"
    asked = { start = 100, stop = 200 }
    status = 206
    headers = ["Content-Range: bytes 0-99/1000"]
    verdict = { kind = "wrong", fault = "range", detail = "begins at 100" }

`asked` has the fields of `Asked`; its `pinned` those of `Generation`, where `ranges` is true and `strong`
follows from the ETag unless said. Of the verdict, what is written is compared and the rest may be anything;
a `detail` is a part of the text. A key that nobody knows is an error, since it would test nothing.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from meowcat.core.http_rules import Asked, Verdict, judge, strong_etag
from meowcat.core.values import Checksum, FaultKind, Generation


class PinnedSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A generation as a spec writes it."""

    size: int | None = None
    ranges: bool = True
    etag: str | None = None
    last_modified: str | None = None
    strong: bool | None = None
    digests: tuple[str, ...] = ()
    """`algorithm:hex` each."""

    def build(self) -> Generation:
        strong = strong_etag(self.etag) if self.strong is None else self.strong
        digests = tuple(Checksum(*digest.split(":", 1)) for digest in self.digests)
        return Generation(
            size=self.size,
            ranges=self.ranges,
            etag=self.etag,
            last_modified=self.last_modified,
            strong=strong,
            digests=digests,
        )


class AskedSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A request as a spec writes it."""

    start: int = 0
    stop: int | None = None
    pinned: PinnedSpec | None = None
    total: int | None = None
    keep_encoding: bool = False
    method: Literal["GET", "HEAD"] = "GET"
    stored: bool = False

    def build(self) -> Asked:
        pinned = self.pinned.build() if self.pinned else None
        return Asked(self.start, self.stop, pinned, self.total, self.keep_encoding, self.method, self.stored)


class GenerationSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a spec expects of a generation; what is left out may be anything, `"none"` is None."""

    size: int | Literal["none"] | None = None
    ranges: bool | None = None
    etag: str | None = None
    last_modified: str | None = None
    strong: bool | None = None
    digests: list[str] | None = None


class VerdictSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a spec expects of a verdict; what is left out may be anything, `"none"` is None."""

    kind: Literal["partial", "whole", "empty", "rangeless", "changed", "wrong"]
    generation: GenerationSpec | None = None
    start: int | None = None
    stop: int | None = None
    length: int | Literal["none"] | None = None
    fault: FaultKind | None = None
    retry_after: int | Literal["none"] | None = None
    detail: str | None = None


class HttpSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One row: a reply and its verdict."""

    name: str
    rfc: str
    """The section that the row comes from."""
    status: int
    verdict: VerdictSpec
    asked: AskedSpec = AskedSpec()
    headers: tuple[str, ...] = ()
    """`Name: value` each."""
    now: int | None = None
    """The wall clock, milliseconds since 1970 UTC."""

    def fields(self) -> list[tuple[str, str]]:
        """The headers as a transport gives them."""
        lines = (line.partition(":") for line in self.headers)
        return [(name, value.removeprefix(" ")) for name, _, value in lines]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    http: list[HttpSpec] = field(default_factory=list)


def load(path: str | Path) -> list[HttpSpec]:
    """The rows of a file.

    Raises:
        ValueError: no TOML, an unknown key, a wrong type, two rows of one name; with the path in the text.
    """
    try:
        rows = msgspec.convert(tomllib.loads(Path(path).read_text(encoding="utf-8")), _File).http
    except ValueError as error:  # of TOML and of msgspec alike
        raise ValueError(f"{path}: {error}") from error
    names = [row.name for row in rows]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{path}: rows with the same name: {', '.join(sorted(twice))}")
    return rows


def run(spec: HttpSpec) -> None:
    """Judge the reply of `spec`.

    Raises:
        AssertionError: another verdict than expected; the text has both, field by field.
    """
    verdict = judge(spec.asked.build(), spec.status, spec.fields(), spec.now)
    expected = msgspec.to_builtins(spec.verdict)
    found = _flat(verdict)
    wrong = _differences(expected, found)
    if wrong:
        lines = "\n".join(f"  {line}" for line in wrong)
        raise AssertionError(
            f"{spec.name} ({spec.rfc}): not the verdict that was expected\n{lines}\n  got {found}"
        )


def _flat(verdict: Verdict) -> dict[str, Any]:
    """The verdict in the words of `VerdictSpec`."""
    flat: dict[str, Any] = msgspec.to_builtins(verdict)
    flat["kind"] = flat.pop("type")
    fault = flat.pop("fault", None)
    if fault:
        flat |= {"fault": fault["kind"], "detail": fault["detail"], "retry_after": fault["retry_after"]}
    if "generation" in flat:
        digests = flat["generation"]["digests"]
        flat["generation"]["digests"] = [f"{digest['algorithm']}:{digest['hex']}" for digest in digests]
    return flat


def _differences(expected: dict[str, Any], found: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in expected.items():
        got = found.get(key)
        if isinstance(value, dict) and isinstance(got, dict):
            lines += _differences(value, got, f"{prefix}{key}.")
        elif key not in found or not _agrees(key, value, got):
            lines.append(f"{prefix}{key}: expected {value!r}, got {got!r}")
    return lines


def _agrees(key: str, value: object, got: object) -> bool:
    if key == "detail":
        return str(value) in str(got)
    return got is None if value == "none" else value == got
