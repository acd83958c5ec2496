"""`meowcat put` and `get` of blobs, in real processes, to a real server."""

import json
import time

import pytest
from azure_harness import fresh_key, stored, uncommitted
from test_cli_put import MIB, Shell, sent_twice

from meowcat.protocols.signing.sas import service_sas

pytestmark = pytest.mark.servers


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


@pytest.fixture
def keyed(shell, azurite):
    shell.environment |= {"AZURE_STORAGE_ACCOUNT": azurite.key.account, "AZURE_STORAGE_KEY": azurite.key.key}
    return shell


def url_of(server, name):
    return f"azure://{server.container}/{name}"


def test_there_and_back_and_not_twice(keyed, azurite):
    content, name = keyed.file("x.bin", 20 * MIB), fresh_key("x y.bin")
    words = ["put", "x.bin", url_of(azurite, name), "--endpoint", azurite.endpoint]
    done = keyed.run(*words, "--content-type", "text/x-made-up", "--metadata", "owner=me", "--tier", "Cool")
    assert done.returncode == 0, done.stderr
    assert stored(azurite, name) == content
    got = keyed.run("get", url_of(azurite, name), "-o", "back.bin", "--endpoint", azurite.endpoint)
    assert got.returncode == 0, got.stderr
    assert (keyed.folder / "back.bin").read_bytes() == content


def test_a_blob_that_is_there_stays_unless_told_otherwise(keyed, azurite):
    content, name = keyed.file("x.bin", MIB), fresh_key()
    words = ["put", "x.bin", url_of(azurite, name), "--endpoint", azurite.endpoint]
    assert keyed.run(*words).returncode == 0
    again = keyed.run(*words)
    assert again.returncode == 0, again.stderr  # it is there already, and is this file
    newer = keyed.file("x.bin", MIB, seed=6)
    refused = keyed.run(*words)
    assert refused.returncode == 1
    assert "object.bin exists; --overwrite replaces it" in refused.stderr
    assert stored(azurite, name) == content
    assert keyed.run(*words, "--overwrite").returncode == 0
    assert stored(azurite, name) == newer


def test_a_put_that_is_killed_goes_on_with_a_sas_of_a_name(shell, azurite):
    content, name = shell.file("x.bin", 24 * MIB), fresh_key()
    end = int(time.time() * 1000) + 3_600_000
    sas = service_sas(azurite.key, azurite.container, permissions="rcw", expires=end, https_only=False).query
    config = shell.folder / "config" / "meowcat" / "credentials.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[prod]\nsas_token = "{sas}"\n')
    config.chmod(0o600)
    words = ["put", "x.bin", url_of(azurite, name), "--endpoint", azurite.endpoint, "--credential", "prod"]
    words += ["--piece-size", "4MiB"]
    shell.killed(*words, "--limit-rate", "1MiB", "--connections", "1", at=4 * MIB)
    assert uncommitted(azurite, name)
    done = shell.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert stored(azurite, name) == content
    events = shell.events(shell.tasks()[0]["task"])
    assert sent_twice(events) == []
    signature = sas.rpartition("sig=")[2]
    held = [path for path in (shell.folder / "state").rglob("*") if path.is_file()]
    assert held
    assert not [path for path in held if signature.encode() in path.read_bytes()]
    assert signature not in done.stdout + done.stderr


def test_what_a_canceled_upload_leaves_is_told_and_nobody_can_remove_it(keyed, azurite):
    keyed.file("x.bin", 24 * MIB)
    name = fresh_key()
    words = ["put", "x.bin", url_of(azurite, name), "--endpoint", azurite.endpoint, "--piece-size", "4MiB"]
    keyed.killed(*words, "--limit-rate", "1MiB", "--connections", "1", at=4 * MIB)
    canceled = keyed.run("cancel", "--all")
    assert canceled.returncode == 0, canceled.stderr
    told = keyed.run("orphans", "--abort", "--json")
    assert told.returncode == 0, told.stderr
    (left,) = json.loads(told.stdout)
    assert (left["ours"], left["kept"], left["removed"], left["removable"]) == (True, False, False, False)
    assert "a week after" in left["detail"]
    assert uncommitted(azurite, name)
    shown = keyed.run("orphans")
    assert "1 session to be dropped by the server itself" in shown.stderr
