"""What `ls`, `show` and `log` say of uploads: whence, where to, in which parts, what is owed to a server."""

import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from journal_adapters.sqlite import SQLiteJournal
from meowcat.cli import main
from meowcat.cli.display import complete_text
from meowcat.cli.exits import Exit
from meowcat.cli.history import event_text
from meowcat.cli.inspect import upload_object
from meowcat.cli.tables import table_of
from meowcat.cli.views import Seen
from meowcat.core import events as ev
from meowcat.core.info import info_of
from meowcat.core.machine import State
from meowcat.core.remedies import remedy
from meowcat.core.seal import REGISTRIES
from meowcat.core.sessions import Capabilities, Receipt, Session
from meowcat.core.state import fold
from meowcat.core.transfers import ProtocolSpec, Upload
from meowcat.core.values import Checksum, SourceIdentity, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.journal.codec import encode
from meowcat.journal.contract import Entry, Owner
from meowcat.journal.logged import LoggedEvent

TASK = TaskId("01AAAAAAAAAAAAAAAAAAAAAAAA")
REQUEST = Upload(
    "/srv/big.iso",
    "https://host.example/there?sig=***",
    ProtocolSpec("s3", 1, {"bucket": "b", "region": "us-east-1"}),
    needs=("url", "credential:prod"),
)
SESSION = Session(id="u-1", capabilities=Capabilities())
PART = 1 << 20

CREATED = ev.Created(state=State.QUEUED, task=TASK, key="k", at=0, request=REQUEST)
WAITING = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=("credential:prod",))
ADMITTED = ev.Admitted(state=State.PREPARING, run=1)
PINNED = ev.SourcePinned(
    state=State.PREPARING, source=SourceIdentity(size=3 * PART), digests=(Checksum("md5", "0" * 32),)
)
INTENDED = ev.SessionIntended(state=State.PREPARING)
OPENED = ev.SessionOpened(state=State.RUNNING, session=SESSION, piece_size=PART, held=())
SENT = ev.Sent(
    state=State.RUNNING, pieces=((0, 2),), digests=bytes(64), receipts=(Receipt(text="a"), Receipt(text="b"))
)
MOVING = (CREATED, ADMITTED, PINNED, INTENDED, OPENED, SENT)
COMMITTING = ev.CommitIntended(state=State.RUNNING, size=3 * PART, digests=(Checksum("sha256", "f" * 64),))
COMPLETED = ev.Completed(
    state=State.COMPLETE,
    path=REQUEST.source,
    size=3 * PART,
    digests=COMMITTING.digests,
    url=REQUEST.url,
    created=0,
    direction="upload",
    result={"etag": '"e-3"'},
)
CANCELED = ev.Canceled(state=State.CANCELED)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(events, "show", TASK)` on a journal that has these events of one task."""
    monkeypatch.chdir(tmp_path)

    def run(events, *words):
        journal = SQLiteJournal("t.db")
        journal.open(Owner(1, "test.example", "the owner"), "process")
        entries, task = [], None
        for seq, event in enumerate(events, 1):
            task = fold((event,), task)
            entries.append(Entry(TASK, seq, task.open, *encode(event)[:2], 0, encode(event)[2]))
        journal.append(entries)
        journal.close()
        done = CliRunner().invoke(main, [*words, "--journal", "t.db"])
        assert done.exit_code == Exit.COMPLETE, done.output
        return done.stdout

    return run


def details(text):
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines())


def telling(event):
    return event_text(LoggedEvent(position=1, task=TASK, seq=1, epoch=1, at=0, event=event)).split(None, 5)[
        -1
    ]


def test_a_list_says_whence_and_where_to(run):
    assert "/srv/big.iso -> https://host.example/there?sig=***" in run(MOVING, "ls")


def test_details_have_the_parts_the_session_and_the_protocol(run):
    told = details(run(MOVING, "show", TASK))
    assert told["Direction"] == "upload"
    assert told["Source"] == "/srv/big.iso"
    assert told["Protocol"] == "s3 (bucket b, region us-east-1)"
    assert told["Parts"] == "2 of 3 sent, 1.0 MiB each"
    assert told["Session"] == "u-1"
    assert not {"Path", "Pieces", "Content", "To remove", "Server said"} & told.keys()


def test_details_tell_that_parts_go_one_after_the_other(run):
    able = Capabilities(any_order=False, server_offset=True, session=False)
    opened = ev.SessionOpened(
        state=State.RUNNING, session=Session(id="", capabilities=able), piece_size=PART, held=()
    )
    told = details(run((CREATED, ADMITTED, PINNED, opened), "show", TASK))
    assert told["Connections"].startswith("1,")


def test_details_say_how_what_is_waited_for_is_brought(run):
    told = details(run((CREATED, WAITING), "show", TASK))
    assert told["Waiting for"] == "supply: credential:prod"
    assert told["To go on"].startswith("the credential 'prod': from the environment or credentials.toml")


@pytest.mark.parametrize("kind", [*REGISTRIES, "url", "header", "data", "plan"])
def test_for_every_kind_of_need_there_is_a_remedy(kind):
    told = remedy(f"{kind}:prod")
    assert re.search(r"Task\.supply|Engine\(", told)
    assert told != f"{kind}:prod"


def test_a_canceled_upload_stays_in_the_list_until_its_session_is_removed(run):
    owing = (*MOVING, CANCELED)
    assert "its session at the server is to be removed" in run(owing, "ls")
    gone = ev.SessionAborted(state=State.CANCELED, session="u-1", gone=True, committed=False)
    assert info_of(fold((*owing, gone))).phase == "done"


def test_what_was_removed_is_not_in_the_list(run):
    gone = ev.SessionAborted(state=State.CANCELED, session="u-1", gone=True, committed=False)
    assert run((*MOVING, CANCELED, gone), "ls") == ""


def test_details_tell_what_is_owed_to_the_server(run):
    told = details(run((*MOVING, CANCELED), "show", TASK))
    assert told["To remove"] == "u-1"
    assert "Session" not in told


def test_details_tell_of_a_session_whose_name_nobody_knows(run):
    lost = ev.SessionUnopened(state=State.PREPARING, lost=True)
    told = details(run((CREATED, ADMITTED, PINNED, INTENDED, lost), "show", TASK))
    assert told["Not known"].startswith("1 session may stand at the server")


def test_what_the_server_said_is_shown(run):
    told = details(run((*MOVING, COMMITTING, COMPLETED), "show", TASK))
    assert told["Server said"] == 'etag "e-3"'
    assert told["Parts"] == "3 of 3 sent, 1.0 MiB each"


def test_a_complete_upload_is_told_with_both_ends():
    assert complete_text(info_of(fold((*MOVING, COMMITTING, COMPLETED)))) == (
        f'/srv/big.iso -> https://host.example/there?sig=***  3.0 MiB, sha256:{"f" * 64}, etag "e-3"'
    )


def test_json_has_what_only_uploads_have(run):
    shown = json.loads(run(MOVING, "show", TASK, "--json"))
    assert (shown["direction"], shown["path"], shown["remote"]) == ("upload", "/srv/big.iso", {})
    assert shown["upload"] == {
        "protocol": {"tag": "s3", "version": 1, "fields": {"bucket": "b", "region": "us-east-1"}},
        "origin": "file",
        "session": "u-1",
        "parts": 3,
        "parts_sent": 2,
        "part_size": PART,
        "to_remove": [],
        "lost": 0,
    }


def test_the_page_lists_every_field_of_it():
    page = (Path(__file__).parents[2] / "docs/reference/command-line.md").read_text("utf-8")
    table = page[page.index("`show` adds `upload`") :].split("\n\n", 2)[1]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(upload_object(fold(MOVING)))


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            CREATED,
            "/srv/big.iso -> https://host.example/there?sig=***, by s3  (not stored: url, credential:prod)",
        ),
        (PINNED, f"3.0 MiB, md5:{'0' * 32}"),
        (OPENED, "u-1, parts of 1.0 MiB"),
        (
            ev.SessionOpened(state=State.RUNNING, session=SESSION, piece_size=PART, held=((0, 2),)),
            "u-1, parts of 1.0 MiB, of which the server has 2 parts: 0-1",
        ),
        (ev.SessionUnopened(state=State.PREPARING, lost=False), "none"),
        (ev.SessionUnopened(state=State.PREPARING, lost=True), "one may stand at the server all the same"),
        (SENT, "2 parts: 0-1"),
        (
            ev.SessionDropped(state=State.RUNNING, reason="changed", abort=True, changed=True, unpin=True),
            "changed; its session is to be removed",
        ),
        (
            ev.SessionDropped(state=State.RUNNING, reason="gone", abort=False, changed=True, unpin=False),
            "gone",
        ),
        (COMMITTING, f"3.0 MiB, sha256:{'f' * 64}"),
        (
            COMPLETED,
            f'/srv/big.iso -> https://host.example/there?sig=***  3.0 MiB, sha256:{"f" * 64}, etag "e-3"',
        ),
        (ev.SessionAborted(state=State.CANCELED, session="u-1", gone=True, committed=False), "u-1, gone"),
        (
            ev.SessionAborted(state=State.CANCELED, session="u-1", gone=True, committed=True),
            "u-1, it had become the object already, which was left",
        ),
        (
            ev.SessionAborted(
                state=State.CANCELED, session="u-1", gone=False, committed=False, detail="403: not allowed"
            ),
            "u-1, given up, and may still stand at the server: 403: not allowed",
        ),
    ],
)
def test_each_event_of_an_upload_is_one_line_that_tells(event, told):
    assert telling(event) == told


@pytest.mark.parametrize("width", [20, 40, 64, 80, 100, 140])
def test_a_table_with_an_upload_fits_any_terminal(width):
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=True, legacy_windows=False)
    console.print(table_of([Seen("t.db", info_of(fold((CREATED, WAITING))))], width))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue()).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    if width >= 140:
        assert "big.iso -> https://host.example/there?sig=***" in lines[1]
