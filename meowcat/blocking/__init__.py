"""meowcat for synchronous code: the engine of `meowcat.Engine`, with methods that block."""

from meowcat.blocking.engine import Engine, Task

__all__ = ["Engine", "Task"]
