"""What `get` is asked for: destinations that are known before any server is asked."""

import io

import click
import pytest

from meowcat.cli.journals import journal_of, resume_command
from meowcat.cli.options import headers_of
from meowcat.cli.targets import wanted_of
from meowcat.core.errors import InvalidArgument
from meowcat.core.values import TaskId

ONE, TWO = "https://host.example/a.bin", "https://host.example/b.bin"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_output_is_the_file_for_one_url(tmp_path):
    (wanted,) = wanted_of([ONE], "x.bin", None)
    assert wanted.path == tmp_path / "x.bin"


def test_output_is_a_folder_where_it_is_one(tmp_path):
    (tmp_path / "there").mkdir()
    for output in ("there", "there/"):
        (wanted,) = wanted_of([ONE], output, None)
        assert wanted.path is None
        assert wanted.folder == tmp_path / "there"


def test_without_output_the_current_folder_is_meant(tmp_path):
    assert [each.folder for each in wanted_of([ONE, TWO], None, None)] == [tmp_path, tmp_path]


def test_several_urls_need_a_folder():
    with pytest.raises(click.UsageError, match="for several URLs it has to be a folder"):
        wanted_of([ONE, TWO], "x.bin", None)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(click.UsageError, match="there is no such folder"):
        wanted_of([ONE], "missing/", None)


def test_an_output_without_a_name_is_no_folder():
    with pytest.raises(click.UsageError, match="-o is empty"):
        wanted_of([ONE], "", None)


def test_nothing_to_get_is_said():
    with pytest.raises(click.UsageError, match="nothing to get"):
        wanted_of([], None, None)


def test_a_list_has_urls_paths_and_comments(tmp_path):
    (tmp_path / "list").write_text(f"# mine\n\n{ONE}\n  {TWO}   sub/other name.bin \n")
    (tmp_path / "out").mkdir()
    one, two = wanted_of([], "out/", "list")
    assert (one.url, one.path, one.folder) == (ONE, None, tmp_path / "out")
    assert (two.url, two.path) == (TWO, tmp_path / "out" / "sub" / "other name.bin")


def test_a_list_may_begin_with_a_byte_order_mark_and_repeat_itself(tmp_path, monkeypatch):
    text = f"\ufeff{ONE}\n{TWO}\n{ONE}\n{TWO}\n"
    (tmp_path / "list").write_text(text, encoding="utf-8")
    assert [each.url for each in wanted_of([], None, str(tmp_path / "list"))] == [ONE, TWO]
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert [each.url for each in wanted_of([], None, "-")] == [ONE, TWO]
    (tmp_path / "list").write_text(f"{ONE} a\n{ONE} b\n")
    assert len(wanted_of([], None, str(tmp_path / "list"))) == 2


def test_a_list_may_come_from_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ONE}\n"))
    assert [each.url for each in wanted_of([TWO], None, "-")] == [TWO, ONE]


def test_a_bad_line_of_a_list_is_told_by_its_number_and_without_its_secret(tmp_path):
    (tmp_path / "list").write_text(f"{ONE}\nftp://user:hunter2@host/x\n")
    with pytest.raises(click.UsageError, match="line 2: ") as caught:
        wanted_of([], None, "list")
    assert "hunter2" not in caught.value.format_message()


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stdout"])
def test_a_descriptor_is_no_file_to_go_on_with(name, tmp_path):
    with pytest.raises(click.UsageError, match="name a file"):
        wanted_of([ONE], name, None)
    if name != "-":
        (tmp_path / "list").write_text(f"{ONE} {name}\n")
        with pytest.raises(click.UsageError, match="name a file"):
            wanted_of([], None, str(tmp_path / "list"))


def test_a_bad_url_is_refused_before_anything_is_done():
    with pytest.raises(InvalidArgument, match="expected http or https"):
        wanted_of(["host.example/a"], None, None)


def test_the_journal_of_a_get_is_the_same_for_the_same_get():
    pairs = [("/data/a", "https://h/a"), ("/data/b", "https://h/b")]
    assert journal_of(pairs) == journal_of(reversed(pairs))
    assert journal_of(pairs) != journal_of(pairs[:1])
    assert journal_of([("/data/x/a", "https://h/a")]) != journal_of(pairs[:1])


def test_a_fresh_signature_leads_to_the_same_journal():
    first, again = (
        wanted_of([f"{ONE}?X-Amz-Signature={signature}&X-Amz-Date=20260101T000000Z"], "x", None)[0]
        for signature in ("aaaa", "bbbb")
    )
    assert first.identity == again.identity
    assert "aaaa" not in str(journal_of([(first.destination, first.identity)]))


def test_a_journals_name_never_leaves_its_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MEOWCAT_STATE_DIR", str(tmp_path / "state"))
    for name in ("/data/..", "/", "/data/ü/..\\..", "/data/" + "x" * 300):
        path = journal_of([(name, "https://h/a")])
        assert path.parent == tmp_path / "state"
        assert len(path.name) < 80
        assert path.suffix == ".db"


def test_headers_are_lines_or_files(tmp_path):
    (tmp_path / "secret").write_text("Authorization: Bearer x:y\n\nCookie: a=b\n")
    assert headers_of(["X-One: 1", "@secret"]) == {
        "X-One": "1",
        "Authorization": "Bearer x:y",
        "Cookie": "a=b",
    }


@pytest.mark.parametrize("line", ["hunter2", ": hunter2", "@missing-file"])
def test_a_bad_header_is_refused_without_its_value(line):
    with pytest.raises(click.UsageError) as caught:
        headers_of([line])
    assert "hunter2" not in caught.value.format_message()


def test_the_way_to_go_on_can_be_typed_as_it_is():
    assert resume_command("/a b/t.db") == "meowcat resume --journal '/a b/t.db'"
    command = resume_command("t.db", ["url", "header:cookie"], TaskId("01X"))
    assert command == "meowcat resume 01X --journal t.db --url URL --header 'cookie: VALUE'"


def test_a_folder_that_may_not_be_looked_into_is_no_defect(monkeypatch, tmp_path):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.stat", forbidden)
    (wanted,) = wanted_of([ONE], str(tmp_path / "closed" / "x.bin"), None)
    assert wanted.path == tmp_path / "closed" / "x.bin"
