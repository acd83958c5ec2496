"""Credentials by their names, for the command line: from the environment, or from a file of the user's.

Only a name is ever on a command line or in a journal.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from meowcat.core.errors import InvalidArgument
from meowcat.protocols.credentials import AccessKey

__all__ = ["ALIYUN", "DEFAULT", "FILE_VARIABLE", "credential_named", "credentials_file"]

FILE_VARIABLE = "MEOWCAT_CREDENTIALS"
"""Names another file."""
DEFAULT = "default"
"""This name, and `env`, are those of the variables that all tools for S3 know."""
ALIYUN = "aliyun"
"""This one is that of the variables that all tools for Aliyun know."""
_FIELDS = ("access_key_id", "secret_access_key", "session_token")
_NEEDED = _FIELDS[:2]

_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_KNOWN = {
    DEFAULT: (_AWS,),
    "env": (_AWS,),
    ALIYUN: (
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"),
        ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
    ),
}
"""Variables by the names that they stand for, in the order of the fields; several sets, the first that is
there counts."""


def credentials_file() -> Path:
    """Where the file is, whether there is one or not."""
    named = os.environ.get(FILE_VARIABLE)
    return Path(named) if named else platformdirs.user_config_path("meowcat") / "credentials.toml"


def credential_named(name: str) -> AccessKey:
    """The credential of that name: the environment's, else the file's.

    Raises:
        InvalidArgument: it is nowhere, or not whole, or others may read the file. Says where it is looked
            for, and never what was found.
    """
    found = _of_environment(name) or _of_file(name)
    if found is None:
        key, secret, _ = _variables(name)[0]
        raise InvalidArgument(
            f"credential {name!r}: none is there; set {key} and {secret}, "
            f"or add [{name}] with access_key_id and secret_access_key to {credentials_file()}"
        )
    return found


def _variables(name: str) -> tuple[tuple[str, ...], ...]:
    """The sets of variables in which it is looked for."""
    prefix = f"MEOWCAT_CREDENTIAL_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_"
    return _KNOWN.get(name, (tuple(prefix + field.upper() for field in _FIELDS),))


def _of_environment(name: str) -> AccessKey | None:
    for variables in _variables(name):
        spelled = dict(zip(_FIELDS, variables, strict=True))
        given = {field: os.environ.get(variable) or None for field, variable in spelled.items()}
        if any(given.values()):
            return _key(f"credential {name!r}: the environment's ", spelled.__getitem__, given)
    return None


def _of_file(name: str) -> AccessKey | None:
    path = credentials_file()
    try:
        with path.open("rb") as file:
            # Of the file that is open, so that nobody puts another one in its place in between.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InvalidArgument(f"{path}: others may read or change it (mode {mode:o}); chmod 600 it")
            document = tomllib.load(file)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "it is no TOML"
        )  # whose text quotes the line
        raise InvalidArgument(f"{path}: {reason}") from None
    table = document.get(name)
    if table is None:
        return None
    if not isinstance(table, dict):
        raise InvalidArgument(f"{path}: {name} is no table; expected [{name}] on a line of its own")
    unknown = sorted(set(table) - set(_FIELDS))
    if unknown:
        raise InvalidArgument(f"{path}: [{name}] has {unknown[0]!r}; expected only {', '.join(_FIELDS)}")
    return _key(f"{path}: [{name}] ", str, table)


def _key(where: str, spelled: Callable[[str], str], given: dict[str, Any]) -> AccessKey:
    """The fields as a credential; `spelled` says how a field is called there."""
    texts: dict[str, str] = {}
    for field in _FIELDS:
        value = given.get(field)
        if value is None and field not in _NEEDED:
            continue
        if not isinstance(value, str) or not value.strip():
            raise InvalidArgument(f"{where}{spelled(field)} is missing, or no text")
        texts[field] = value.strip()
    key, secret = (texts[field] for field in _NEEDED)
    return AccessKey(id=key, secret=secret, token=texts.get("session_token"))
