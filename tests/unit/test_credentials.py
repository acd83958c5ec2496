"""Credentials by name: remembered, refreshed once, and never hurt by a provider that fails for a while."""

import threading
from datetime import UTC, datetime

import anyio
import pytest

from meowcat.core.errors import InvalidArgument
from meowcat.core.values import FaultKind
from meowcat.protocols.contract import Refused
from meowcat.protocols.credentials import AccessKey, AzureKey, AzureSas, BearerToken, Credentials

pytestmark = pytest.mark.anyio

HOUR = 60 * 60 * 1000
MINUTE = 60 * 1000


class Clock:
    def __init__(self):
        self.now = 1_000_000_000_000

    def __call__(self):
        return self.now


class Provider:
    """Gives keys that live for `lifetime`, and counts; raises while `broken`; waits while `held`."""

    def __init__(self, clock, lifetime=HOUR):
        self.clock = clock
        self.lifetime = lifetime
        self.calls = 0
        self.broken = None
        self.gate = None
        self.entered = anyio.Event()

    async def __call__(self):
        self.calls += 1
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        return key(f"AK{self.calls}", expires=self.clock.now + self.lifetime)


def key(name="AK", **fields):
    return AccessKey(id=name, secret="made-up", **fields)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def provider(clock):
    return Provider(clock)


async def refusal(credentials, name="prod"):
    with pytest.raises(Refused) as refused:
        await credentials.get(name)
    return refused.value.fault


async def test_values_functions_and_async_functions_are_providers():
    async def ask():
        return key("async")

    here = threading.get_ident()
    threads = []

    def plain():
        threads.append(threading.get_ident())
        return key("plain")

    credentials = Credentials({"a": key("value"), "b": plain, "c": ask, "d": lambda: ask()})  # noqa: PLW0108  # not to be told from a plain function
    assert [(await credentials.get(name)).id for name in "abcd"] == ["value", "plain", "async", "async"]
    assert threads != [here], "a function that may block was called on the event loop"


@pytest.mark.parametrize("wrong", [None, "AKIA", {"id": "a", "secret": "b"}])
def test_what_is_no_provider_is_refused_at_once(wrong):
    with pytest.raises(InvalidArgument, match="'prod': expected an AccessKey"):
        Credentials({"prod": wrong})


async def test_a_name_that_is_unknown_says_how_to_register_it():
    fault = await refusal(Credentials())
    assert fault.kind is FaultKind.CREDENTIAL
    assert "Engine(credentials={'prod': ...})" in fault.detail


async def test_a_name_registered_later_is_found():
    credentials = Credentials()
    assert "prod" not in credentials
    credentials.register("prod", key())
    assert "prod" in credentials
    assert (await credentials.get("prod")).id == "AK"


async def test_a_credential_is_remembered_until_five_minutes_before_its_end(clock, provider):
    credentials = Credentials({"prod": provider}, clock)
    first = await credentials.get("prod")
    clock.now += HOUR - 5 * MINUTE - 1
    assert await credentials.get("prod") is first
    clock.now += 1
    assert (await credentials.get("prod")).id == "AK2"
    assert provider.calls == 2


async def test_a_short_one_is_remembered_for_nine_tenths_of_its_life(clock):
    provider = Provider(clock, lifetime=MINUTE)
    credentials = Credentials({"prod": provider}, clock)
    first = await credentials.get("prod")
    clock.now += MINUTE * 9 // 10 - 1
    assert await credentials.get("prod") is first
    clock.now += 1
    assert (await credentials.get("prod")).id == "AK2"


async def test_however_many_ask_the_provider_is_asked_once(clock, provider):
    provider.gate = anyio.Event()
    credentials = Credentials({"prod": provider}, clock)
    got = []

    async def ask():
        got.append(await credentials.get("prod"))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
        await provider.entered.wait()
        provider.gate.set()
    assert [each.id for each in got] == ["AK1"] * 20
    assert provider.calls == 1


async def test_one_failure_is_the_failure_of_all_who_waited_and_the_next_asks_again(clock, provider):
    provider.gate, provider.broken = anyio.Event(), OSError("no route to the metadata service")
    credentials = Credentials({"prod": provider}, clock)
    faults = []

    async def ask():
        faults.append(await refusal(credentials))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
        await provider.entered.wait()
        await anyio.wait_all_tasks_blocked()
        provider.gate.set()
    assert provider.calls == 1
    assert {fault.kind for fault in faults} == {FaultKind.CREDENTIAL}
    assert "OSError: no route to the metadata service" in faults[0].detail
    provider.broken = None
    assert (await credentials.get("prod")).id == "AK2"


async def test_where_the_one_who_asks_is_canceled_the_next_one_asks(clock, provider):
    provider.gate = anyio.Event()
    credentials = Credentials({"prod": provider}, clock)
    got = []

    async def ask():
        got.append(await credentials.get("prod"))

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel_after, provider.entered, scope)
            await credentials.get("prod")
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        provider.gate.set()
    assert [each.id for each in got] == ["AK2"]


async def cancel_after(event, scope):
    await event.wait()
    scope.cancel()


async def test_while_the_old_one_is_good_a_failing_provider_hurts_nobody_and_is_left_alone(clock, provider):
    credentials = Credentials({"prod": provider}, clock)
    old = await credentials.get("prod")
    provider.broken = OSError("down")
    clock.now += HOUR - 4 * MINUTE
    for _ in range(100):
        assert await credentials.get("prod") is old
    assert provider.calls == 2
    clock.now += 10_000
    assert await credentials.get("prod") is old
    assert provider.calls == 3
    clock.now += 4 * MINUTE
    assert (await refusal(credentials)).kind is FaultKind.CREDENTIAL


async def test_while_the_old_one_is_good_nobody_waits_for_a_slow_provider(clock, provider):
    credentials = Credentials({"prod": provider}, clock)
    old = await credentials.get("prod")
    clock.now += HOUR - 4 * MINUTE
    provider.gate, provider.entered = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(credentials.get, "prod")
        await provider.entered.wait()
        assert await credentials.get("prod") is old
        provider.gate.set()


async def test_a_credential_that_a_server_refused_is_asked_for_once_more(clock, provider):
    credentials = Credentials({"prod": provider}, clock)
    old = await credentials.get("prod")
    credentials.invalidate("prod", old)
    fresh = await credentials.get("prod")
    assert fresh.id == "AK2"
    credentials.invalidate("prod", old)  # another request had been signed with it, too
    assert await credentials.get("prod") is fresh
    credentials.invalidate("nobody", old)


async def test_a_value_that_has_ended_waits_for_a_fresh_one(clock):
    credentials = Credentials({"prod": key(expires=clock.now + HOUR)}, clock)
    await credentials.get("prod")
    clock.now += HOUR + 1000
    fault = await refusal(credentials)
    assert fault.kind is FaultKind.EXPIRED
    assert "ended 1 s ago" in fault.detail


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"id": "a"}, "returned no credential but a dict"),
        (None, "no credential but a NoneType"),
        (AccessKey(id="AK", secret="line\n"), "its secret is empty, or has a blank"),
        (AccessKey(id="", secret="x"), "its id is empty"),
        (AccessKey(id="AK", secret="x", token="a\r\nb"), "its token"),
        (AccessKey(id="AK", secret="x", expires=1), "ended"),
        (AzureKey(account="a", key="line of no base64"), "its key is empty, or has a blank"),
        (AzureKey(account="a", key="bm8"), "its key is no base64"),
        (AzureSas(token="https://host/c/b?sv=1&se=2"), "its token has no sig="),
        (AzureSas(token="se=2001-01-01T00:00:00Z&sig=x"), "ended"),
        (BearerToken(token="x y"), "its token is empty, or has a blank"),
        (BearerToken(token="x", expires=1), "ended"),
    ],
)
async def test_what_a_provider_must_not_return(clock, given, says):
    fault = await refusal(Credentials({"prod": lambda: given}, clock))
    assert fault.kind is FaultKind.CREDENTIAL
    assert says in fault.detail
    assert "line" not in fault.detail.split("has a")[0]


async def test_a_credential_of_another_kind_is_refused(clock):
    credentials = Credentials({"s3": key(), "azure": AzureKey(account="a", key="bm8=")}, clock)
    with pytest.raises(Refused, match="'azure': expected AccessKey; it is of kind AzureKey"):
        await credentials.get("azure", AccessKey)
    with pytest.raises(Refused, match="'s3': expected AzureSas or BearerToken; it is of kind AccessKey"):
        await credentials.get("s3", AzureSas, BearerToken)


async def test_a_sas_is_renewed_before_the_end_that_it_says_itself(clock):
    given = []

    def provider():
        end = datetime.fromtimestamp((clock.now + HOUR) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        given.append(AzureSas(token=f"?se={end}&sig=made-up-{len(given)}"))
        return given[-1]

    credentials = Credentials({"prod": provider}, clock)
    assert await credentials.get("prod", AzureSas) is given[0]
    assert given[0].query.startswith("se=")
    clock.now += HOUR - 4 * MINUTE
    assert await credentials.get("prod", AzureSas) is given[1]


async def test_the_text_of_a_providers_error_gives_no_secret_away(clock, provider):
    credentials = Credentials({"prod": provider}, clock)
    old = await credentials.get("prod")
    credentials.invalidate("prod", old)
    secrets = query, key, header = "hunter2", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "Bearer abc"
    provider.broken = ValueError(
        f"GET https://sts.example/?Signature={query} failed for {key}\nAuthorization: {header}"
    )
    fault = await refusal(credentials)
    assert [secret for secret in secrets if secret in fault.detail] == []
    assert "https://sts.example/" in fault.detail


async def test_the_last_secret_is_hidden_however_short_it_is(clock, provider):
    credentials = Credentials({"prod": provider}, clock)
    clock_start = await credentials.get("prod")
    provider.broken = ValueError(f"key {clock_start.secret} was revoked")
    clock.now += 2 * HOUR
    fault = await refusal(credentials)
    assert "made-up" not in fault.detail
    assert "was revoked" in fault.detail
