"""Credentials by their names, for the command line: from the environment, or from a file of the user's.

Only a name is ever on a command line or in a journal.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import platformdirs
from msgspec import Struct

from meowcat.core.errors import InvalidArgument
from meowcat.protocols.credentials import AccessKey, AzureKey, AzureSas, BearerToken, Credential

__all__ = ["ALIYUN", "AZURE", "DEFAULT", "FILE_VARIABLE", "credential_named", "credentials_file"]

FILE_VARIABLE = "MEOWCAT_CREDENTIALS"
"""Names another file."""
DEFAULT = "default"
"""This name, and `env`, are those of the variables that all tools for S3 know."""
ALIYUN = "aliyun"
"""This one is that of the variables that all tools for Aliyun know."""
AZURE = "azure"
"""And this one that of the variables that all tools for Azure Storage know."""


class _Form(Struct, frozen=True):
    """How one kind of credential is written down."""

    make: Callable[..., Credential]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    """Fields that say nothing by themselves: an account goes with a SAS, too."""

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.needed, *self.optional)

    def is_meant(self, given: Mapping[str, object]) -> bool:
        return any(given.get(field) is not None for field in self.fields if field not in self.shared)


_KEY = _Form(
    lambda access_key_id, secret_access_key, session_token=None: AccessKey(
        id=access_key_id, secret=secret_access_key, token=session_token
    ),
    ("access_key_id", "secret_access_key"),
    ("session_token",),
)
_ACCOUNT = _Form(
    lambda account, account_key: AzureKey(account=account, key=account_key),
    ("account", "account_key"),
    shared=("account",),
)
_SAS = _Form(lambda sas_token: AzureSas(token=sas_token), ("sas_token",))
_TOKEN = _Form(lambda bearer_token: BearerToken(token=bearer_token), ("bearer_token",))
_FORMS = (_KEY, _ACCOUNT, _SAS, _TOKEN)
_FIELDS = tuple(field for form in _FORMS for field in form.fields)

_AWS = (_KEY, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
_KNOWN: dict[str, tuple[tuple[_Form, tuple[str, ...]], ...]] = {
    DEFAULT: (_AWS,),
    "env": (_AWS,),
    ALIYUN: (
        (
            _KEY,
            (
                "ALIBABA_CLOUD_ACCESS_KEY_ID",
                "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
                "ALIBABA_CLOUD_SECURITY_TOKEN",
            ),
        ),
        (_KEY, ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN")),
    ),
    AZURE: (
        (_ACCOUNT, ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY")),
        (_SAS, ("AZURE_STORAGE_SAS_TOKEN",)),
    ),
}
"""Variables by the names that they stand for, in the order of the fields; several sets, the first that is
there counts."""


def credentials_file() -> Path:
    """Where the file is, whether there is one or not."""
    named = os.environ.get(FILE_VARIABLE)
    return Path(named) if named else platformdirs.user_config_path("meowcat") / "credentials.toml"


def credential_named(name: str) -> Credential:
    """The credential of that name: the environment's, else the file's.

    Raises:
        InvalidArgument: it is nowhere, or not whole, or others may read the file. Says where it is looked
            for, and never what was found.
    """
    found = _of_environment(name) or _of_file(name)
    if found is None:
        sets = [variables[: len(form.needed)] for form, variables in _variables(name)]
        forms = _FORMS if name not in _KNOWN else tuple(form for form, _ in _KNOWN[name])
        fields = dict.fromkeys(" and ".join(form.needed) for form in forms)
        raise InvalidArgument(
            f"credential {name!r}: none is there; set {', or '.join(' and '.join(each) for each in sets)}, "
            f"or add [{name}] with {', or '.join(fields)} to {credentials_file()}"
        )
    return found


def _variables(name: str) -> tuple[tuple[_Form, tuple[str, ...]], ...]:
    """The sets of variables in which it is looked for."""
    prefix = f"MEOWCAT_CREDENTIAL_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_"
    own = tuple((form, tuple(prefix + field.upper() for field in form.fields)) for form in _FORMS)
    return _KNOWN.get(name, own)


def _of_environment(name: str) -> Credential | None:
    for form, variables in _variables(name):
        spelled = dict(zip(form.fields, variables, strict=True))
        given = {field: os.environ.get(variable) or None for field, variable in spelled.items()}
        if form.is_meant(given):
            return _made(form, f"credential {name!r}: the environment's ", spelled.__getitem__, given)
    return None


def _of_file(name: str) -> Credential | None:
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
    meant = [form for form in _FORMS if form.is_meant(table)]
    if len(meant) > 1:
        raise InvalidArgument(f"{path}: [{name}] has more than one credential; give each a table of its own")
    return _made(meant[0] if meant else _KEY, f"{path}: [{name}] ", str, table)


def _made(form: _Form, where: str, spelled: Callable[[str], str], given: Mapping[str, object]) -> Credential:
    """The fields as a credential; `spelled` says how a field is called there."""
    texts: dict[str, str] = {}
    for field in form.fields:
        value = given.get(field)
        if value is None and field in form.optional:
            continue
        if not isinstance(value, str) or not value.strip():
            raise InvalidArgument(f"{where}{spelled(field)} is missing, or no text")
        texts[field] = value.strip()
    return form.make(**texts)
