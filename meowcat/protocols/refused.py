"""How a protocol says that an exchange came to nothing."""

from meowcat.core.errors import Code, MeowcatError
from meowcat.core.values import Fault

__all__ = ["Refused"]


class Refused(MeowcatError):
    """What a protocol raises where an exchange came to nothing; `fault` says how."""

    code = Code.STATUS

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault
