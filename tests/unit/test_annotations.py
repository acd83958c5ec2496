"""What those who inject dependencies or write documentation ask of the API: its annotations, resolved."""

import inspect
import typing

import httpx
import pytest

import meowcat
import meowcat.blocking
import meowcat.sinks
import meowcat.task


def callables(module):
    """All that can be called of what a module offers, by its name."""
    for name in module.__all__:
        offered = getattr(module, name)
        if inspect.isfunction(offered):
            yield f"{module.__name__}.{name}", offered
        if not inspect.isclass(offered):
            continue
        yield f"{module.__name__}.{name}", offered
        for method, value in vars(offered).items():
            function = value.fget if isinstance(value, property) else value
            if inspect.isfunction(function):
                yield f"{module.__name__}.{name}.{method}", function


@pytest.mark.parametrize("module", [meowcat, meowcat.blocking, meowcat.sinks], ids=lambda it: it.__name__)
def test_every_annotation_of_the_api_can_be_resolved(module):
    found = dict(callables(module))
    assert found
    unresolved = {}
    for name, offered in found.items():
        try:
            typing.get_type_hints(offered)
        except NameError as error:
            unresolved[name] = str(error)
    assert unresolved == {}


@pytest.mark.parametrize("kind", [meowcat.Engine, meowcat.blocking.Engine])
def test_a_client_is_resolved_to_httpx_own_class(kind):
    assert httpx.AsyncClient in typing.get_args(typing.get_type_hints(kind.__init__)["http_client"])
    signature = inspect.signature(kind, eval_str=True)
    assert httpx.AsyncClient in typing.get_args(signature.parameters["http_client"].annotation)


def test_a_task_knows_its_engine_by_its_own_class():
    assert typing.get_type_hints(meowcat.task.Task.__init__)["engine"] is meowcat.Engine
