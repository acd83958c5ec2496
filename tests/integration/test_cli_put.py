"""The real command line, in real processes, to real servers: put, kill, go on, get back, leave nothing."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from random import Random

import alibabacloud_oss_v2 as oss_sdk
import boto3
import botocore.config
import pytest
from form_harness import FormServer, md5_of

MIB = 1 << 20
SECRET = "hunter2-is-secret"
AUTHORIZATION = f"Authorization: Bearer {SECRET}"


class Shell:
    """Runs `meowcat` in a folder, with a state folder and an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MEOWCAT_"))
            },
            "MEOWCAT_STATE_DIR": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "NO_PROXY": "*",
        }

    @contextmanager
    def start(self, *words):
        """A running `meowcat`, which does not outlive the block."""
        with subprocess.Popen(
            [sys.executable, "-m", "meowcat", *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *words) -> subprocess.CompletedProcess:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def killed(self, *words, at):
        """Run `put` until `at` bytes are confirmed, and kill -9 it."""
        with self.start(*words, "--json") as process:
            wait_until_confirmed(process, at)
            process.kill()

    def tasks(self, *words) -> list[dict]:
        return json.loads(self.run("ls", "--all", "--json", *words).stdout)

    def events(self, *words) -> list[dict]:
        return [json.loads(line) for line in self.run("log", "--json", *words).stdout.splitlines()]

    def file(self, name, size=3 * MIB + 17, seed=5) -> bytes:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        content = Random(seed).randbytes(size)
        path.write_bytes(content)
        return content


def wait_until_confirmed(process, count):
    """Reads what `put --json` prints, a line a second."""
    for line in process.stdout:
        told = json.loads(line)
        if told.get("bytes_done", 0) >= count:
            return
        assert told["type"] != "result", told
    raise AssertionError(process.stderr.read())


def sent_twice(events) -> list[int]:
    """The parts that were confirmed more than once."""
    numbers = [
        number
        for event in events
        if event["type"] == "sent"
        for begin, stop in event["event"]["pieces"]
        for number in range(begin, stop)
    ]
    return sorted(number for number in set(numbers) if numbers.count(number) > 1)


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


# Forms


@pytest.fixture
def form(tmp_path_factory):
    with FormServer(tmp_path_factory.mktemp("form")) as server:
        yield server


def form_file(form, content: bytes) -> bytes:
    return form.file(f"{md5_of(content)}-{len(content)}")


def test_a_put_brings_the_file_and_names_both_ends(shell, form):
    content = shell.file("x.bin")
    done = shell.run("put", "x.bin", form.url, "--category", "tests", "--piece-size", "1MiB")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{shell.folder}/x.bin -> {form.url}  3.0 MiB")
    assert form_file(form, content) == content
    assert form.names() == [(f"{md5_of(content)}-{len(content)}", "x.bin", "tests")]
    assert sorted(path.name for path in shell.folder.iterdir()) == ["state", "x.bin"]


def test_what_the_server_has_of_an_unchanged_file_is_not_sent_again(shell, form):
    shell.file("x.bin")
    words = ["put", "x.bin", form.url, "--journal", "t.db"]
    assert shell.run(*words).returncode == 0
    again = shell.run(*words)
    assert (again.returncode, len(shell.tasks("--journal", "t.db"))) == (0, 1)
    assert "complete already; 'put --again' sends it again" in again.stderr
    assert shell.run(*words, "--again").returncode == 0
    assert len(shell.tasks("--journal", "t.db")) == 2


@pytest.mark.parametrize("change", ["file", "server", "category", "digest"])
def test_what_is_complete_does_not_stand_for_something_else(shell, form, change):
    shell.file("x.bin")
    words = ["put", "x.bin", form.url, "--journal", "t.db"]
    assert shell.run(*words).returncode == 0
    content = shell.file("x.bin", seed=6) if change == "file" else (shell.folder / "x.bin").read_bytes()
    if change == "server":
        for path in (form.folder / "files").iterdir():
            path.unlink()
    more = {"category": ["--category", "other"], "digest": ["--digest", "sha256"]}.get(change, [])
    again = shell.run(*words, *more)
    assert again.returncode == 0, again.stderr
    assert [task["state"] for task in shell.tasks("--journal", "t.db")] == ["Complete", "Complete"]
    assert form_file(form, content) == content


def test_several_files_go_to_one_address(shell, form):
    contents = [
        shell.file(name, size, seed) for seed, (name, size) in enumerate([("a", 0), ("b", 1), ("c", MIB)])
    ]
    done = shell.run("put", "a", "b", "c", form.url, "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""
    assert [form_file(form, content) for content in contents] == contents


def test_the_same_put_goes_on_after_kill_9(shell, form):
    content = shell.file("x.bin", 16 * MIB)
    words = ["put", "x.bin", form.url, "--piece-size", "1MiB"]
    shell.killed(*words, "--limit-rate", "4MiB", at=4 * MIB)
    (before,) = shell.tasks()
    assert before["state"] == "Running"
    done = shell.run(*words)
    assert done.returncode == 0, done.stderr
    assert "goes on at" in done.stderr
    assert form_file(form, content) == content
    assert [(task["task"], task["state"]) for task in shell.tasks()] == [(before["task"], "Complete")]
    assert sent_twice(shell.events()) == []


def test_what_is_sent_again_and_was_killed_goes_on_although_it_was_complete_before(shell, form):
    shell.file("x.bin", 8 * MIB)
    words = ["put", "x.bin", form.url, "--piece-size", "1MiB", "--journal", "t.db"]
    assert shell.run(*words).returncode == 0
    assert shell.run(*words, "--again", "--paused").returncode == 0
    assert shell.run(*words).returncode == 0
    assert [task["state"] for task in shell.tasks("--journal", "t.db")] == ["Complete", "Complete"]


def test_resume_takes_up_an_upload_that_was_killed(shell, form):
    content = shell.file("x.bin", 8 * MIB)
    shell.killed("put", "x.bin", form.url, "--piece-size", "1MiB", "--limit-rate", "4MiB", at=2 * MIB)
    done = shell.run("resume")
    assert done.returncode == 0, done.stderr
    assert form_file(form, content) == content
    assert sent_twice(shell.events()) == []


def test_a_signal_leaves_the_upload_and_secrets_are_nowhere(shell, form):
    content = shell.file("x.bin", 16 * MIB)
    url = f"{form.url}?token={SECRET}"
    secrets = ["-H", AUTHORIZATION, "-H", f"X-Token: {SECRET}"]
    words = ["put", "x.bin", url, "--piece-size", "1MiB", "--limit-rate", "4MiB", *secrets]
    with shell.start(*words, "--json") as process:
        wait_until_confirmed(process, 2 * MIB)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    (stopped,) = [json.loads(line) for line in out.splitlines() if '"stopped"' in line]
    assert "--url URL --header 'authorization: VALUE' --header 'x-token: VALUE'" in stopped["resume"]
    (task,) = shell.tasks()
    assert task["state"] == "Queued"
    waits = shell.run("resume")
    assert waits.returncode == 4, waits.stderr
    texts = [out, err, waits.stdout, waits.stderr]
    for words in (["ls"], ["show", task["task"]], ["log"], ["log", "--json"], ["orphans"]):
        looked = shell.run(*words)
        texts += [looked.stdout, looked.stderr]
    done = shell.run("resume", task["task"], "--url", url, *secrets)
    assert done.returncode == 0, done.stderr
    texts += [done.stdout, done.stderr]
    assert not [text for text in texts if SECRET in text]
    files = [path for path in shell.folder.rglob("*") if path.is_file() and path.name != "x.bin"]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert form_file(form, content) == content


def test_a_paused_put_touches_no_network_until_it_is_resumed(shell, form):
    content = shell.file("x.bin")
    assert shell.run("put", "x.bin", form.url, "--paused").returncode == 0
    assert form.names() == []
    (task,) = shell.tasks()
    assert task["state"] == "Paused"
    assert shell.run("resume", task["task"][-5:]).returncode == 0
    assert form_file(form, content) == content


def test_a_journal_is_owned_by_one_put(shell, form):
    shell.file("x.bin", 16 * MIB)
    words = ["put", "x.bin", form.url, "--journal", "t.db"]
    with shell.start(*words, "--piece-size", "1MiB", "--limit-rate", "1MiB", "--json") as process:
        wait_until_confirmed(process, MIB)
        second = shell.run(*words)
        assert second.returncode == 3
        assert f"process {process.pid}" in second.stderr
        assert "'meowcat ls --watch --journal t.db' shows its tasks" in second.stderr


def test_a_source_that_changes_on_the_way_is_exit_code_1(shell, form):
    shell.file("x.bin", 16 * MIB)
    with shell.start(
        "put", "x.bin", form.url, "--piece-size", "1MiB", "--limit-rate", "4MiB", "--json"
    ) as process:
        wait_until_confirmed(process, MIB)
        shell.file("x.bin", 16 * MIB, seed=6)
        process.communicate(timeout=240)
    assert process.returncode == 1
    assert form.names() == []


# Objects


class S3Bucket:
    """A server that speaks S3, as its users see it."""

    options = ()

    def __init__(self, server, prefix):
        self.server = server
        self.prefix = prefix
        self.client = boto3.client(
            "s3",
            endpoint_url=server.origin,
            region_name=server.region,
            aws_access_key_id=server.key.id,
            aws_secret_access_key=server.key.secret,
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def url(self, name=""):
        return f"s3://{self.server.bucket}/{self.prefix}{name}"

    def _named(self, name):
        return {"Bucket": self.server.bucket, "Key": self.prefix + name}

    def read(self, name):
        return self.client.get_object(**self._named(name))["Body"].read()

    def described(self, name):
        """Its media type, and its metadata."""
        head = self.client.head_object(**self._named(name))
        return head["ContentType"], head["Metadata"]

    def put(self, name, content):
        self.client.put_object(**self._named(name), Body=content)

    def begin(self, name):
        return self.client.create_multipart_upload(**self._named(name))["UploadId"]

    def sessions(self):
        found = self.client.list_multipart_uploads(Bucket=self.server.bucket, Prefix=self.prefix)
        return [each["UploadId"] for each in found.get("Uploads", [])]


class OSSBucket:
    """The stand-in for OSS, as the users of the official SDK see it."""

    def __init__(self, server, prefix):
        self.server = server
        self.prefix = prefix
        self.options = ("--region", server.region)
        settings = oss_sdk.config.load_default()
        settings.credentials_provider = oss_sdk.credentials.StaticCredentialsProvider(
            server.key.id, server.key.secret
        )
        settings.region = server.region
        settings.endpoint = server.origin
        self.client = oss_sdk.Client(settings)

    def url(self, name=""):
        return f"oss://{self.server.bucket}/{self.prefix}{name}"

    def _asked(self, request, name, **more):
        return request(bucket=self.server.bucket, key=self.prefix + name, **more)

    def read(self, name):
        return self.client.get_object(self._asked(oss_sdk.GetObjectRequest, name)).body.read()

    def described(self, name):
        head = self.client.head_object(self._asked(oss_sdk.HeadObjectRequest, name))
        return head.content_type, head.metadata

    def put(self, name, content):
        self.client.put_object(self._asked(oss_sdk.PutObjectRequest, name, body=content))

    def begin(self, name):
        asked = self._asked(oss_sdk.InitiateMultipartUploadRequest, name)
        return self.client.initiate_multipart_upload(asked).upload_id

    def sessions(self):
        asked = oss_sdk.ListMultipartUploadsRequest(bucket=self.server.bucket, prefix=self.prefix)
        return [each.upload_id for each in self.client.list_multipart_uploads(asked).uploads or ()]


@pytest.fixture(params=["seaweedfs", "oss"])
def bucket(request, tmp_path):
    kind = OSSBucket if request.param == "oss" else S3Bucket
    return kind(request.getfixturevalue(request.param), f"{tmp_path.name}/")


@pytest.fixture
def keyed(shell, bucket):
    """The shell with the key of the server as the credential `prod`."""
    return with_key(shell, bucket)


NAMES = ("MEOWCAT_CREDENTIAL_PROD_ACCESS_KEY_ID", "MEOWCAT_CREDENTIAL_PROD_SECRET_ACCESS_KEY")


def with_key(shell, bucket):
    key = bucket.server.key
    shell.environment |= dict(zip(NAMES, (key.id, key.secret), strict=True))
    return shell


def without_key(shell):
    for name in NAMES:
        shell.environment.pop(name)
    return shell


def signed(bucket):
    return ["--endpoint", bucket.server.origin, "--credential", "prod", *bucket.options]


def test_an_object_is_put_and_got_back(keyed, bucket):
    content = keyed.file("x.bin", 20 * MIB + 3)
    metadata = ["--content-type", "application/x-iso", "--metadata", "origin=tests"]
    done = keyed.run("put", "x.bin", bucket.url("sub/y.bin"), *signed(bucket), *metadata)
    assert done.returncode == 0, done.stderr
    assert bucket.read("sub/y.bin") == content
    media_type, kept = bucket.described("sub/y.bin")
    assert (media_type, kept["origin"]) == ("application/x-iso", "tests")
    got = keyed.run("get", bucket.url("sub/y.bin"), *signed(bucket))
    assert got.returncode == 0, got.stderr
    assert (keyed.folder / "y.bin").read_bytes() == content
    again = keyed.run("get", bucket.url("sub/y.bin"), *signed(bucket))
    assert "complete already" in again.stderr
    assert keyed.run("get", bucket.url("sub/y.bin"), *signed(bucket), "-o", "z.bin").returncode == 0
    assert (keyed.folder / "z.bin").read_bytes() == content


def test_files_go_into_a_folder_of_keys_under_their_own_names(keyed, bucket):
    contents = {name: keyed.file(name, size, size) for name, size in [("a", 0), ("b c?", 1), ("sub/d", MIB)]}
    done = keyed.run("put", *contents, bucket.url("folder/"), *signed(bucket))
    assert done.returncode == 0, done.stderr
    for name, content in contents.items():
        assert bucket.read(f"folder/{Path(name).name}") == content
    again = keyed.run("put", *contents, bucket.url("folder/"), *signed(bucket))
    assert again.stderr.count("complete already") == 3
    bucket.put("folder/a", b"somebody's")
    third = keyed.run("put", *contents, bucket.url("folder/"), *signed(bucket))
    assert third.stderr.count("complete already") == 2
    assert bucket.read("folder/a") == b""


def test_an_upload_of_parts_goes_on_after_kill_9_and_leaves_no_session(keyed, bucket):
    content = keyed.file("x.bin", 40 * MIB)
    words = ["put", "x.bin", bucket.url("x.bin"), *signed(bucket), "--piece-size", "5MiB"]
    keyed.killed(*words, "--limit-rate", "8MiB", "--connections", "1", at=10 * MIB)
    assert len(bucket.sessions()) == 1
    done = keyed.run("resume")
    assert done.returncode == 0, done.stderr
    assert bucket.read("x.bin") == content
    assert bucket.sessions() == []
    assert sent_twice(keyed.events()) == []


def test_an_upload_whose_credential_is_nowhere_waits_and_says_so(keyed, bucket):
    content = keyed.file("x.bin", 20 * MIB)
    words = ["put", "x.bin", bucket.url("x.bin"), *signed(bucket)]
    keyed.killed(*words, "--piece-size", "5MiB", "--limit-rate", "4MiB", "--connections", "1", at=5 * MIB)
    shell = without_key(keyed)
    waits = shell.run("resume")
    assert waits.returncode == 4, waits.stderr
    assert NAMES[0] in waits.stderr
    assert "credential:prod" in waits.stderr
    refused = shell.run(*words)
    assert refused.returncode == 2
    assert NAMES[0] in refused.stderr
    assert with_key(shell, bucket).run("resume").returncode == 0
    assert bucket.read("x.bin") == content


def test_a_credential_is_nowhere_but_where_its_name_leads(keyed, bucket):
    keyed.file("x.bin", 20 * MIB)
    words = [
        "put",
        "x.bin",
        bucket.url("x.bin"),
        *signed(bucket),
        "--piece-size",
        "5MiB",
        "--limit-rate",
        "8MiB",
    ]
    with keyed.start(*words, "--json") as process:
        wait_until_confirmed(process, 5 * MIB)
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()
    texts = [line.decode()]
    for words in (["resume"], ["ls", "--all", "--json"], ["log", "--json"], ["orphans", "--json"]):
        done = keyed.run(*words)
        assert done.returncode == 0, done.stderr
        texts += [done.stdout, done.stderr]
    key = bucket.server.key
    assert not [text for text in texts if key.secret in text or key.id in text]
    files = [path for path in (keyed.folder / "state").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if key.secret.encode() in path.read_bytes()]
    assert not [path for path in files if key.id.encode() in path.read_bytes()]


# What is left behind


def killed_in_the_middle(shell, bucket):
    shell.file("x.bin", 20 * MIB)
    words = ["put", "x.bin", bucket.url("x.bin"), *signed(bucket), "--piece-size", "5MiB"]
    shell.killed(*words, "--limit-rate", "4MiB", "--connections", "1", at=5 * MIB)
    assert len(bucket.sessions()) == 1


def test_a_cancel_removes_the_session_at_the_server(keyed, bucket):
    killed_in_the_middle(keyed, bucket)
    done = keyed.run("cancel", "--all")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert bucket.sessions() == []
    assert keyed.run("orphans", "--json").stdout == "[]\n"


def test_a_session_that_a_cancel_could_not_remove_is_listed_and_removed_later(keyed, bucket):
    killed_in_the_middle(keyed, bucket)
    (session,) = bucket.sessions()
    shell = without_key(keyed)
    canceled = shell.run("cancel", "--all")
    assert canceled.returncode == 0
    assert "'meowcat orphans --abort'" in canceled.stderr
    assert bucket.sessions() == [session]
    assert "'meowcat orphans --abort'" in shell.run("resume").stderr
    refused = shell.run("orphans", "--abort", "--json")
    assert refused.returncode == 1
    assert NAMES[0] in refused.stderr
    (left,) = json.loads(refused.stdout)
    assert (left["session"], left["ours"], left["kept"], left["removed"]) == (session, True, False, False)
    assert bucket.sessions() == [session]
    listed = with_key(shell, bucket).run("orphans")
    assert listed.returncode == 0
    assert session in listed.stdout
    assert "1 session to be removed: 'meowcat orphans --abort' tries again" in listed.stderr
    assert bucket.sessions() == [session]
    removed = shell.run("orphans", "--abort")
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout.rstrip().endswith("removed")
    assert bucket.sessions() == []
    assert shell.run("orphans").stderr == "no orphans\n"


def test_the_owner_of_a_journal_is_asked_for_its_orphans(keyed, bucket, form):
    killed_in_the_middle(keyed, bucket)
    (session,) = bucket.sessions()
    (journal,) = (keyed.folder / "state").glob("*.db")
    shell = without_key(keyed)
    assert shell.run("cancel", "--all").returncode == 0
    shell.file("y.bin", 16 * MIB)
    words = ["put", "y.bin", form.url, "--journal", journal, "--piece-size", "1MiB", "--limit-rate", "1MiB"]
    with shell.start(*words, "--json") as owner:
        wait_until_confirmed(owner, MIB)
        tried = with_key(shell, bucket).run("orphans", "--abort", "--json")
        assert tried.returncode == 1
        (left,) = json.loads(tried.stdout)
        assert (left["session"], left["removed"]) == (session, False)
        assert owner.poll() is None


def test_sessions_of_others_are_never_touched(keyed, bucket):
    killed_in_the_middle(keyed, bucket)
    others = bucket.begin("x.bin")
    assert keyed.run("cancel", "--all").returncode == 0
    assert keyed.run("orphans", "--abort").returncode == 0
    assert bucket.sessions() == [others]
