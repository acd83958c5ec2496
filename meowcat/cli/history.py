"""Events as lines for people."""

from collections.abc import Callable
from typing import Any

from meowcat.cli.quantities import counted, seconds_text, size_text
from meowcat.cli.views import clock_text
from meowcat.core import events as ev
from meowcat.core.transfers import Download
from meowcat.core.urls import redact
from meowcat.core.values import Fault
from meowcat.journal.logged import LoggedEvent

_SHOWN_SPANS = 4


def event_text(logged: LoggedEvent) -> str:
    """An event on one line: its time, number, type and state, and the fields that tell."""
    event = logged.event
    telling = _TELLING.get(type(event), _nothing)(event)
    tag = ev.TAGS[type(event)]
    return f"{clock_text(logged.at)}  {logged.seq:>4}  {tag:<17}{event.state:<10} {telling}".rstrip()


def _nothing(event: Any) -> str:  # noqa: ARG001  # one signature for all events
    return ""


def _created(event: ev.Created) -> str:
    request, url = event.request, redact(event.request.url)
    needs = f"  (not stored: {', '.join(request.needs)})" if request.needs else ""
    if isinstance(request, Download):
        return f"{url} -> {request.to}{needs}"
    return f"{request.source} -> {url}, by {request.protocol.tag}{needs}"


def _started(event: ev.Started) -> str:
    known = event.generation
    validator = known.etag or known.last_modified or "no validator"
    ranges = "" if known.ranges else ", no ranges"
    return f"{size_text(known.size)} in pieces of {size_text(event.piece_size)}, {validator}{ranges}"


def _stored(event: ev.Stored) -> str:
    return _pieces(event.pieces)


def _pinned(event: ev.SourcePinned) -> str:
    return _whole(event.source.size, [str(each) for each in event.digests])


def _opened(event: ev.SessionOpened) -> str:
    held = f", of which the server has {_pieces(event.held, 'part')}" if event.held else ""
    return f"{_session(event.session.id)}parts of {size_text(event.piece_size)}{held}"


def _session(name: str) -> str:
    return f"{name}, " if name else ""


def _dropped(event: ev.SessionDropped) -> str:
    return event.reason + ("; its session is to be removed" if event.abort else "")


def _aborted(event: ev.SessionAborted) -> str:
    if event.committed:
        return f"{_session(event.session)}it had become the object already, which was left"
    if event.gone:
        return f"{_session(event.session)}gone"
    return f"{_session(event.session)}given up, and may still stand at the server: {event.detail}"


def _rechecked(event: ev.Rechecked) -> str:
    lost = f"; lost {_pieces(event.lost)}" if event.lost else ""
    return f"kept {_pieces(event.kept)}{lost}"


def _attempt_failed(event: ev.AttemptFailed) -> str:
    delay = "" if event.delay is None else f", again in {seconds_text(event.delay / 1000)}"
    return f"attempt {event.attempt}{delay}, waits for {event.waiting_for}: {_fault(event.fault)}"


def _waiting(event: ev.Waiting) -> str:
    return f"for {event.waiting_for}" + (f": {', '.join(event.names)}" if event.names else "")


def _intended(event: ev.PublishIntended | ev.CommitIntended) -> str:
    return _whole(event.size, [str(each) for each in event.digests])


def _completed(event: ev.Completed) -> str:
    said = [f"{name} {value}" for name, value in event.result.items()]
    place = f"{event.path} -> {redact(event.url or '')}" if event.direction == "upload" else event.path
    return f"{place}  {_whole(event.size, [*map(str, event.digests), *said])}"


def _recovered(event: ev.Recovered) -> str:
    return ", ".join(filter(None, ("after a crash" if event.crashed else "", event.reason)))


def _restarted(event: ev.Restarted) -> str:
    return ("the content changed: " if event.changed else "") + event.reason


def _discarded(event: ev.PartDiscarded) -> str:
    return "it had been published already and was left" if event.published else "the part file is removed"


_TELLING: dict[type[ev.Event], Callable[[Any], str]] = {
    ev.Created: _created,
    ev.Admitted: lambda event: f"run {event.run}",
    ev.Started: _started,
    ev.Stored: _stored,
    ev.Rechecked: _rechecked,
    ev.AttemptFailed: _attempt_failed,
    ev.Restarted: _restarted,
    ev.Waiting: _waiting,
    ev.Supplied: lambda event: ", ".join(event.names),
    ev.PublishIntended: _intended,
    ev.SourcePinned: _pinned,
    ev.SessionUnopened: lambda event: "one may stand at the server all the same" if event.lost else "none",
    ev.SessionOpened: _opened,
    ev.Sent: lambda event: _pieces(event.pieces, "part"),
    ev.SessionDropped: _dropped,
    ev.CommitIntended: _intended,
    ev.SessionAborted: _aborted,
    ev.Completed: _completed,
    ev.Paused: lambda event: event.reason,
    ev.Requeued: lambda event: event.reason,
    ev.Recovered: _recovered,
    ev.Failed: lambda event: _fault(event.fault),
    ev.PartDiscarded: _discarded,
}
"""The telling fields of each event that has some."""


def _fault(fault: Fault) -> str:
    return f"{fault.detail} ({fault.kind})"


def _whole(size: int, digests: list[str]) -> str:
    return ", ".join([size_text(size), *digests])


def _pieces(spans: tuple[tuple[int, int], ...], noun: str = "piece") -> str:
    """`12 pieces: 0-7 16 20-22 …`, with the last number included, as people count."""
    count = sum(stop - start for start, stop in spans)
    shown = [
        f"{start}-{stop - 1}" if stop - start > 1 else str(start) for start, stop in spans[:_SHOWN_SPANS]
    ]
    more = " …" if len(spans) > _SHOWN_SPANS else ""
    return counted(count, noun) + (f": {' '.join(shown)}{more}" if spans else "")
