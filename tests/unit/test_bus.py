"""What those who watch an engine are told."""

from meowcat.core.values import Position
from meowcat.runtime.bus import Bus


def test_the_end_of_the_journal_never_goes_back():
    """Two who were stored together may say so in either order: whoever waits for the later one is told."""
    bus = Bus(lambda: 0.0, Position(0))
    bus.grew(Position(5))
    bus.grew(Position(4))
    assert bus.position == 5
