"""Clients that bring many small files: `job` has `origin`, a file with their `names`, the folder `to`, and
`at_once`."""

import asyncio
import ssl
from pathlib import Path

from .races import Client, Job
from .scripts import Clock


def _names(job: Job) -> list[str]:
    return Path(job["names"]).read_text().splitlines()


def write_list(job: Job) -> None:
    """What programs are told to bring, in the words of each."""
    origin, to = job["origin"], Path(job["to"])
    lines = {
        "curl": lambda name: f'url = "{origin}/{name}"\noutput = "{to / name}"',
        "aria2c": lambda name: f"{origin}/{name}\n  out={name}",
        "wget2": lambda name: f"{origin}/{name}",
    }[job["list"]]
    (to.parent / "list").write_text("".join(f"{lines(name)}\n" for name in _names(job)))


def _list(job: Job) -> str:
    return str(Path(job["to"]).parent / "list")


def _trusting(job: Job, option: str) -> list[str]:
    return [f"{option}={job['ca']}"] if job.get("ca") else []


def _curl(job: Job) -> list[str]:
    ca = ["--cacert", job["ca"]] if job.get("ca") else []
    return [*ca, "-sS", "--fail", "--parallel", "--parallel-max", str(job["at_once"]), "--config", _list(job)]


def _aria2c(job: Job) -> list[str]:
    quiet = ["-q", "--no-conf", "--file-allocation=none", "--allow-overwrite=true"]
    return [
        *quiet,
        *_trusting(job, "--ca-certificate"),
        "-j",
        str(job["at_once"]),
        "-d",
        job["to"],
        "-i",
        _list(job),
    ]


def _wget2(job: Job) -> list[str]:
    return [
        *_trusting(job, "--ca-certificate"),
        "-q",
        "--no-config",
        f"--max-threads={job['at_once']}",
        "-P",
        job["to"],
        "-i",
        _list(job),
    ]


def _rclone(job: Job) -> list[str]:
    command = ["copy", ":http:", job["to"], "--http-url", job["origin"], "--config", "/dev/null"]
    command += ["--transfers", str(job["at_once"]), "--files-from-raw", job["names"], "--http-no-head"]
    return [*command, "--no-check-dest", "--no-traverse"]


def by_meowcat(job: Job, clock: Clock) -> None:
    import anyio  # not in the memory of the others

    import meowcat  # as above

    async def download() -> None:
        config = meowcat.Config(
            durability=job["durability"],
            control=False,
            max_downloads=job["at_once"],
            ca_bundle=job.get("ca"),
            **job.get("config", {}),
        )
        requests = [
            meowcat.Download(f"{job['origin']}/{name}", f"{job['to']}/{name}") for name in _names(job)
        ]
        async with meowcat.Engine(job["journal"], config=config) as engine:
            with clock:
                await engine.submit_many(requests)
                await engine.drain()

    anyio.run(download, backend_options={"use_uvloop": job.get("uvloop", False)})


async def _together(job: Job, bring) -> None:
    names = iter(_names(job))

    async def worker() -> None:
        for name in names:
            await bring(f"{job['origin']}/{name}", Path(job["to"]) / name)

    async with asyncio.TaskGroup() as group:
        for _ in range(job["at_once"]):
            group.create_task(worker())


def by_httpx(job: Job, clock: Clock) -> None:
    import httpx  # not in the memory of the others

    async def run() -> None:
        async with httpx.AsyncClient(timeout=60) as client:

            async def bring(url: str, to: Path) -> None:
                reply = await client.get(url)
                reply.raise_for_status()
                to.write_bytes(reply.content)

            with clock:
                await _together(job, bring)

    asyncio.run(run())


def by_aiohttp(job: Job, clock: Clock) -> None:
    import aiohttp  # not in the memory of the others

    async def run() -> None:
        trusted = ssl.create_default_context(cafile=job["ca"]) if job.get("ca") else True
        async with aiohttp.ClientSession() as client:

            async def bring(url: str, to: Path) -> None:
                async with client.get(url, ssl=trusted) as reply:
                    reply.raise_for_status()
                    to.write_bytes(await reply.read())

            with clock:
                await _together(job, bring)

    asyncio.run(run())


def by_pyreqwest(job: Job, clock: Clock) -> None:
    from pyreqwest.client import ClientBuilder  # not in the memory of the others

    async def run() -> None:
        builder = ClientBuilder()
        if job.get("ca"):
            builder = builder.add_root_certificate_pem(Path(job["ca"]).read_bytes())
        async with builder.build() as client:

            async def bring(url: str, to: Path) -> None:
                reply = await client.get(url).build().send()
                assert reply.status == 200
                to.write_bytes(await reply.bytes())

            with clock:
                await _together(job, bring)

    asyncio.run(run())


def by_obstore(job: Job, clock: Clock) -> None:
    import obstore  # not in the memory of the others
    from obstore.store import HTTPStore  # as above

    async def run() -> None:
        store = HTTPStore.from_url(job["origin"], client_options={"allow_http": True})

        async def bring(url: str, to: Path) -> None:
            reply = await obstore.get_async(store, to.name)
            to.write_bytes(await reply.bytes_async())

        with clock:
            await _together(job, bring)

    asyncio.run(run())


def by_pypdl(job: Job, clock: Clock) -> None:
    from pypdl import Pypdl  # not in the memory of the others

    tasks = [{"url": f"{job['origin']}/{name}", "file_path": f"{job['to']}/{name}"} for name in _names(job)]
    with clock:
        Pypdl(max_concurrent=job["at_once"]).start(tasks=tasks, multisegment=False, display=False)


MEOWCAT = Client("meowcat", script="many:by_meowcat", durable=True)
UVLOOP = Client("meowcat with uvloop", script="many:by_meowcat", needs=("uvloop",), durable=True)
FAST = (
    (MEOWCAT, {"at_once": 32}, ""),
    (UVLOOP, {"at_once": 32, "uvloop": True}, ""),
    (Client("curl", "curl", _curl), {"at_once": 8, "list": "curl"}, ""),
    (Client("aria2c", "aria2c", _aria2c), {"at_once": 8, "list": "aria2c"}, ""),
    (Client("wget2", "wget2", _wget2), {"at_once": 8, "list": "wget2"}, ""),
    (Client("aiohttp (a script)", script="many:by_aiohttp", needs=("aiohttp",)), {"at_once": 16}, ""),
    (Client("pyreqwest (a script)", script="many:by_pyreqwest", needs=("pyreqwest",)), {"at_once": 16}, ""),
    (Client("obstore (a script)", script="many:by_obstore", needs=("obstore",)), {"at_once": 16}, ""),
)
TRUSTING = FAST[:-1]
"""Who can be told of an authority."""
CLIENTS = (
    *FAST,
    (MEOWCAT, {"at_once": 8}, "meowcat (8 at once)"),
    (Client("rclone", "rclone", _rclone), {"at_once": 8}, ""),
    (Client("httpx (a script)", script="many:by_httpx", needs=("httpx",)), {"at_once": 16}, ""),
    (Client("pypdl", script="many:by_pypdl", needs=("pypdl",)), {"at_once": 8}, ""),
)
"""Whom 20,000 files would take minutes, with 2,000 alone."""
