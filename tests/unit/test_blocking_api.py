"""The blocking API is the async one, name by name and parameter by parameter, in both directions."""

import inspect

import pytest

import meowcat
from meowcat import blocking

PAIRS = [(meowcat.Engine, blocking.Engine), (meowcat.Task, blocking.Task)]

MAY_TIME_OUT = {"download", "drain", "fetch", "result", "upload"}
"""Calls that wait for long: they alone have one more parameter, `timeout`."""


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(method):
    """Name, kind, default and type of each; a task handle is one of the same API."""
    return [
        (
            each.name,
            each.kind,
            each.default,
            str(each.annotation).replace(blocking.Task.__module__, meowcat.Task.__module__),
        )
        for each in inspect.signature(method).parameters.values()
    ]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_each_has_what_the_other_has(one, other):
    assert public(one) == public(other)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_methods_take_the_same_arguments(one, other):
    for name in public(one):
        method, twin = getattr(one, name), getattr(other, name)
        if not callable(method):
            assert isinstance(method, property) == isinstance(twin, property), name
            continue
        expected, found = parameters(method), parameters(twin)
        if name in MAY_TIME_OUT:
            found = [each for each in found if each[0] != "timeout"]
            assert len(found) == len(inspect.signature(twin).parameters) - 1
        assert found == expected, name


def test_engines_are_made_with_the_same_arguments():
    assert inspect.signature(blocking.Engine) == inspect.signature(meowcat.Engine)
    made = [vars(kind("memory:")) for kind in (meowcat.Engine, blocking.Engine)]
    assert len({frozenset(name for name in names if not name.startswith("_")) for names in made}) == 1


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_nothing_is_a_coroutine_or_an_async_iterator(one, other):
    for name in public(other):
        assert not inspect.iscoroutinefunction(getattr(other, name)), name


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_every_method_says_what_it_does_where_the_async_one_does(one, other):
    silent = {name for name in public(one) if getattr(one, name).__doc__ and not getattr(other, name).__doc__}
    assert silent == set()
