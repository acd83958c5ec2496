"""Processes that fork with an open engine, in the way that `test_forks` asks; they say what they saw."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import sys
import threading
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path

import meowcat
from meowcat.core.events import AttemptFailed
from meowcat.testing.servers import Content, RangeServer

MIB = 1 << 20

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
"""What Python 3.12 and later say of every fork with threads, which is the very point here."""


def say(*words) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def refusal(call) -> str:
    """How a call is refused."""
    try:
        call()
    except meowcat.MeowcatError as error:
        return f"{type(error).__name__} {int(error.code)}"
    return "nothing"


def config():
    return meowcat.Config(piece_size=256 << 10, flush_seconds=0.02, read_timeout=5)


def blocking_calls(engine, task, iterator):
    yield engine.snapshot
    yield engine.drain
    yield engine.quarantined
    yield engine.tasks
    yield engine.open
    yield lambda: engine.submit(meowcat.Download("http://localhost/", "/tmp/never"))
    yield task.result
    yield task.pause
    yield task.progress
    yield lambda: task.state
    yield lambda: task.info
    yield lambda: next(iterator)
    yield lambda: pickle.dumps(engine)
    yield lambda: pickle.dumps(task)


def where(journal, folder):
    """The URI of a journal of this kind."""
    return journal if journal == "memory:" else f"{folder}/t.{journal}"


class Parent:
    """A process with an engine at work; `before` and `after` a child, and what the engine brought."""

    def __init__(self, journal, folder, rate=4 * MIB):
        self.folder = folder
        self.journal = where(journal, folder)
        self.content = Content(8 * MIB)
        self.server = RangeServer(self.content, rate=rate).start()
        self.engine = meowcat.blocking.Engine(self.journal, config=config()).open()
        self.task = self.engine.submit(meowcat.Download(self.server.url, f"{folder}/a"))
        self.events = self.engine.events()
        for progress in self.task.progress():
            if progress.bytes_done >= MIB:
                break
        self.watch = iter(self.task.progress())

    def end(self):
        """The parent's engine was not disturbed: it finishes, and no connection of it was broken."""
        result = self.task.result(timeout=60)
        say("whole", Path(result.path).read_bytes() == self.content.bytes(), result.size)
        say("failures", sum(isinstance(each.event, AttemptFailed) for each in self.task.history()))
        say("still", self.engine.snapshot().states)
        self.engine.close()
        self.server.stop()


def child_refuses(parent, *, end):
    try:
        calls = blocking_calls(parent.engine, parent.task, parent.events)
        say("child", *sorted({refusal(call) for call in calls}))
        parent.engine.close()  # as an exit handler of the application may
        parent.engine = parent.task = parent.events = parent.watch = None
        gc.collect()
    except BaseException:  # noqa: BLE001  # a child must never come back into the parent's program
        traceback.print_exc()
        os._exit(99)
    if end == "_exit":
        os._exit(0)
    sys.exit(0)


def fork_and(call):
    child = os.fork()
    if child == 0:
        call()
    return child


def waited(child):
    _, status = os.waitpid(child, 0)
    say("child left with", os.waitstatus_to_exitcode(status))


# Programs


def os_fork(journal, folder, end):
    parent = Parent(journal, folder)
    waited(fork_and(lambda: child_refuses(parent, end=end)))
    parent.end()


def os_fork_raises(journal, folder):
    """The child ends by the refusal, through the engine's block."""
    parent = Parent(journal, folder)
    with ExitStack() as stack:
        stack.push(parent.engine)
        child = os.fork()
        if child == 0:
            sys.excepthook = lambda kind, *_: say("child raised", kind.__name__)
            parent.engine.snapshot()
        stack.pop_all()
    waited(child)
    parent.end()


def another_engine(journal, folder):
    """The child opens one of its own, and downloads with it."""
    parent = Parent(journal, folder)

    def own() -> None:
        with meowcat.blocking.Engine(f"{folder}/child.db", config=config()) as engine:
            say("child", engine.download(parent.server.url, f"{folder}/b").size)
        say("owned", refusal(meowcat.blocking.Engine(where(journal, folder)).open))
        sys.exit(0)

    waited(fork_and(own))
    parent.end()


def made_before(journal, folder):
    """An engine that was made before the fork and not opened is everybody's to open."""
    engine = meowcat.blocking.Engine(where(journal, folder))

    def use() -> None:
        with engine:
            say("child", engine.snapshot().states)
        sys.exit(0)

    waited(fork_and(use))
    with engine:
        say("parent", engine.snapshot().states)


def while_busy(journal, folder):
    """Forks while other threads are in the middle of calls, which may hold any lock at that moment."""
    parent = Parent(journal, folder)
    over = threading.Event()

    def hammer() -> None:
        history = parent.engine.history(parent.task.id)
        while not over.is_set():
            parent.engine.snapshot()
            next(history, None)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        waited(fork_and(lambda: child_refuses(parent, end="exit")))
    over.set()
    for thread in threads:
        thread.join()
    parent.end()


def parent_dies(journal, folder, url):
    """The parent is killed while its child lives: journal and part file are free for the next one."""
    engine = meowcat.blocking.Engine(where(journal, folder), config=config()).open()
    task = engine.submit(meowcat.Download(url, f"{folder}/a"))
    for progress in task.progress():
        if progress.bytes_done:
            break
    read, write = os.pipe()
    parent = os.getpid()

    def live() -> None:
        os.close(write)
        os.read(read, 1)
        while os.getppid() == parent:  # the end of the pipe shows before the locks are free
            threading.Event().wait(0.001)
        with meowcat.blocking.Engine(where(journal, folder), config=config()) as engine:
            say("taken over", engine.download(url, f"{folder}/a").size)
        os._exit(0)

    fork_and(live)
    os.kill(os.getpid(), 9)


async def async_refusals(engine, task):
    """How the async API is refused, in a loop of the child's own."""
    found = {refusal(make) for make in (engine.tasks, engine.events, lambda: engine.history(task.id))}
    found.add(refusal(lambda: pickle.dumps(engine)))
    progress = task.progress()
    await anext(progress)  # what is known needs no engine
    for call in (engine.snapshot, engine.drain, task.result, task.pause, engine.open, progress.__anext__):
        try:
            await call()
        except meowcat.MeowcatError as error:
            found.add(f"{type(error).__name__} {int(error.code)}")
        else:
            found.add(f"nothing of {call}")
    await engine.close()
    return found


def in_a_coroutine(journal, folder):
    """The async engine, forked inside its loop."""

    async def main():
        with RangeServer(Content(8 * MIB), rate=4 * MIB) as server:
            async with meowcat.Engine(where(journal, folder), config=config()) as engine:
                task = await engine.submit(meowcat.Download(server.url, f"{folder}/a"))
                async for progress in task.progress():
                    if progress.bytes_done >= MIB:
                        break
                child = fork_and(lambda: refuse_async(engine, task))
                await asyncio.to_thread(waited, child)
                result = await task.result()
                say("whole", result.size == server.content("/").size, result.size)
                failures = [each async for each in task.history() if isinstance(each.event, AttemptFailed)]
                say("failures", len(failures))
                say("still", (await engine.snapshot()).states)

    asyncio.run(main())


def refuse_async(engine, task):
    found = []
    own = threading.Thread(target=lambda: found.extend(asyncio.run(async_refusals(engine, task))))
    own.start()
    own.join()
    say("child", *sorted(found))
    os._exit(0)


def use_in_process(*things):
    say("child", *sorted({refusal(call) for call in blocking_calls(*things)}))


def _inherited():
    use_in_process(_parent.engine, _parent.task, _parent.events)


def process(journal, folder, method):
    global _parent  # noqa: PLW0603  # what a forked child inherits
    _parent = Parent(journal, folder)
    context = multiprocessing.get_context(method)
    if method == "fork":
        child = context.Process(target=_inherited)
        child.start()
        child.join()
        say("child left with", child.exitcode)
    else:
        say("child", refusal(context.Process(target=use_in_process, args=(_parent.engine, None, None)).start))
    child = context.Process(target=_own_engine, args=(_parent.server.url, folder))
    child.start()
    child.join()
    say("child left with", child.exitcode)
    _parent.end()


def _own_engine(url, folder):
    with meowcat.blocking.Engine(f"{folder}/child.db", config=config()) as engine:
        say("child", engine.download(url, f"{folder}/b").size)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
