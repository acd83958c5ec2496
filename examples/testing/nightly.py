"""An application: every night it brings some files into a folder, and may be killed at any moment."""

from collections.abc import Mapping

import meowcat


async def nightly_sync(engine: meowcat.Engine, files: Mapping[str, str]) -> int:
    """Bring each URL to its path; returns how many files are there. To be called again after a crash.

    What an earlier night has left is finished first, and what is Complete is not asked for again. It is the
    journal that knows: a process that was killed after a file was complete may never have heard of it.
    """
    await engine.drain()
    finished = {info.path async for info in engine.tasks(state="Complete")}
    missing = [meowcat.Download(url, path) for url, path in files.items() if path not in finished]
    for task in [await engine.submit(request) for request in missing]:
        await task.result()
    return len(files)
