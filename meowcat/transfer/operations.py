"""The operation for what a task's state demands."""

from meowcat.core.transfers import Download
from meowcat.core.wanted import AnyOperation, Fetch, Publish, Verify
from meowcat.protocols.http_range import HttpRange
from meowcat.transfer.context import Errand, Running, World
from meowcat.transfer.fetch import FetchOperation
from meowcat.transfer.settle import DiscardOperation, PublishOperation
from meowcat.transfer.verify import VerifyOperation

__all__ = ["operation_for"]


def operation_for(world: World, errand: Errand, operation: AnyOperation) -> Running:
    """The operation that does `operation`; `run` starts it.

    Raises:
        InvalidArgument: the task needs a secret that `errand` does not have.

    """
    request = errand.task.request
    assert isinstance(request, Download)  # noqa: S101  # no upload demands any of these
    if isinstance(operation, Fetch):
        protocol = HttpRange(world.transport, request, errand.secrets, world.wall)
        return FetchOperation(world, errand, operation, protocol)
    if isinstance(operation, Verify):
        return VerifyOperation(world, errand, operation)
    if isinstance(operation, Publish):
        return PublishOperation(world, errand)
    return DiscardOperation(world, errand)
