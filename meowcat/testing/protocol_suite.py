"""The contract of upload protocols as a pytest suite: each check of `meowcat.testing.protocol` is a test.

    class TestMyProtocol(ProtocolSuite):
        harness = MyHarness

What the protocol or its harness lacks is skipped, with the reason.
"""

from typing import ClassVar

import pytest

from meowcat.testing.checklist import Lacking
from meowcat.testing.protocol.checks import CHECKS, Check
from meowcat.testing.protocol.harness import ProtocolHarness
from meowcat.testing.protocol.run import run_check

__all__ = ["ProtocolHarness", "ProtocolSuite"]


class ProtocolSuite:
    """Subclass it, name the harness, and let pytest collect it. Each test has a loop of its own."""

    harness: ClassVar[type[ProtocolHarness]]
    backend: ClassVar[str] = "asyncio"
    """The event loop: `asyncio` or `trio`."""

    @pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
    def test_contract(self, check: Check) -> None:
        try:
            run_check(check, self.harness, self.backend)
        except Lacking as reason:
            pytest.skip(str(reason))
