"""Uploads and orphans from outside: what is refused, where files go, what is told. No network."""

import json
import os

import pytest
from click.testing import CliRunner

from meowcat.cli import main, orphans
from meowcat.cli.exits import Exit
from meowcat.cli.journals import resume_command
from meowcat.cli.objects import Objects
from meowcat.cli.orphans import Left, orphan_object
from meowcat.cli.parcels import parcels_of
from meowcat.cli.signers import named_by, required, signers_named
from meowcat.cli.targets import wanted_of
from meowcat.cli.views import standing_text
from meowcat.core import events as ev
from meowcat.core.errors import InvalidArgument
from meowcat.core.info import Orphan, info_of
from meowcat.core.machine import State
from meowcat.core.state import fold
from meowcat.core.transfers import ProtocolSpec, Upload
from meowcat.core.values import Fault, FaultKind, TaskId
from meowcat.core.waits import WaitingFor
from meowcat.protocols.form_upload import FormUpload
from meowcat.protocols.s3 import S3

SECRET = "hunter2-is-secret"
FORM = "https://host/upload"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("put", "x.bin", URL)` in a folder with a file, a folder, and no credentials."""
    monkeypatch.chdir(tmp_path)
    for name in [
        name for name in os.environ if name.startswith(("AWS_", "ALIBABA_", "OSS_", "AZURE_", "MEOWCAT_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEOWCAT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MEOWCAT_CREDENTIALS", str(tmp_path / "credentials.toml"))
    (tmp_path / "x.bin").write_bytes(b"bytes")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.bin").write_bytes(b"other bytes")
    os.mkfifo(tmp_path / "pipe")
    return lambda *words: CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("command", ["put", "orphans"])
def test_the_commands_have_help_with_examples(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"  meowcat {command}" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-", FORM], "write it to a file first"),
        (["x.bin"], "x.bin: expected the URL to put it to as well, as in 'meowcat put FILE URL'"),
        ([FORM], f"{FORM}: expected the FILE to put there as well"),
        (["none", FORM], "none: there is no such file"),
        (["sub", FORM], "is a folder; name its files, as in sub/*"),
        (["pipe", FORM], "is no regular file"),
        (["x.bin", "ftp://host/x"], "expected http or https"),
        (["x.bin", FORM, "--method", "GET"], "method 'GET'"),
        (["x.bin", FORM, "--credential", "prod"], "--credential is for s3://BUCKET/KEY"),
        (["x.bin", FORM, "--metadata", "a=b"], "--metadata is for s3://BUCKET/KEY"),
        (["x.bin", "s3://bucket/x", "--category", "a"], "--category is for form uploads"),
        (["x.bin", "s3://bucket/x", "--metadata", "a"], "expected NAME=VALUE"),
        (["x.bin", "s3://b/x"], "bucket 'b'"),
        (["x.bin", "s3://bucket/x", "--endpoint", "host:9000"], "endpoint"),
        (["x.bin", "s3://bucket/x", "--style", "odd"], "'odd' is not one of"),
        (["x.bin", "s3://bucket/x", "--credential", "prod"], "MEOWCAT_CREDENTIAL_PROD_ACCESS_KEY_ID"),
        (["x.bin", "s3://bucket/x"], "AWS_ACCESS_KEY_ID"),
        (["x.bin", "s3://bucket/x", "--additional-header", "host"], "means nothing to s3://BUCKET/KEY"),
        (["x.bin", "oss://bucket/x"], "in which region is the bucket?"),
        (["x.bin", "oss://bucket/x", "--region", "cn-hangzhou"], "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        (["x.bin", "oss://bucket/x", "--part-checksum", "sha256"], "checksum 'sha256'"),
        (["x.bin", "oss://bucket/x", "--category", "a"], "--category is for form uploads"),
        (["x.bin", FORM, "--additional-header", "host"], "is for s3://BUCKET/KEY, oss://BUCKET/KEY"),
        (["x.bin", "azure://container/x"], "does not say whose container it is"),
        (["x.bin", "azure://container/x", "--account", "acct"], "AZURE_STORAGE_SAS_TOKEN"),
        (["x.bin", "azure://container/x", "--region", "r"], "--region means nothing to azure://CONTAINER/BLOB"),
        (["x.bin", "azure://container/x", "--style", "path"], "--style means nothing to azure://"),
        (["x.bin", "azure://container/x", "--account", "acct", "--metadata", "a-b=1"], "names of variables"),
        (["x.bin", "s3://bucket/x", "--tier", "Cool"], "--tier means nothing to s3://BUCKET/KEY"),
        (["x.bin", "s3://bucket/x", "--overwrite"], "--overwrite means nothing to s3://BUCKET/KEY"),
        (["x.bin", "sub/x.bin", "s3://bucket/x"], "for several files it has to be a bucket"),
        (["x.bin", "sub/x.bin", "s3://bucket/a/"], "more than one of the files would go there"),
        (["x.bin", "x.bin", FORM], "more than one of the files would go there"),
        (["x.bin", "sub/x.bin", FORM, "--key", "k"], "--key is for one file"),
        (["x.bin", FORM, "--piece-size", "big"], "'big' is no size"),
        (["x.bin", FORM, "-H", SECRET], "expected 'NAME: VALUE'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_no_journal(run, tmp_path, words, told):
    result = run("put", *words)
    assert result.exit_code == Exit.USAGE
    assert result.stdout == ""
    assert result.stderr.startswith("meowcat: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert SECRET not in result.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["s3://bucket/a/"], "is a folder; expected an object"),
        (["s3://b/x"], "bucket 'b'"),
        (["s3://bucket/x"], "AWS_ACCESS_KEY_ID"),
        (["oss://bucket/a/", "--region", "cn-hangzhou"], "expected an object, oss://BUCKET/KEY"),
        (["oss://bucket/x", "--region", "cn-hangzhou"], "ALIBABA_CLOUD_ACCESS_KEY_ID"),
        (["azure://container/x/", "--account", "acct"], "expected an object, azure://CONTAINER/BLOB"),
        (["azure://container/x", "--account", "acct", "--snapshot", "1", "--version-id", "2"], "give one"),
        (["azure://container/x", "--account", "acct"], "AZURE_STORAGE_KEY"),
        (["https://host/x", "--account", "acct"], "oss://BUCKET/KEY, azure://CONTAINER/BLOB"),
        (["https://host/x", "--version-id", "1"], "--version-id is for s3://BUCKET/KEY"),
        (["https://host/x", "--anonymous"], "--anonymous is for s3://BUCKET/KEY"),
    ],
)
def test_what_get_refuses_of_objects(run, tmp_path, words, told):
    result = run("get", *words)
    assert result.exit_code == Exit.USAGE
    assert told in result.stderr
    assert not (tmp_path / "state").exists()


def test_a_server_in_the_environment_hurts_no_other_transfer(run, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    result = run("put", "x.bin", FORM, "--paused")
    assert result.exit_code == 0, result.stderr


def test_the_environment_names_the_server(run, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example")
    assert run("put", "x.bin", "s3://bucket/", "--paused").exit_code == 0
    (task,) = json.loads(run("ls", "--all", "--json").stdout)
    assert task["url"] == "https://s3.example/bucket/x.bin"


def test_each_kind_of_server_has_variables_of_its_own(run, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("OSS_REGION", "cn-hangzhou")
    result = run("put", "x.bin", "oss://bucket/isos/", "--additional-header", "host", "--paused")
    assert result.exit_code == 0, result.stderr
    (task,) = json.loads(run("ls", "--all", "--json").stdout)
    assert task["url"] == "https://bucket.oss-cn-hangzhou.aliyuncs.com/isos/x.bin"


def test_what_is_only_recorded_needs_no_credential(run):
    result = run("put", "x.bin", "s3://bucket/x", "--credential", "prod", "--paused", "--json")
    assert result.exit_code == 0, result.output
    (task,) = json.loads(run("ls", "--all", "--json").stdout)
    assert (task["state"], task["direction"]) == ("Paused", "upload")


@pytest.mark.parametrize(
    ("url", "goes_to"),
    [
        ("s3://bucket", "https://s3.us-east-1.amazonaws.com/bucket/x.bin"),
        ("s3://bucket/", "https://s3.us-east-1.amazonaws.com/bucket/x.bin"),
        ("s3://bucket/a/b/", "https://s3.us-east-1.amazonaws.com/bucket/a/b/x.bin"),
        ("s3://bucket/a/y", "https://s3.us-east-1.amazonaws.com/bucket/a/y"),
        ("s3://bucket/a?b%20c", "https://s3.us-east-1.amazonaws.com/bucket/a%3Fb%2520c"),
    ],
)
def test_a_key_that_ends_with_a_slash_is_a_folder(run, url, goes_to):
    (parcel,) = parcels_of(["x.bin"], url, S3(style="path").spec())
    assert parcel.url == goes_to
    assert parcel.source.endswith("/x.bin")


def test_a_form_takes_files_of_the_same_name(run):
    parcels = parcels_of(["x.bin", "sub/x.bin"], FORM, FormUpload().spec())
    assert [each.url for each in parcels] == [FORM, FORM]


def test_an_object_is_got_by_its_name_whatever_a_server_says(tmp_path):
    (tmp_path / "out").mkdir()
    (wanted,) = wanted_of(["s3://bucket/a/b%20c?.iso"], f"{tmp_path}/out/", None, Objects({"style": "path"}))
    assert wanted.path == tmp_path / "out" / "b%20c_.iso"
    assert wanted.mark is None
    assert wanted.spec.fields["key"] == "a/b%20c?.iso"


def test_a_credential_is_looked_up_again_whenever_it_is_asked_for(run, monkeypatch):
    for number in "12":
        for field in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            monkeypatch.setenv(f"MEOWCAT_CREDENTIAL_PROD_{field}", f"{field}-{number}")
        if number == "1":
            (provider,) = required(S3(credential="prod").spec()).values()
        assert provider().id == f"ACCESS_KEY_ID-{number}"
    assert required(S3(credential=None).spec()) == {}
    assert required(FormUpload().spec()) == {}


def test_a_credential_that_is_nowhere_is_told_and_hurts_no_other(run, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    signers = signers_named(["default", "prod", "prod"])
    assert list(signers.found) == ["default"]
    assert list(signers.missing) == ["prod"]
    assert "MEOWCAT_CREDENTIAL_PROD_ACCESS_KEY_ID" in signers.missing["prod"]
    with pytest.raises(InvalidArgument):
        required(S3(credential="prod").spec())


def test_the_names_of_tasks_credentials_are_taken_from_what_they_need():
    def task(name, *needs):
        request = Upload("/x", "https://host/x", ProtocolSpec("s3"), needs=needs)
        return fold([ev.Created(state=State.QUEUED, task=TaskId(name), key=name, at=0, request=request)])

    tasks = [task("A", "credential:prod", "header:cookie"), task("B"), task("C", "credential:prod")]
    assert named_by(tasks) == ["prod"]


def test_what_goes_on_names_what_has_to_be_given_again_and_nothing_else():
    needs = ("url", "header:authorization", "credential:prod", "protocol:mine", "source:x", "data", "plan")
    command = resume_command("t.db", needs)
    assert command == "meowcat resume --journal t.db --url URL --header 'authorization: VALUE' --plan FILE"


def test_what_has_run_out_is_told_with_what_is_needed():
    request = Upload("/x", "https://host/x", ProtocolSpec("s3"), needs=("credential:prod",))
    created = ev.Created(state=State.QUEUED, task=TaskId("T"), key="k", at=0, request=request)
    failed = ev.AttemptFailed(
        state=State.QUEUED,
        fault=Fault(kind=FaultKind.EXPIRED, detail="the token has ended"),
        attempt=1,
        waiting_for=WaitingFor.SUPPLY,
        delay=None,
    )
    waits = ev.Waiting(state=State.QUEUED, waiting_for=WaitingFor.SUPPLY, names=request.needs)
    assert standing_text(info_of(fold([created, waits]))) == "supply: credential:prod"
    text = standing_text(info_of(fold([created, failed, waits])))
    assert text == "supply: credential:prod: the token has ended"


# Orphans


def orphan(**fields):
    base = {"task": TaskId("01ARZ3NDEKTSV4RRFFQ69G5FAV"), "url": "https://host/x", "session": "s1"}
    return Orphan(**base | {"ours": True, "kept": False, "detail": "as the test wants it"} | fields)


def test_without_journals_there_are_no_orphans(run, tmp_path):
    assert run("orphans").stderr == "no orphans\n"
    assert json.loads(run("orphans", "--abort", "--json").stdout) == []
    assert run("orphans", "--journal", "none.db").exit_code == Exit.JOURNAL
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "1 session to be removed: 'meowcat orphans --abort' tries again"),
        ({"kept": True}, "1 session kept by Failed tasks: 'meowcat retry TASK'"),
        ({"ours": False}, "1 session not proved to be meowcat's: they are never removed by it"),
    ],
)
def test_each_kind_of_orphan_has_its_advice(capsys, fields, told):
    orphans._print([Left("t.db", orphan(begun=1_700_000_000_000, **fields))])
    out, err = capsys.readouterr()
    assert "s1" in out
    assert "https://host/x" in out
    assert "2023-11-1" in out
    assert err.startswith(told)
    assert err.count("\n") == 1


def test_what_was_removed_needs_no_advice(capsys):
    orphans._print([Left("t.db", orphan(), removed=True)])
    out, err = capsys.readouterr()
    assert out.endswith("removed\n")
    assert err == ""


@pytest.mark.parametrize(
    ("fields", "removed", "owed"),
    [({}, False, True), ({}, True, False), ({"kept": True}, False, False), ({"ours": False}, False, False)],
)
def test_only_what_is_ours_and_of_no_use_is_owed(fields, removed, owed):
    assert Left("t.db", orphan(**fields), removed).owed is owed


def test_an_orphan_as_json_has_no_secret(run):
    left = orphan_object(Left("t.db", orphan(detail=f"https://u:{SECRET}@host/x?sig={SECRET} said no")))
    assert SECRET not in str(left)
    assert left["begun"] is None
