"""Where the command line finds the credentials whose names it is given."""

import os

import pytest

from meowcat.cli.credentials import credential_named, credentials_file
from meowcat.core.errors import InvalidArgument
from meowcat.protocols.credentials import AccessKey, AzureKey, AzureSas, BearerToken


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("AWS_", "ALIBABA_", "OSS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("MEOWCAT_CREDENTIALS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def file():
    path = credentials_file()
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(text, mode=0o600):
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def refusal(name):
    with pytest.raises(InvalidArgument) as refused:
        credential_named(name)
    assert "hidden" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("default", "AWS_"),
        ("env", "AWS_"),
        ("prod", "MEOWCAT_CREDENTIAL_PROD_"),
        ("eu-1.backup", "MEOWCAT_CREDENTIAL_EU_1_BACKUP_"),
    ],
)
def test_from_the_environment(monkeypatch, name, prefix):
    monkeypatch.setenv(f"{prefix}ACCESS_KEY_ID", "AK")
    monkeypatch.setenv(f"{prefix}SECRET_ACCESS_KEY", "hidden\n")
    assert credential_named(name) == AccessKey(id="AK", secret="hidden")
    monkeypatch.setenv(f"{prefix}SESSION_TOKEN", "hidden-2")
    assert credential_named(name).token == "hidden-2"


@pytest.mark.parametrize(
    ("prefix", "token"),
    [("ALIBABA_CLOUD_", "ALIBABA_CLOUD_SECURITY_TOKEN"), ("OSS_", "OSS_SESSION_TOKEN")],
)
def test_what_all_tools_for_aliyun_know(monkeypatch, prefix, token):
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET" in refusal("aliyun")
    monkeypatch.setenv(f"{prefix}ACCESS_KEY_ID", "AK")
    assert f"{prefix}ACCESS_KEY_SECRET is missing" in refusal("aliyun")
    monkeypatch.setenv(f"{prefix}ACCESS_KEY_SECRET", "hidden")
    monkeypatch.setenv(token, "hidden-2")
    assert credential_named("aliyun") == AccessKey(id="AK", secret="hidden", token="hidden-2")


def test_what_all_tools_for_azure_know(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    text = refusal("azure")
    assert (
        "set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY, or AZURE_STORAGE_SAS_TOKEN, or add [azure]" in text
    )
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "acct")  # which goes with a SAS, too
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sig=hidden")
    assert credential_named("azure") == AzureSas(token="sig=hidden")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "aGlkZGVu")
    assert credential_named("azure") == AzureKey(account="acct", key="aGlkZGVu")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    assert "AZURE_STORAGE_ACCOUNT is missing" in refusal("azure")


def test_credentials_of_azure_by_names_of_ones_own(monkeypatch, file):
    file(
        '[a]\naccount = "acct"\naccount_key = "aGlkZGVu"\n[b]\nsas_token = "sig=hidden"\n'
        '[c]\nbearer_token = "hidden"\n[d]\nsas_token = "hidden"\nbearer_token = "hidden"\n'
    )
    assert credential_named("a") == AzureKey(account="acct", key="aGlkZGVu")
    assert credential_named("b") == AzureSas(token="sig=hidden")
    assert credential_named("c") == BearerToken(token="hidden")
    assert "[d] has more than one credential" in refusal("d")
    monkeypatch.setenv("MEOWCAT_CREDENTIAL_B_BEARER_TOKEN", "first")
    assert credential_named("b") == BearerToken(token="first")


def test_from_the_file(file):
    file(
        '[prod]\naccess_key_id = "AK"\nsecret_access_key = "s"\nsession_token = "t"\n[default]\n'
        'access_key_id = "D"\nsecret_access_key = "d"\n'
    )
    assert credential_named("prod") == AccessKey(id="AK", secret="s", token="t")
    assert credential_named("default").id == "D"


def test_a_file_of_another_place(monkeypatch, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[prod]\naccess_key_id = "AK"\nsecret_access_key = "s"\n')
    path.chmod(0o600)
    monkeypatch.setenv("MEOWCAT_CREDENTIALS", str(path))
    assert credential_named("prod").id == "AK"


def test_the_environment_goes_first(monkeypatch, file):
    file('[prod]\naccess_key_id = "FILE"\nsecret_access_key = "s"\n')
    monkeypatch.setenv("MEOWCAT_CREDENTIAL_PROD_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("MEOWCAT_CREDENTIAL_PROD_SECRET_ACCESS_KEY", "s")
    assert credential_named("prod").id == "ENV"


def test_what_is_nowhere_says_where_to_put_it():
    text = refusal("prod")
    assert "set MEOWCAT_CREDENTIAL_PROD_ACCESS_KEY_ID and MEOWCAT_CREDENTIAL_PROD_SECRET_ACCESS_KEY" in text
    kinds = "access_key_id and secret_access_key, or account and account_key, or sas_token, or bearer_token"
    assert f"or add [prod] with {kinds} to {credentials_file()}" in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(file, mode):
    path = file('[prod]\naccess_key_id = "AK"\nsecret_access_key = "hidden"\n', mode)
    assert refusal("prod") == f"{path}: others may read or change it (mode {mode:o}); chmod 600 it"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[prod]\naccess_key_id = "AK"\n', "[prod] secret_access_key is missing"),
        (
            '[prod]\naccess_key_id = 7\nsecret_access_key = "hidden"\n',
            "[prod] access_key_id is missing, or no text",
        ),
        ('[prod]\nsecret = "hidden"\n', "[prod] has 'secret'; expected only access_key_id"),
        ('prod = "hidden"\n', "prod is no table"),
        ('[prod\nsecret_access_key = "hidden"', "it is no TOML"),
        ('[prod]\naccess_key_id = "AK"\nsecret_access_key = "hidden"\nsession_token = ""\n', "session_token"),
    ],
)
def test_a_file_that_is_not_whole_says_what_is_missing(file, text, says):
    file(text)
    assert says in refusal("prod")


def test_half_a_credential_in_the_environment_says_which_half(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    assert "AWS_SECRET_ACCESS_KEY is missing" in refusal("default")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert "AWS_ACCESS_KEY_ID is missing" in refusal("default")


def test_a_file_that_can_not_be_read_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("MEOWCAT_CREDENTIALS", str(tmp_path))
    assert "directory" in refusal("prod")
