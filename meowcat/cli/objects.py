"""`s3://bucket/key` on the command line: the options that say which server is meant, and what they make."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from meowcat.protocols.s3 import S3

Command = TypeVar("Command", bound=Callable[..., Any])

SCHEME = "s3://"

_SERVER = (
    click.option(
        "--endpoint",
        metavar="URL",
        envvar=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        help="The server of s3:// URLs, as in https://host:9000. Default: AWS_ENDPOINT_URL, else AWS itself.",
    ),
    click.option(
        "--region",
        metavar="NAME",
        envvar=("AWS_REGION", "AWS_DEFAULT_REGION"),
        help="Its region. Default: AWS_REGION, else what the endpoint says, else us-east-1.",
    ),
    click.option(
        "--credential",
        metavar="NAME",
        default="default",
        show_default=True,
        help="The name of the key that signs: from the environment or credentials.toml, never journaled.",
    ),
    click.option("--anonymous", is_flag=True, help="Sign nothing: for buckets that are open to everybody."),
    click.option(
        "--style",
        type=click.Choice(["auto", "path", "virtual"]),
        default="auto",
        show_default=True,
        help="Where the bucket's name stands: in the path, or before the host.",
    ),
)
_DOWNLOAD = (
    click.option(
        "--version-id", metavar="ID", help="Which version of the object to get. Default: the newest."
    ),
)
_UPLOAD = (
    click.option("--content-type", metavar="TYPE", help="The media type that downloads of it will say."),
    click.option(
        "--metadata",
        "metadata_pairs",
        multiple=True,
        metavar="NAME=VALUE",
        help="Kept with the object, and journaled; may be repeated.",
    ),
    click.option("--storage-class", metavar="CLASS", help="As in STANDARD_IA. Default: the server's."),
    click.option(
        "--part-checksum",
        type=click.Choice(["auto", "crc64nvme", "sha256", "md5", "none"]),
        default="auto",
        show_default=True,
        help="What the server compares each part with.",
    ),
)
_SERVER_NAMES = ("endpoint", "region", "credential", "anonymous", "style")
DOWNLOAD_NAMES = (*_SERVER_NAMES, "version_id")
UPLOAD_NAMES = (*_SERVER_NAMES, "content_type", "metadata_pairs", "storage_class", "part_checksum")


def download_options(command: Command) -> Command:
    """Give a command the options of downloads from S3."""
    return _with(command, (*_SERVER, *_DOWNLOAD))


def upload_options(command: Command) -> Command:
    """Give a command the options of uploads to S3."""
    return _with(command, (*_SERVER, *_UPLOAD))


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def is_object(url: str) -> bool:
    return url.lower().startswith(SCHEME)


def refuse_given(context: click.Context, names: Sequence[str], what_for: str) -> None:
    """Refuse options that mean nothing here, where they stand on the command line itself.

    Raises:
        click.UsageError: names the first of them.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} is for {what_for}")


def settings_of(options: dict[str, Any], names: Sequence[str]) -> S3:
    """Take `names` out of a command's options, as settings.

    Raises:
        click.UsageError: metadata without a `=`. InvalidArgument: a value that can't be worked with.
    """
    given = {name: options.pop(name) for name in names}
    if given.pop("anonymous"):
        given["credential"] = None
    if "metadata_pairs" in given:
        given["metadata"] = _pairs(given.pop("metadata_pairs"))
        given["checksum"] = given.pop("part_checksum")
    return S3(**given)


def _pairs(lines: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--metadata {line}: expected NAME=VALUE")
        pairs[name.strip()] = value
    return pairs
