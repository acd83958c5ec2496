"""`meowcat put`: upload, and go on where the same command was stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from meowcat.cli.completion import files as file_names
from meowcat.cli.display import Display, display_for
from meowcat.cli.exits import Exit
from meowcat.cli.journals import journal_of, make_folder
from meowcat.cli.objects import EXAMPLES, UPLOAD_NAMES, refuse_given, store_of, taken_objects, upload_options
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
from meowcat.cli.parcels import Parcel, delivered, parcels_of
from meowcat.cli.quantities import size_option
from meowcat.cli.running import Stop, Watched, run_until_done
from meowcat.cli.signers import required
from meowcat.cli.transferring import opening_for, transfer
from meowcat.core.seal import seal
from meowcat.core.transfers import ProtocolSpec, Upload
from meowcat.engine import Engine
from meowcat.protocols.credentials import Provider
from meowcat.protocols.form_upload import FormUpload

_EXAMPLES = """\b
Examples:
  meowcat put big.iso https://host/upload --category isos -H @secret-headers.txt
  meowcat put big.iso s3://bucket/isos/big.iso --endpoint https://s3.host --credential prod
  meowcat put *.iso s3://bucket/isos/ --region eu-central-1 --storage-class STANDARD_IA
  meowcat put big.iso oss://bucket/isos/ --region cn-hangzhou

Run the same command again after a crash, a kill or Ctrl-C: it goes on where it was. A file that is unchanged,
and whose object the server still has, is not sent again, unless --again says so.
"""

_FORM_NAMES = ("method", "category")


@dataclass(frozen=True)
class Order:
    """All that a `put` is told."""

    parcels: list[Parcel]
    headers: dict[str, str]
    journal: str
    fields: dict[str, Any]
    """Fields of `Upload`, the same for each file."""
    engine: EngineOptions
    credentials: dict[str, Provider]
    again: bool
    paused: bool

    @property
    def requests(self) -> list[Upload]:
        return [
            Upload(each.source, each.url, each.spec, headers=self.headers, **self.fields)
            for each in self.parcels
        ]


@click.command(epilog=_EXAMPLES, no_args_is_help=True)
@click.argument("files", nargs=-1, metavar="FILE...", shell_complete=file_names)
@click.argument("url", metavar="URL")
@journal_option
@click.option(
    "--method",
    default="POST",
    show_default=True,
    help="Of the requests of a form upload: POST, PUT or PATCH.",
)
@click.option("--category", default="", help="Sent along with a form upload, for the server to sort by.")
@upload_options
@click.option(
    "--connections",
    "-c",
    type=int,
    help="Parts sent at once of each file, 1 to 256, where the server takes them in any order. Default: 4,"
    " and up to 16 while that makes it faster.",
)
@click.option(
    "--piece-size",
    callback=size_option,
    metavar="SIZE",
    help="The size of a part: 8MiB, 64M. Default: what fits the server, at least 8MiB.",
)
@header_option
@click.option(
    "--digest", metavar="ALGORITHM", help="Compute and record a digest of each file: what a receipt proves."
)
@click.option(
    "--verify-source",
    type=click.Choice(["auto", "always"]),
    default="auto",
    show_default=True,
    help="Read each file once more before the end: where anything hints that it was touched, or always.",
)
@click.option(
    "--limit-rate", callback=size_option, metavar="SIZE", help="Bytes a second, for all files together."
)
@click.option("--retries", type=int, help="Attempts to send after a failure without progress. Default: 3.")
@click.option("--prepare-retries", type=int, help="Attempts to begin after a failure. Default: 3.")
@click.option("--again", is_flag=True, help="Send also what is there already.")
@click.option("--key", metavar="NAME", help="The task's name, unique among those that have not ended.")
@click.option("--priority", type=int, default=0, help="Higher goes first.")
@click.option("--paused", is_flag=True, help="Only record it: no network until 'meowcat resume TASK'.")
@engine_options
@quiet_option
@json_option
@click.pass_context
def put(
    context: click.Context, /, files: tuple[str, ...], url: str, *, as_json: bool, quiet: bool, **options: Any
) -> Exit:
    """Upload each FILE to URL, resumable after kill -9.

    URL is the address of a form upload, http(s)://…, which takes any number of files; or an object,
    s3://BUCKET/KEY, oss://BUCKET/KEY or azure://CONTAINER/BLOB. A BUCKET alone, or a KEY with a slash at its
    end, is a folder for the files' own names.
    """
    order = _order(context, files, url, options)
    display = display_for(as_json=as_json, quiet=quiet)
    return run_until_done(lambda stop: _put(order, display, stop))


def _order(context: click.Context, files: Sequence[str], url: str, options: dict[str, Any]) -> Order:
    if not files:  # the only argument was taken for the URL; most often it is the file
        lacking = "the FILE to put there" if "://" in url else "the URL to put it to"
        raise click.UsageError(f"{url}: expected {lacking} as well, as in 'meowcat put FILE URL'")
    engine = taken(options)
    if options["key"] is not None and len(files) > 1:
        raise click.UsageError("--key is for one file")
    headers = headers_of(options.pop("header_lines"))
    spec = _spec(context, url, options)
    parcels = parcels_of(files, url, spec)
    paused = options.pop("paused")
    credentials = {} if paused else required(spec)
    journal = options.pop("journal")
    if journal is None:
        journal = str(journal_of((each.source, f"put {each.place}") for each in parcels))
        make_folder()
    again = options.pop("again")
    return Order(parcels, headers, journal, options, engine, credentials, again, paused)


def _spec(context: click.Context, url: str, options: dict[str, Any]) -> ProtocolSpec:
    """How the URL is uploaded to, with the options that are for it, which are taken out of the others."""
    form = FormUpload(**{name: options.pop(name) for name in _FORM_NAMES})
    objects, store = taken_objects(options, UPLOAD_NAMES), store_of(url)
    if store is not None:
        refuse_given(context, _FORM_NAMES, "form uploads, to http(s)://…")
        return objects.spec(store)
    refuse_given(context, UPLOAD_NAMES, EXAMPLES)
    return form.spec()


async def _put(order: Order, display: Display, stop: Stop) -> Exit:
    config = order.engine.config(limit_rate=order.fields["limit_rate"])
    opening = await opening_for(order.journal, config, order.credentials, display)

    async def submit(engine: Engine) -> list[Watched]:
        requests = order.requests
        done = {} if order.again or order.paused else await delivered(engine, requests, order.parcels)
        missing = [number for number in range(len(requests)) if number not in done]
        new = await engine.submit_many([requests[number] for number in missing], paused=order.paused)
        tasks = done | dict(zip(missing, new, strict=True))
        return [
            Watched(await engine.task(tasks[number]), order.journal, seal(request)[0].needs)
            for number, request in enumerate(requests)
        ]

    return await transfer(opening, submit, display, stop, paused=order.paused)
