"""The operation for what a task's state demands."""

from meowcat.core.transfers import Download
from meowcat.core.wanted import Abort, AnyOperation, Commit, Fetch, Publish, Send, Verify
from meowcat.transfer.context import Errand, Running, World
from meowcat.transfer.fetch import FetchOperation
from meowcat.transfer.plugged import download_protocol_for
from meowcat.transfer.remote import AbortOperation, CommitOperation
from meowcat.transfer.send import SendOperation
from meowcat.transfer.settle import DiscardOperation, PublishOperation
from meowcat.transfer.small import SmallDownload, is_fresh
from meowcat.transfer.verify import VerifyOperation

__all__ = ["operation_for"]


def operation_for(world: World, errand: Errand, operation: AnyOperation) -> Running:
    """The operation that does `operation`; `run` starts it.

    Raises:
        InvalidArgument: the task needs a secret that `errand` does not have.

    """
    if isinstance(operation, Fetch):
        return _fetch(world, errand, operation)
    if isinstance(operation, Publish):
        return PublishOperation(world, errand)
    if isinstance(operation, Verify):
        return VerifyOperation(world, errand, operation)
    if isinstance(operation, Send):
        return SendOperation(world, errand, operation)
    if isinstance(operation, Commit):
        return CommitOperation(world, errand)
    if isinstance(operation, Abort):
        return AbortOperation(world, errand, operation)
    return DiscardOperation(world, errand)


def _fetch(world: World, errand: Errand, operation: Fetch) -> Running:
    request = errand.task.request
    assert isinstance(request, Download)  # noqa: S101  # only downloads are fetched
    protocol = download_protocol_for(world, errand, request)
    if world.rounds is not None and is_fresh(errand, protocol):
        return SmallDownload(world, world.rounds, errand, operation, protocol)
    return FetchOperation(world, errand, operation, protocol)
