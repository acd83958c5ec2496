"""Whether a body comes as fast as is asked for at least. A server that sends a byte now and then is never
silent, and would be waited for for ever.
"""

from meowcat.core.values import Fault, FaultKind
from meowcat.protocols.contract import Answer, Refused
from meowcat.transfer.context import World
from meowcat.transport.contract import Chunk

__all__ = ["Pace"]


class Pace:
    """Of one body. Only time counts in which it is waited for: whoever reads slowly, for a limit or a slow
    disk, finds that more has come meanwhile.
    """

    __slots__ = ("_came", "_clock", "_lowest", "_patience", "_waited")

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._lowest = world.lowest_rate or 0
        self._patience = world.patience
        self._waited = 0.0
        self._came = 0

    async def read(self, answer: Answer, size: int) -> Chunk:
        """`answer.read`.

        Raises:
            Refused: SLOW.

        """
        began = self._clock()
        chunk = await answer.read(size)
        self.waited(self._clock() - began, len(chunk))
        return chunk

    def waited(self, seconds: float, count: int) -> None:
        """`count` bytes have come within `seconds` of waiting.

        Raises:
            Refused: SLOW.

        """
        self._waited += seconds
        self._came += count
        if self._waited < self._patience:
            return
        if self._came < self._lowest * self._waited:
            detail = (
                f"the server sent {self._came:,} bytes in {self._waited:.0f} s; expected {self._lowest:,} a "
                "second at least (lowest_rate)"
            )
            raise Refused(Fault(kind=FaultKind.SLOW, detail=detail))
        self._waited, self._came = 0.0, 0
