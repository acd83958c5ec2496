"""`meowcat get`: download, and go on where the same command was stopped."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from meowcat.cli.display import Display, display_for
from meowcat.cli.exits import Exit
from meowcat.cli.journals import journal_of, make_folder
from meowcat.cli.objects import DOWNLOAD_NAMES, EXAMPLES, download_options, refuse_given, taken_objects
from meowcat.cli.options import (
    EngineOptions,
    engine_options,
    header_option,
    headers_of,
    journal_option,
    json_option,
    quiet_option,
    taken,
)
from meowcat.cli.quantities import size_option
from meowcat.cli.running import Stop, Watched, run_until_done
from meowcat.cli.signers import required
from meowcat.cli.targets import NAMES_AT_ONCE, Wanted, settle_paths, stands, wanted_of
from meowcat.cli.transferring import opening_for, transfer
from meowcat.core.events import Created
from meowcat.core.machine import State
from meowcat.core.seal import seal
from meowcat.core.transfers import Download, ProtocolSpec
from meowcat.core.urls import identity
from meowcat.core.values import TaskId
from meowcat.engine import Engine
from meowcat.protocols.credentials import Provider

_EXAMPLES = """\b
Examples:
  meowcat get https://host/big.iso
  meowcat get https://host/big.iso -o /data/ --connections 8 --checksum sha256:9f86…
  meowcat get --input urls.txt -o downloads/
  meowcat get https://host/x -H @secret-headers.txt --journal transfers.db
  meowcat get s3://bucket/isos/big.iso --endpoint https://s3.host --credential prod

Run the same command again after a crash, a kill or Ctrl-C: it goes on where it was. Once all is complete it
fetches nothing again, unless --overwrite says so.
"""


@dataclass(frozen=True)
class Order:
    """All that a `get` is told."""

    wanted: list[Wanted]
    headers: dict[str, str]
    journal: str
    fields: dict[str, Any]
    """Fields of `Download`, the same for each URL."""
    engine: EngineOptions
    credentials: dict[str, Provider]
    paused: bool


@click.command(epilog=_EXAMPLES, no_args_is_help=True)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="The file to make; or a folder, for several URLs or a name of the server's choice. "
    "Default: the current folder.",
)
@click.option(
    "-i",
    "--input",
    "input_file",
    metavar="FILE",
    help="Get what FILE lists: 'URL' or 'URL PATH' a line, '#' comments; - is standard input.",
)
@journal_option
@click.option(
    "--connections",
    "-c",
    type=int,
    help="Requests at once for each URL, 1 to 256. Default: 4, and up to 16 while that makes it faster.",
)
@click.option(
    "--piece-size",
    callback=size_option,
    metavar="SIZE",
    help="The unit of verification and reuse: 1MiB, 8M, 65536. Default: 256KiB to 4MiB by the size of the "
    "content, or more for a huge one.",
)
@header_option
@download_options
@click.option(
    "--checksum",
    metavar="ALGORITHM:HEX",
    help="What the content must have: sha256, sha512, sha1, md5, blake3, crc32c, crc64nvme or crc64xz. "
    "For one URL.",
)
@click.option(
    "--digest",
    metavar="ALGORITHM",
    help="Compute and record a digest of each file, with nothing to compare: what a receipt proves.",
)
@click.option(
    "--keep-encoding",
    is_flag=True,
    help="Take a reply with a Content-Encoding (gzip, br) as it is: in one go, without ranges.",
)
@click.option(
    "-R",
    "--remote-time",
    is_flag=True,
    help="Give each file the time at which the server's was last changed.",
)
@click.option(
    "--limit-rate", callback=size_option, metavar="SIZE", help="Bytes a second, for all URLs together."
)
@click.option("--retries", type=int, help="Attempts after a failure without progress. Default: 3.")
@click.option("--overwrite", is_flag=True, help="Replace a file that stands at the target, in one step.")
@click.option("--priority", type=int, default=0, help="Higher goes first.")
@click.option("--paused", is_flag=True, help="Only record it: no network until 'meowcat resume TASK'.")
@engine_options
@quiet_option
@json_option
@click.pass_context
def get(
    context: click.Context, /, urls: tuple[str, ...], *, as_json: bool, quiet: bool, **options: Any
) -> Exit:
    """Download each URL, verified, and resumable after kill -9.

    URL is http(s)://…, or an object: s3://BUCKET/KEY, of any server that speaks S3, oss://BUCKET/KEY or
    azure://CONTAINER/BLOB.
    """
    order = _order(context, urls, options)
    display = display_for(as_json=as_json, quiet=quiet)
    return run_until_done(lambda stop: _get(order, display, stop))


def _order(context: click.Context, urls: tuple[str, ...], options: dict[str, Any]) -> Order:
    engine = taken(options)
    objects = taken_objects(options, DOWNLOAD_NAMES)
    wanted = wanted_of(urls, options.pop("output"), options.pop("input_file"), objects)
    if all(each.spec is None for each in wanted):
        refuse_given(context, DOWNLOAD_NAMES, EXAMPLES)
    if options["checksum"] is not None and len(wanted) > 1:
        raise click.UsageError("--checksum is for one URL")
    headers = headers_of(options.pop("header_lines"))
    paused = options.pop("paused")
    credentials: dict[str, Provider] = {}
    for each in wanted:
        if each.spec is not None and not paused:
            credentials |= required(each.spec)
    journal = options.pop("journal")
    if journal is None:
        journal = str(journal_of((each.destination, each.identity) for each in wanted))
        make_folder()
    options["overwrite"] = "replace" if options["overwrite"] else "never"
    return Order(wanted, headers, journal, options, engine, credentials, paused)


async def _get(order: Order, display: Display, stop: Stop) -> Exit:
    config = order.engine.config(limit_rate=order.fields["limit_rate"], max_fetches=NAMES_AT_ONCE)
    opening = await opening_for(order.journal, config, order.credentials, display)
    return await transfer(opening, partial(_submit, order), display, stop, paused=order.paused)


async def _submit(order: Order, engine: Engine) -> list[Watched]:
    paths = await settle_paths(order.wanted, engine.tasks(), partial(engine.name_of, headers=order.headers))
    requests = [
        Download(
            url=each.url,
            to=str(path),
            headers=order.headers,
            client_file_sign=each.mark,
            protocol=each.spec,
            **order.fields,
        )
        for each, path in zip(order.wanted, paths, strict=True)
    ]
    done = {} if order.fields["overwrite"] == "replace" else await _done(order, paths, engine)
    missing = [request for request in requests if request.to not in done]
    new = await engine.submit_many(missing, paused=order.paused)
    tasks = done | dict(zip((request.to for request in missing), new, strict=True))
    return [
        Watched(await engine.task(tasks[request.to]), order.journal, seal(request)[0].needs)
        for request in requests
    ]


async def _done(order: Order, paths: list[Path], engine: Engine) -> dict[str, TaskId]:
    """The tasks, by their targets, that have brought already what is asked for."""
    wanted = {
        str(path): _content(each.url, each.spec) for each, path in zip(order.wanted, paths, strict=True)
    }
    candidates = [
        info async for info in engine.tasks(state=State.COMPLETE, direction="download") if info.path in wanted
    ]
    return {
        info.path: info.id
        for info in candidates
        if stands(info, order.fields["checksum"]) and wanted[info.path] == await _brought(engine, info.id)
    }


def _content(url: str, spec: ProtocolSpec | None) -> tuple[str, object]:
    """What tells one content from another: of an object also which version of it."""
    return identity(url), spec and [spec.fields.get(name) for name in ("version_id", "snapshot")]


async def _brought(engine: Engine, task: TaskId) -> tuple[str, object]:
    """By the URL as it is stored: one that is shown tells `?item=1` and `?item=2` apart no more."""
    first = (await anext(engine.history(task))).event
    assert isinstance(first, Created)  # noqa: S101  # every history begins so; the check narrows the type
    return _content(first.request.url, first.request.protocol)
