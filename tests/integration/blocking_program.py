"""Programs with a blocking engine that end, or are interrupted, in the way that `test_blocking_exit` asks."""

import asyncio
import os
import signal
import sys
import threading

import anyio

import meowcat


def say(text) -> None:
    print(text, flush=True)


def opened(folder, url):
    engine = meowcat.blocking.Engine(
        f"{folder}/t.db", config=meowcat.Config(piece_size=256 << 10, flush_seconds=0.02, read_timeout=2)
    ).open()
    task = engine.submit(meowcat.Download(url, f"{folder}/a"))
    for progress in task.progress():
        if progress.bytes_done:
            break
    say(task.id)
    return engine, task


# Ends without a close


def falls_off_the_end(folder, url):
    global kept  # noqa: PLW0603  # as a script's variables are
    kept = opened(folder, url)


def raises(folder, url):
    falls_off_the_end(folder, url)
    raise SystemError("on purpose")


def exits(folder, url):
    falls_off_the_end(folder, url)
    sys.exit(3)


def exits_while_another_thread_waits(folder, url):
    _, task = opened(folder, url)

    def wait() -> None:
        try:
            task.result()
        except meowcat.EngineClosed:
            pass

    threading.Thread(target=wait, daemon=True).start()
    sys.exit(3)


def exits_while_its_functions_hang(folder, url):
    """What is asked for a credential, and for a plan. Of a loop in the main thread no thread is a daemon."""
    asked = [anyio.Event(), anyio.Event()]

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def hangs(which):
            loop.call_soon_threadsafe(asked[which].set)
            threading.Event().wait()

        async with meowcat.Engine(
            f"{folder}/t.db", credentials={"c": lambda: hangs(0)}, refreshers={"r": lambda _: hangs(1)}
        ) as engine:
            store = meowcat.S3(endpoint=url, region="here", credential="c")
            await engine.submit(meowcat.Download("s3://bucket/key", f"{folder}/b", protocol=store))
            expired = meowcat.PresignedDownload(meowcat.DownloadPlan(url=url, expires=1), "r")
            await engine.submit(meowcat.Download("", f"{folder}/c", protocol=expired))
            for each in asked:
                await each.wait()

    asyncio.run(work())
    sys.exit(3)


def leaves_it_to_another_thread(folder, url):
    """The main thread ends first; the other one downloads to the end, and does not close either."""
    falls_off_the_end(folder, url)

    def finish() -> None:
        threading.main_thread().join()
        say(kept[1].result().size)

    threading.Thread(target=finish).start()


def opens_one_after_the_other(folder, url):
    """Each has a thread of its own, which ends with it; the HTTP client must outlive the first."""
    for number in range(5):
        with meowcat.blocking.Engine(f"{folder}/t.db") as engine:
            say(engine.download(url, f"{folder}/{number}").size)


# Is interrupted


def interrupted(call):
    """Call it and say how it ended; whoever reads "waiting" sends a SIGINT."""
    try:
        say("waiting")
        call()
    except KeyboardInterrupt:
        say("interrupted")


def interrupted_result(folder, url):
    engine, task = opened(folder, url)
    interrupted(task.result)
    say(engine.snapshot().active_downloads)
    engine.close()


def interrupted_progress(folder, url):
    engine, task = opened(folder, url)
    progress = task.progress()
    interrupted(lambda: list(progress))
    next(progress)
    engine.close()


def interrupted_events(folder, url):
    engine, task = opened(folder, url)
    task.pause()
    seen = []
    events = engine.events()
    interrupted(lambda: [seen.append(logged.position) for logged in events])
    task.resume()
    seen.append(next(events).position)
    if seen != list(range(1, len(seen) + 1)):
        say(f"lost or doubled: {seen}")
    engine.close()


def interrupted_twice(folder, url):
    engine, task = opened(folder, url)
    interrupted(task.result)
    interrupted(engine.drain)
    engine.close()


def interrupted_block(folder, url):
    """The usual program: Ctrl-C ends it by its traceback, and the block closes the engine."""
    with meowcat.blocking.Engine(f"{folder}/t.db") as engine:
        task = engine.submit(meowcat.Download(url, f"{folder}/a"))
        for progress in task.progress():
            if progress.bytes_done:
                break
        say(task.id)
        say("waiting")
        task.result()


def interrupted_open(folder, url):
    """While `on_restart` is asked, which takes its time."""
    engine, _ = opened(folder, url)
    engine.close()
    asked = threading.Event()

    def ask(info) -> bool:
        say("waiting")
        asked.wait(30)
        threading.Event().wait(0.2)
        return True

    def interrupt(*signaled) -> None:
        asked.set()
        signal.default_int_handler(*signaled)

    signal.signal(signal.SIGINT, interrupt)

    engine = meowcat.blocking.Engine(f"{folder}/t.db", on_restart=ask)
    try:
        engine.open()
    except KeyboardInterrupt:
        say("interrupted")
    with meowcat.blocking.Engine(f"{folder}/t.db", on_restart="pause"):
        say("opened again")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    os.chdir("/")
    globals()[sys.argv[1]](*sys.argv[2:])
