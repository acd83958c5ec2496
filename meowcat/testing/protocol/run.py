"""Running the checks without a test framework."""

from collections.abc import Callable, Sequence
from functools import partial

import anyio

from meowcat.testing import checklist
from meowcat.testing.checklist import Finding, Report
from meowcat.testing.protocol.checks import CHECKS, Check
from meowcat.testing.protocol.harness import ProtocolHarness
from meowcat.testing.protocol.trial import WITHIN, trial_of

__all__ = ["run_all", "run_check"]


def run_check(each: Check, harness: Callable[[], ProtocolHarness], backend: str = "asyncio") -> None:
    """Run one check with a fresh server, in a loop of its own.

    Raises:
        AssertionError: the rule does not hold. Lacking: the protocol or the harness can't do this.

    """
    anyio.run(_run, each, harness, backend=backend)


async def _run(each: Check, harness: Callable[[], ProtocolHarness]) -> None:
    with anyio.fail_after(WITHIN):
        async with trial_of(harness()) as trial:
            await each.run(trial)


def run_all(
    harness: Callable[[], ProtocolHarness],
    checks: Sequence[Check] | None = None,
    told: Callable[[Finding], object] | None = None,
) -> Report:
    """Run `checks`, or all, each with a fresh server.

    Args:
        harness: makes one; see `ProtocolHarness`.
        checks: which; all by default.
        told: called with each finding as it is made.

    """
    findings = []
    for each in CHECKS if checks is None else checks:
        finding = checklist.find(each, partial(run_check, each, harness))
        findings.append(finding)
        if told is not None:
            told(finding)
    return Report(tuple(findings))
