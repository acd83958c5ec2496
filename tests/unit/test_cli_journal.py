"""`meowcat journal`: what it says, what it makes, and what it leaves alone."""

import hashlib
import json
import sqlite3
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

import meowcat
from journal_adapters.jsonl import JSONLJournal
from meowcat.cli import main
from meowcat.cli.exits import Exit
from meowcat.core.errors import JournalDamaged
from meowcat.core.values import Position, TaskId
from meowcat.journal.chain import link
from meowcat.journal.codec import decode
from meowcat.journal.contract import GENESIS, Entry, Owner, Record
from meowcat.journal.lines import Commit, Segment, control_line, parse, record_lines

PATHS = {"sqlite": "transfers.db", "jsonl": "transfers.jsonl"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEOWCAT_STATE_DIR", str(tmp_path / "state"))
    return lambda *words, **more: CliRunner().invoke(main, ["journal", *words], **more)


@pytest.fixture(params=PATHS)
def journal(request, run, tmp_path):
    """A journal of three tasks, over two openings: one of them was paused and resumed, one canceled."""
    where = PATHS[request.param]

    async def live():
        for number in range(2):
            async with meowcat.Engine(where, on_restart="leave") as engine:
                task = await engine.submit(meowcat.Download(f"http://127.0.0.1:9/{number}", f"{number}.bin"))
                await task.pause()
                await task.resume()
        async with meowcat.Engine(where, on_restart="leave") as engine:
            task = await engine.submit(meowcat.Download("http://127.0.0.1:9/x", "x.bin"))
            await task.cancel()

    anyio.run(live)
    return where


def digest(path):
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [hashlib.sha256(each.read_bytes()).hexdigest() for each in files]


def damage(where, position):
    if Path(where).is_dir():
        (segment,) = Path(where).glob("*.jsonl")
        lines = segment.read_bytes()
        begin = lines.index(b'"body"', lines.index(b'{"position":%d,' % position))
        segment.write_bytes(lines[:begin] + b'"Body"' + lines[begin + 6 :])
        return
    connection = sqlite3.connect(where)
    connection.execute("UPDATE record SET body = ? WHERE position = ?", (b"{}", position))
    connection.commit()
    connection.close()


def events_of(where):
    async def read():
        async with meowcat.Engine(where, on_restart="leave") as engine:
            return [
                (each.position, each.task, each.seq, each.at, each.event)
                async for info in engine.tasks(state=list(meowcat.State))
                async for each in engine.history(info.id)
            ]

    return sorted(anyio.run(read))


def test_a_sound_journal_passes_and_says_what_it_holds(run, journal):
    result = run("check", journal)
    assert result.exit_code == Exit.COMPLETE
    assert "8 records of 3 tasks, 2 unfinished; opened 3 times" in result.stdout
    assert "sound" in result.stdout
    document = json.loads(run("check", journal, "--json").stdout)
    assert (document["sound"], document["records"], document["damage"]) == (True, 8, [])


def test_damage_is_told_with_its_place_and_what_to_do(run, journal):
    damage(journal, 5)
    result = run("check", journal)
    assert result.exit_code == Exit.JOURNAL
    assert "record 5 is damaged" in result.stdout
    assert "salvage" in result.stdout
    places = json.loads(run("check", journal, "--json").stdout)["damage"]
    assert 5 in [each["position"] for each in places]


def test_damage_is_told_once(run, journal):
    damage(journal, 2)
    told = [line for line in run("check", journal).stdout.splitlines() if line.startswith("damaged: ")]
    assert len(told) == len(set(told))
    assert sum("record 2 is damaged" in line for line in told) == 1
    places = json.loads(run("check", journal, "--json").stdout)["damage"]
    assert len({(each["task"], each["detail"]) for each in places}) == len(places)


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["ls", "--all"], ["log"], ["log", "--json"]])
def test_a_list_without_a_damaged_task_says_so_by_its_exit_code(journal, words):
    command = [*words, "--journal", journal]
    assert CliRunner().invoke(main, command).exit_code == Exit.COMPLETE
    damage(journal, 2)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == Exit.JOURNAL
    assert "is quarantined: record 2 is damaged" in done.stderr
    assert "1.bin" in done.stdout, "the others are there"


@pytest.mark.parametrize("words", [["ls", "--all"], ["log"]])
@pytest.mark.parametrize("left", [b'"journal":', b'{"position":2,'])
def test_a_journal_that_has_lost_its_end_is_told_of_and_no_task_shown_as_it_was_long_ago(run, words, left):
    async def live():
        async with meowcat.Engine("x.jsonl", on_restart="leave") as engine:
            for number in range(3):
                task = await engine.submit(meowcat.Download("http://127.0.0.1:9/x", f"{number}.bin"))
                await task.cancel()

    anyio.run(live)
    segment = Path("x.jsonl/00000000000000000001.jsonl")
    segment.write_bytes(segment.read_bytes().partition(left)[0])
    for once_more in (False, True):
        done = CliRunner().invoke(main, [*words, "--journal", "x.jsonl"])
        assert done.exit_code == Exit.JOURNAL
        assert ".bin" not in done.stdout
        assert "x.jsonl: damaged in" in done.stderr
        assert ("is quarantined: record 2 is damaged: it is missing" in done.stderr) == (b"position" in left)
        if not once_more:
            assert events_of("x.jsonl") == []


def test_a_journal_that_can_not_be_read_is_told_by_the_exit_code(run, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x.db").write_bytes(b"no journal" * 500)
    done = CliRunner().invoke(main, ["ls"])
    assert done.exit_code == Exit.JOURNAL
    assert "skipped" in done.stderr


def test_a_segment_that_was_edited_with_all_its_sums_is_told_by_the_one_behind_it(run, tmp_path):
    """CRCs, chain and commits are made anew, here and in all segments behind it; the digest is not."""
    journal = JSONLJournal("edited.jsonl", segment_size=1500)
    journal.open(Owner(1, "x"), "power")
    for number in range(20):
        journal.append([Entry(TaskId("t"), number + 1, True, "unheard", 1, number, b'{"n":%d}' % number)])
    journal.close()
    sound = run("check", "edited.jsonl")
    assert "the file before it" not in sound.output
    forge("edited.jsonl", b'{"n":3}', b'{"n":4}')
    result = run("check", "edited.jsonl")
    assert result.exit_code == Exit.JOURNAL
    assert "the file before it is not the one that it was written behind" in result.output
    assert "hash chain" not in result.output


def forge(where, old, new):
    """Change a body, and make anew all that sums it up but the digests in first lines."""
    chain = GENESIS
    for segment in sorted(Path(where).glob("*.jsonl")):
        lines = []
        for line in segment.read_bytes().splitlines(keepends=True):
            said = parse(line)
            if isinstance(said, Record):
                said = replace(said, body=said.body.replace(old, new))
                chain = link(chain, said, said.epoch, said.position)
                lines += record_lines([replace(said, chain=chain)])
            elif isinstance(said, Commit | Segment):
                lines.append(control_line(replace(said, chain=chain.hex())))
            else:
                lines.append(line)
        segment.write_bytes(b"".join(lines))
    for derived in ("snapshot", "*.index"):
        for each in Path(where).glob(derived):
            each.unlink()


def test_salvage_saves_a_journal_that_can_not_be_opened_for_writing(run, tmp_path):
    """After a crash nothing proves whose record was damaged: every task that has all of its own is saved."""
    where = tmp_path / "crashed.jsonl"

    async def live():
        async with meowcat.Engine(where, on_restart="leave") as engine:
            for number in range(3):
                task = await engine.submit(meowcat.Download(f"http://127.0.0.1:9/{number}", f"{number}.bin"))
                await task.pause()
            image = {each.name: each.read_bytes() for each in where.iterdir() if each.is_file()}
        for each in where.iterdir():
            each.unlink() if each.name not in image else each.write_bytes(image[each.name])

    anyio.run(live)
    reader = JSONLJournal(where)
    reader.open_for_reading()
    before = list(reader.scan(Position(0), 100))
    reader.close()
    victim = before[1]
    (segment,) = where.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if line.startswith(b'{"position":%d,' % victim.position))
    lines[place] = b"?" * (len(lines[place]) - 1) + b"\n"
    segment.write_bytes(b"".join(lines))

    with pytest.raises(JournalDamaged, match=r"meowcat journal salvage .*crashed\.jsonl"):
        JSONLJournal(where).open(Owner(1, "x"), "power")
    result = run("salvage", str(where), "saved.jsonl")
    assert result.exit_code == Exit.JOURNAL
    assert "record 2 is damaged" in result.output
    saved = [(each[1], each[4]) for each in events_of("saved.jsonl")]
    tasks = {record.task for record in before}
    assert {task for task, _ in saved} >= tasks - {victim.task}
    whole = [(r.task, decode(r.type, r.version, r.body)) for r in before if r.task != victim.task]
    assert [each for each in saved if each[0] != victim.task] == whole


def test_salvage_saves_what_is_whole_and_changes_nothing(run, journal, tmp_path):
    damage(journal, 5)
    before = digest(tmp_path / journal)
    result = run("salvage", journal, "saved.db")
    assert result.exit_code == Exit.JOURNAL
    assert "5 records of 2 tasks" in result.stdout
    assert "left out" in result.stdout
    assert digest(tmp_path / journal) == before
    assert run("check", "saved.db").exit_code == Exit.COMPLETE


def test_salvage_keeps_beginnings_when_asked_to(run, journal):
    damage(journal, 5)
    document = json.loads(run("salvage", journal, "saved.db", "--partial", "--json").stdout)
    assert list(document["cut"].values()) == [1]
    states = [event.state for *_, event in events_of("saved.db")]
    assert states.count(meowcat.State.PAUSED) == 2
    assert run("check", "saved.db").exit_code == Exit.COMPLETE


@pytest.mark.parametrize("name", ["/dev/fd", "/proc/self/fd"])
def test_an_export_to_a_descriptor_follows_what_stands_there(run, journal, name, tmp_path):
    if not Path(name).is_dir():
        pytest.skip(f"there is no {name} here")
    with (tmp_path / "all").open("w+b") as redirected:
        redirected.write(b"said before\n")
        redirected.flush()
        assert run("export", journal, "-o", f"{name}/{redirected.fileno()}").exit_code == Exit.COMPLETE
        redirected.seek(0)
        assert redirected.read() == b"said before\n" + run("export", journal).stdout_bytes
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".meowcat")] == []


@pytest.mark.parametrize("target", PATHS.values())
def test_an_export_imports_as_the_same_history_in_any_kind_of_journal(run, journal, target):
    assert run("export", journal, "-o", "lines").exit_code == Exit.COMPLETE
    copy = f"copy-{target}"
    result = run("import", "lines", copy)
    assert (result.exit_code, result.stdout) == (Exit.COMPLETE, f"{copy}: 8 records\n"), result.output
    assert run("check", copy).exit_code == Exit.COMPLETE
    assert run("export", copy).stdout_bytes == run("export", journal).stdout_bytes
    assert events_of(copy) == events_of(journal)


def test_an_export_goes_through_a_pipe(run, journal):
    lines = run("export", journal).stdout_bytes
    assert run("import", "-", "copy.db", input=lines).exit_code == Exit.COMPLETE
    assert run("export", "copy.db").stdout_bytes == lines


def test_a_damaged_export_makes_no_journal(run, journal, tmp_path):
    lines = run("export", journal).stdout_bytes
    (tmp_path / "lines").write_bytes(lines.replace(b"Queued", b"Paused", 1))
    result = run("import", "lines", "copy.db")
    assert result.exit_code == Exit.JOURNAL
    assert "lines: line 2: wrong CRC" in result.stderr
    assert not (tmp_path / "copy.db").exists()


def test_an_import_that_broke_off_is_never_taken_for_a_journal(run, journal, tmp_path, monkeypatch):
    run("export", journal, "-o", "lines")
    with monkeypatch.context() as patch:
        patch.setattr("meowcat.cli.journal_tools._finish", lambda *_: 1 // 0)
        assert run("import", "lines", "copy.db").exit_code == Exit.INTERNAL
    with pytest.raises(meowcat.JournalDamaged, match="not finished"):
        events_of("copy.db")
    assert run("check", "copy.db").exit_code == Exit.JOURNAL
    assert "expected a journal that does not exist yet" in run("import", "lines", "copy.db").stderr


@pytest.mark.parametrize("words", [("salvage", "{}", "{}"), ("import", "lines", "{}")])
def test_a_journal_that_is_there_is_never_written_over(run, journal, tmp_path, words):
    run("export", journal, "-o", "lines")
    other = f"other-{journal}"
    run("import", "lines", other)
    result = run(*(word.format(other if n == len(words) - 1 else journal) for n, word in enumerate(words)))
    assert result.exit_code == Exit.JOURNAL
    assert "expected a journal that does not exist yet" in result.stderr
    assert run("export", other).stdout_bytes == (tmp_path / "lines").read_bytes()


def test_an_export_never_overwrites_a_file_and_leaves_no_half_of_one(run, journal, tmp_path):
    (tmp_path / "lines").write_text("mine")
    assert "lines exists" in run("export", journal, "-o", "lines").stderr
    assert (tmp_path / "lines").read_text() == "mine"
    damage(journal, 5)
    result = run("export", journal, "-o", "more")
    assert result.exit_code == Exit.JOURNAL
    assert "salvage" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("more")] == []


def test_what_was_archived_stays_part_of_the_journal(run, journal):
    before, lines = events_of(journal), run("export", journal).stdout_bytes
    result = run("compact", journal, "--json")
    assert result.exit_code == Exit.COMPLETE, result.output
    found = json.loads(result.stdout)
    ended = 0 if journal.endswith(".jsonl") else 2  # of its one segment not everything has
    assert found["records"] == ended
    assert (found["bytes"] > 0) is (ended > 0)
    assert events_of(journal) == before
    assert run("export", journal).stdout_bytes == lines
    assert "8 records of 3 tasks, 2 unfinished" in run("check", journal).stdout
    assert "nothing to archive yet" in run("compact", journal).stdout


def test_an_archive_that_was_taken_away_is_told_with_what_to_do(run, tmp_path, journal):
    if not journal.endswith(".db"):
        pytest.skip("a folder has its archive in it")
    assert "archived in" in run("compact", journal).stdout
    (tmp_path / f"{journal}-archive").rename(tmp_path / "away")
    result = run("check", journal)
    assert result.exit_code == Exit.JOURNAL
    assert "its archive is not there: put it back" in result.stdout
    assert f"{journal}-archive" in result.stdout


def test_a_kind_that_can_not_archive_says_so(run):
    result = run("compact", "memory:")
    assert result.exit_code == Exit.JOURNAL
    assert "can't archive" in result.stderr


@pytest.mark.parametrize(
    "words", [("check", "none.db"), ("export", "none.db"), ("salvage", "none.db", "x.db")]
)
def test_a_journal_that_is_not_there_is_told_and_not_made(run, tmp_path, words):
    result = run(*words)
    assert result.exit_code == Exit.JOURNAL
    assert "there is no journal" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["check", "salvage", "compact", "export", "import"])
def test_every_command_has_help_with_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == Exit.COMPLETE
    assert f"Example: meowcat journal {command}" in result.output


def test_what_is_refused_since_it_has_records_is_not_even_opened(journal, run):
    run("export", journal, "-o", "whole.lines")
    before = digest(Path(journal))
    for words in (("import", "whole.lines", journal), ("salvage", journal, journal)):
        result = run(*words)
        assert (result.exit_code, "has records already" in result.stderr) == (Exit.JOURNAL, True)
    assert digest(Path(journal)) == before
    assert run("check", journal).exit_code == Exit.COMPLETE


@pytest.mark.parametrize("where", ["mistyped.db", "mistyped.jsonl"])
def test_a_compaction_makes_no_journal_where_there_is_none(run, tmp_path, where):
    result = run("compact", where)
    assert (result.exit_code, "there is no journal" in result.stderr) == (Exit.JOURNAL, True)
    assert list(tmp_path.iterdir()) == []
