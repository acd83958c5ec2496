"""What lets a task go on that waits for something from outside."""


def remedy(need: str) -> str:
    """How what a task waits for is brought, by the need's name."""
    kind, _, name = need.partition(":")
    return _REMEDIES[kind].format(repr(name)) if kind in _REMEDIES else need


_REMEDIES = {
    "url": "a fresh URL: meowcat resume TASK --url, or Task.supply(url=…)",
    "header": "the header {}: meowcat resume TASK --header, or Task.supply(headers=…)",
    "data": "the bytes: Task.supply(data=…)",
    "plan": "a fresh plan: meowcat resume TASK --plan, or Task.supply(plan=…); or a refresher registered by "
    "name",
    "credential": "the credential {}: from the environment or credentials.toml with meowcat resume TASK; or "
    "Engine(credentials=…), Engine.add_credential",
    "refresher": "the refresher {}, Engine(refreshers=…) or Engine.add_refresher; or a fresh plan, meowcat "
    "resume TASK --plan or Task.supply(plan=…)",
    "source": "the source {}: Engine(sources=…), or Engine.add_source",
    "protocol": "the protocol {}: Engine(protocols=[…])",
}
