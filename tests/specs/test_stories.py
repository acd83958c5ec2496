"""The stories hold, and the teller sees when one does not."""

from pathlib import Path

import pytest

from meowcat.testing.spec_files import SpecError, SpecFailed, find
from meowcat.testing.stories import load_stories, run_story
from meowcat.transfer.files import PartFile

FOLDER = Path(__file__).parents[2] / "specs/stories"
STORIES = [story for path in find(FOLDER) for story in load_stories(path)]


@pytest.mark.parametrize("story", STORIES, ids=lambda each: each.row.name)
def test_a_story_ends_as_it_says(story):
    run_story(story)


def tell(tmp_path, text):
    path = tmp_path / "own.spec.toml"
    path.write_text(text, "utf-8")
    for story in load_stories(path):
        run_story(story)


OWN = """
[[story]]
name = "mine"
why = "It is mine."
serve = { url = "https://h.example/f", text = "hello" }
do = [{ submit = { url = "https://h.example/f", to = "/data/f" } }, "finish"]
then = { state = "Complete", requests = 1 }
"""


def test_a_story_of_a_users_own_is_told(tmp_path):
    tell(tmp_path, OWN)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ('state = "Complete"', 'state = "Failed"', 'then.state: expected "Failed"'),
        ("requests = 1", "requests = 2", "requests: expected 2, got 1"),
        ("requests = 1", "file = false", "file: /data/f has the bytes"),
        ("requests = 1", "fetched_at_most = 4", "fetched_at_most: expected 4, got 5"),
        ("requests = 1", "fetched_at_least = 6", "fetched_at_least: expected 6, got 5"),
        ("requests = 1", "seconds_at_most = 0", "seconds_at_most: expected 0"),
        ("requests = 1", 'events = ["completed", "created"]', "events: no created where it was expected"),
        ('"finish"', '{ until = { state = "Paused" } }', "that never came, and the task is Complete"),
        ('"finish"', '"retry"', "retry"),
    ],
)
def test_an_end_that_is_another_fails_with_the_promise_and_the_calls(tmp_path, right, wrong, expected):
    with pytest.raises(SpecFailed) as failed:
        tell(tmp_path, OWN.replace(right, wrong))
    said = str(failed.value)
    assert expected in said
    assert "It is mine." in said
    assert "own.spec.toml:2: story 'mine'" in said
    assert "World(seed=0)" in said
    assert "journal.append created" in said


def test_a_bug_is_found_by_a_story_that_crashes_everywhere(tmp_path, monkeypatch):
    everywhere = OWN.replace("then =", "every_crash = true\nthen =")
    tell(tmp_path, everywhere)
    monkeypatch.setattr(PartFile, "flush", lambda self: None)
    monkeypatch.setattr("meowcat.transfer.publish._sync", lambda disk, part, fd: None)
    with pytest.raises(SpecFailed, match="recorded as stored"):
        tell(tmp_path, everywhere)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("why =", "wy =", "unknown key wy"),
        ('then = { state = "Complete", requests = 1 }', "", "has no then"),
        ("requests = 1", "request = 1", "then: unknown key request"),
        ("requests = 1", 'events = ["finished"]', "then.events: unknown finished"),
        ('"finish"', '"finnish"', 'do: "finnish": expected one of pause'),
        ('"finish"', '{ crash = "half" }', 'crash: "half": expected one of lost'),
        ('"finish"', "{ until = { bytes = 1 } }", "until: unknown key bytes"),
        ("do = [", 'do = ["finish", ', "expected one submit, as the first step"),
        ('to = "/data/f"', "to = 5", "submit: Expected `str`"),
        ('to = "/data/f"', 'two = "/data/f"', "submit: unknown key two"),
        ('text = "hello"', 'texts = "hello"', "serve: unknown key texts"),
        ('text = "hello"', 'text = "hello", size = 5', "and a size in bytes or a text"),
        ("then =", "troubles = [{ statuss = 5 }]\nthen =", "troubles: {statuss = 5}"),
        ("then =", "config = { piece_size = 5 }\nthen =", "piece_size 5: expected"),
        ('"finish"', '{ crash = "lost" }]\nevery_crash = true\nxx = ["x"', "unknown key xx"),
        ('"finish"]', '"reopen"]\nevery_crash = true', "no crash or reopen of its own"),
    ],
)
def test_a_story_that_cannot_be_understood_is_refused_with_its_place(tmp_path, right, wrong, expected):
    with pytest.raises(SpecError) as refused:
        tell(tmp_path, OWN.replace(right, wrong, 1))
    assert expected in str(refused.value)
    assert "own.spec.toml:2" in str(refused.value)
