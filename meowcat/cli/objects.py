"""`s3://bucket/key` and its like on the command line: the options that say which server is meant, and what
they make.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from meowcat.cli.credentials import ALIYUN, AZURE, DEFAULT
from meowcat.core.transfers import ProtocolSpec
from meowcat.protocols.azure import AzureBlob, AzureDownload
from meowcat.protocols.contract import DownloadProtocol
from meowcat.protocols.oss import AliyunOSS, OSSDownload
from meowcat.protocols.s3 import S3, S3Download

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Store:
    """A kind of server that is named by a scheme of its own."""

    scheme: str
    settings: type[S3 | AliyunOSS | AzureBlob]
    """Its fields say which options it knows."""
    download: type[DownloadProtocol]
    credential: str
    """Whose name is taken where none is given."""
    variables: Mapping[str, tuple[str, ...]]
    """Of the environment, by the field that they stand for."""
    words: str = "BUCKET/KEY"

    @property
    def example(self) -> str:
        return f"{self.scheme}{self.words}"


STORES = (
    Store(
        "s3://",
        S3,
        S3Download,
        DEFAULT,
        {
            "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        },
    ),
    Store(
        "oss://", AliyunOSS, OSSDownload, ALIYUN, {"endpoint": ("OSS_ENDPOINT",), "region": ("OSS_REGION",)}
    ),
    Store(
        "azure://",
        AzureBlob,
        AzureDownload,
        AZURE,
        {"endpoint": ("AZURE_STORAGE_BLOB_ENDPOINT",), "account": ("AZURE_STORAGE_ACCOUNT",)},
        "CONTAINER/BLOB",
    ),
)
EXAMPLES = ", ".join(store.example for store in STORES)

_SERVER = (
    click.option(
        "--endpoint",
        metavar="URL",
        help="The server of objects, as in https://host:9000. Default: AWS_ENDPOINT_URL or OSS_ENDPOINT, "
        "else AWS, or Aliyun's of the region.",
    ),
    click.option(
        "--region",
        metavar="NAME",
        help="Its region. Default: AWS_REGION or OSS_REGION, else what the endpoint says, else (of S3) "
        "us-east-1.",
    ),
    click.option(
        "--credential",
        metavar="NAME",
        help="The name of the key that signs: from the environment or credentials.toml, never journaled. "
        f"Default: '{DEFAULT}', or '{ALIYUN}' for oss://, or '{AZURE}' for azure://.",
    ),
    click.option(
        "--account",
        metavar="NAME",
        help="Of azure://: the storage account, unless --endpoint says it. Default: AZURE_STORAGE_ACCOUNT.",
    ),
    click.option("--anonymous", is_flag=True, help="Sign nothing: for buckets that are open to everybody."),
    click.option(
        "--style",
        type=click.Choice(["auto", "path", "virtual", "cname"]),
        default="auto",
        show_default=True,
        help="Where the bucket's name stands: in the path, before the host, or (of OSS) nowhere, where the "
        "host is its own.",
    ),
    click.option(
        "--additional-header",
        "additional_headers",
        multiple=True,
        metavar="NAME",
        help="Of OSS: a header that is signed, too, where a request has it; may be repeated.",
    ),
)
_DOWNLOAD = (
    click.option(
        "--version-id", metavar="ID", help="Which version of the object to get. Default: the newest."
    ),
    click.option("--snapshot", metavar="INSTANT", help="Of azure://: which snapshot of the blob to get."),
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
    click.option(
        "--overwrite",
        is_flag=True,
        help="Of azure://: replace the blob that is there. Others replace without being told to.",
    ),
    click.option(
        "--tier", metavar="TIER", help="Of azure://: Hot, Cool, Cold, Archive. Default: the account's."
    ),
    click.option("--storage-class", metavar="CLASS", help="As in STANDARD_IA. Default: the server's."),
    click.option(
        "--part-checksum",
        type=click.Choice(["auto", "crc64nvme", "sha256", "md5", "none"]),
        default="auto",
        show_default=True,
        help="What each part is compared with: at S3 any, at OSS auto, md5 or none, at Azure crc64nvme, md5 "
        "or none.",
    ),
)
_SERVER_NAMES = ("endpoint", "region", "credential", "anonymous", "style", "additional_headers", "account")
DOWNLOAD_NAMES = (*_SERVER_NAMES, "version_id", "snapshot")
UPLOAD_NAMES = (
    *_SERVER_NAMES,
    "content_type",
    "metadata_pairs",
    "storage_class",
    "part_checksum",
    "overwrite",
    "tier",
)


def download_options(command: Command) -> Command:
    """Give a command the options of downloads of objects."""
    return _with(command, (*_SERVER, *_DOWNLOAD))


def upload_options(command: Command) -> Command:
    """Give a command the options of uploads of objects."""
    return _with(command, (*_SERVER, *_UPLOAD))


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def store_of(url: str) -> Store | None:
    """Which kind of server a URL names; None where it is none of an object."""
    return next((store for store in STORES if url.lower().startswith(store.scheme)), None)


def refuse_given(context: click.Context, names: Sequence[str], what_for: str) -> None:
    """Refuse options that mean nothing here, where they stand on the command line itself.

    Raises:
        click.UsageError: names the first of them.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} is for {what_for}")


@dataclass(frozen=True)
class Objects:
    """What the options say of the server, and of the objects there."""

    given: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, store: Store) -> ProtocolSpec:
        """As settings of that kind of server.

        Raises:
            click.UsageError: an option that means nothing there. InvalidArgument: a value that can't be
                worked with.
        """
        fields = {name: value for name, value in self.given.items() if name != "anonymous"}
        named = fields.get("credential") or store.credential
        fields["credential"] = None if self.given.get("anonymous") else named
        for name, variables in store.variables.items():
            found = (os.environ.get(variable) for variable in variables)
            fields[name] = fields.get(name) or next(filter(None, found), None)
        for name in fields.keys() - set(store.settings.__struct_fields__):
            value = fields.pop(name)
            if value and value != _DEFAULTS.get(name):
                raise click.UsageError(
                    f"{_OPTIONS.get(name, _spelled(name))} means nothing to {store.example}"
                )
        return store.settings(**fields).spec()


_DEFAULTS = {"style": "auto", "overwrite": "never"}
"""What options say that nobody gave."""
_OPTIONS = {"additional_headers": "--additional-header", "checksum": "--part-checksum"}
"""As people know them, where the field has another name."""


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def taken_objects(options: dict[str, Any], names: Sequence[str]) -> Objects:
    """Take `names` out of a command's options.

    Raises:
        click.UsageError: metadata without a `=`.
    """
    given = {name: options.pop(name) for name in names}
    if "metadata_pairs" in given:
        given["metadata"] = _pairs(given.pop("metadata_pairs"))
        given["checksum"] = given.pop("part_checksum")
        given["overwrite"] = "replace" if given["overwrite"] else "never"
    return Objects(given)


def _pairs(lines: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--metadata {line}: expected NAME=VALUE")
        pairs[name.strip()] = value
    return pairs
