"""Sinks: where durable events are delivered to. `Engine.add_sink` takes one."""

from meowcat.core.errors import InvalidSignature, RetryLater, SinkError
from meowcat.journal.logged import event_object
from meowcat.sinks.contract import Sink
from meowcat.sinks.function import callback
from meowcat.sinks.json_lines import JSONLines
from meowcat.sinks.log import Logging
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
