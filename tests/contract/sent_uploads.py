"""What must hold of every exchange whose request was sent in full before it was stopped."""

import anyio
import pytest


async def is_dead_only_when_its_server_has_gone(exchange, server):
    """`server` answers nothing: until it is gone it may act on the request."""
    async with anyio.create_task_group() as group:
        group.start_soon(exchange.__aenter__)
        assert await server.until(lambda s: any(seen.complete for seen in s.requests))
        group.cancel_scope.cancel()
    with anyio.move_on_after(0.2):
        await exchange.dead()
        pytest.fail("the server still has the whole request and may act on it")
    server.stop()
    with anyio.fail_after(10):
        await exchange.dead()
