"""How a step is taken. Which steps there are is in tests/specs/test_lifecycle.py."""

import logging

import pytest
from transitions import Machine

from meowcat.core import machine
from meowcat.core.errors import IllegalTransition
from meowcat.core.machine import State, Trigger, step


@pytest.fixture(autouse=True)
def _nothing_remembered():
    step.cache_clear()


def test_a_step_gives_a_state_and_not_only_its_name():
    assert type(step(State.QUEUED, Trigger.ADMIT)) is State


def test_the_error_says_from_where_it_would_be_possible():
    with pytest.raises(IllegalTransition) as caught:
        step(State.COMPLETE, Trigger.REQUEUE)
    assert str(caught.value) == ("requeue is not possible in state Complete; it is from Preparing or Running")


def test_an_illegal_step_raises_each_time_and_leaves_the_legal_ones_alone():
    for _ in range(2):
        with pytest.raises(IllegalTransition):
            step(State.PAUSED, Trigger.START)
    assert step(State.PAUSED, Trigger.RESUME) is State.QUEUED


def test_no_task_is_ever_registered_with_the_machine():
    step(State.RUNNING, Trigger.PAUSE)
    assert machine._MACHINE.models == []


def test_a_step_says_nothing_in_the_log_of_an_application(caplog):
    caplog.set_level(logging.DEBUG)
    step(State.QUEUED, Trigger.ADMIT)
    with pytest.raises(IllegalTransition):
        step(State.QUEUED, Trigger.RETRY)
    assert caplog.records == []


def test_the_log_of_an_applications_own_machines_is_left_alone(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("transitions.core").info("nobody's")
    own = Machine(states=["a", "b"], initial="a", name="theirs")
    caplog.clear()
    own.to_b()
    assert {record.args[0] for record in caplog.records} == {"theirs: "}
