"""Sinks: where durable events are delivered to. `Engine.add_sink` takes one."""

from typing import TYPE_CHECKING

from meowcat.core.errors import InvalidSignature, RetryLater, SinkError
from meowcat.journal.logged import event_object
from meowcat.sinks.contract import Sink
from meowcat.sinks.function import callback
from meowcat.sinks.json_lines import JSONLines
from meowcat.sinks.log import Logging

if TYPE_CHECKING:
    from meowcat.sinks.webhook import Webhook, verify_webhook

__all__ = [
    "InvalidSignature",
    "JSONLines",
    "Logging",
    "RetryLater",
    "Sink",
    "SinkError",
    "Webhook",
    "callback",
    "event_object",
    "verify_webhook",
]


def __getattr__(name: str) -> object:
    """Webhooks bring httpx, which takes half as long to load as all the rest: when they are asked for."""
    if name in ("Webhook", "verify_webhook"):
        from meowcat.sinks import webhook  # noqa: PLC0415  # see above

        return getattr(webhook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
