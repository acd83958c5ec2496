"""One large upload through the whole engine, against others in the same run.

    python tests/bench/bench_uploads.py s3  [--size BYTES] [--rounds N] [--folder FOLDER]
    python tests/bench/bench_uploads.py put [--size BYTES] [--rounds N]

`s3`: 8 MiB parts, 4 at once, to SeaweedFS, against boto3's transfer manager and rclone. `put`: the same parts
as presigned PUTs to a server that discards them, against a plain httpx script.

Each upload is a process of its own. Runs take turns; medians are printed, and the ratios of each round. The
source is in memory-backed files, and so is what SeaweedFS keeps unless `--folder` says otherwise. Seconds are
those of the transfer, without the start of the process, but for rclone, which is measured as a whole (it
starts in some 50 ms).
"""

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import anyio
import httpx

import meowcat
from meowcat.core.plans import PlanPart, UploadPlan
from meowcat.protocols.credentials import AccessKey
from meowcat.testing.s3_servers import SeaweedFS

MIB = 1 << 20
PART = 8 * MIB
CONNECTIONS = 4
MEMORY = Path("/dev/shm")
DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0
"""Linux drops bytes of a stream so without copying them (tcp(7)): the server takes next to nothing of the
processors that it shares with who is measured."""


def figures(began, cpu):
    """Since `began`, with the process' own CPU time since `cpu` and the most memory it ever had."""
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def by_meowcat(request, journal, **engine):
    config = meowcat.Config(durability="process", control=False)
    async with meowcat.Engine(journal, config=config, **engine) as opened:
        began, cpu = time.perf_counter(), time.process_time()
        task = await opened.submit(request)
        await task.result()
        return figures(began, cpu)


# S3


def s3_meowcat(file, to):
    key = AccessKey(id=to["id"], secret=to["secret"])
    protocol = meowcat.S3(endpoint=to["endpoint"], style="path")
    request = meowcat.Upload(
        file, f"s3://{to['bucket']}/{to['name']}", protocol, piece_size=PART, connections=CONNECTIONS
    )
    return anyio.run(lambda: by_meowcat(request, to["journal"], credentials={"default": key}))


def s3_boto3(file, to):
    import boto3  # not in the memory of the others
    from boto3.s3.transfer import TransferConfig  # as above

    client = boto3.client(
        "s3",
        endpoint_url=to["endpoint"],
        aws_access_key_id=to["id"],
        aws_secret_access_key=to["secret"],
        region_name="us-east-1",
    )
    config = TransferConfig(multipart_chunksize=PART, max_concurrency=CONNECTIONS)
    began, cpu = time.perf_counter(), time.process_time()
    client.upload_file(file, to["bucket"], to["name"], Config=config)
    return figures(began, cpu)


def s3_rclone(file, to):
    program = Path(sys.executable).parent / "rclone"
    remote = f":s3,provider=Other,access_key_id={to['id']},secret_access_key={to['secret']}"
    remote += f",endpoint='{to['endpoint']}',chunk_size=8M,upload_concurrency={CONNECTIONS}:"
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [program, "copyto", file, f"{remote}{to['bucket']}/{to['name']}", "--config", "/dev/null"],
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "rss_mb": after.ru_maxrss / 1024,
    }


# PUTs to a server that discards them


def put_meowcat(file, to):
    size = Path(file).stat().st_size
    parts = [
        PlanPart(number, at, min(PART, size - at), f"{to['origin']}/object?partNumber={number}")
        for number, at in enumerate(range(0, size, PART), 1)
    ]
    plan = UploadPlan(total_size=size, chunk_size=PART, parts=tuple(parts))
    request = meowcat.Upload(file, "", meowcat.PresignedUpload(plan=plan), connections=CONNECTIONS)
    return anyio.run(lambda: by_meowcat(request, to["journal"]))


def put_httpx(file, to):
    path = Path(file)
    return anyio.run(put_by_httpx, path, path.stat().st_size, to["origin"])


async def put_by_httpx(path, size, origin):
    """What somebody would write who has httpx, and no time."""
    began, cpu = time.perf_counter(), time.process_time()
    limit = anyio.Semaphore(CONNECTIONS)
    async with httpx.AsyncClient(timeout=60) as client, anyio.create_task_group() as group:

        async def put(number, at):
            async with limit:
                with path.open("rb") as source:  # as such scripts do
                    source.seek(at)
                    data = source.read(PART)
                reply = await client.put(f"{origin}/object?partNumber={number}", content=data)
                reply.raise_for_status()

        for number, at in enumerate(range(0, size, PART), 1):
            group.start_soon(put, number, at)
    return figures(began, cpu)


class Discarding:
    """A server in a process of its own that reads bodies, and answers 200 with an ETag."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--discard"], stdout=subprocess.PIPE, text=True
        )
        return f"http://127.0.0.1:{self._process.stdout.readline().strip()}"

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()


def discard():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


def serve(connection):
    room = memoryview(bytearray(MIB))
    rest = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in rest:
                if not (count := connection.recv_into(room)):
                    return
                rest += bytes(room[:count])
            head, _, rest = rest.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            left = int(fields[b"content-length"]) - len(rest)
            while left > 0:
                left -= connection.recv_into(room, min(MIB, left), DISCARD)
            rest = b""
            connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')


# The comparison


CLIENTS = {
    "s3": {"meowcat": s3_meowcat, "boto3": s3_boto3, "rclone": s3_rclone},
    "put": {"meowcat": put_meowcat, "httpx": put_httpx},
}


def apart(kind, name, file, to):
    """One upload in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, kind, "--child", name, file, json.dumps(to)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(kind, file, rounds, target):
    """Print the medians of all clients, and by how much meowcat is faster, round by round."""
    results = {name: [] for name in CLIENTS[kind]}
    for number in range(rounds):
        for name, runs in results.items():
            runs.append(apart(kind, name, str(file), target(name, number)))
    size = file.stat().st_size
    for name, runs in results.items():
        shown = {key: median(run[key] for run in runs) for key in runs[0]}
        print(f"{name:8} {size / shown['seconds'] / 1e9:5.2f} GB/s ", end="")
        print("  ".join(f"{key} {value:.3g}" for key, value in shown.items()))
    for name, runs in results.items():
        if name != "meowcat":
            pairs = zip(results["meowcat"], runs, strict=True)
            ratios = [theirs["seconds"] / mine["seconds"] for mine, theirs in pairs]
            print(f"speed of {name}'s: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(CLIENTS), nargs="?")
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=MEMORY if MEMORY.is_dir() else None)
    parser.add_argument("--discard", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.discard:
        discard()
    if options.child:
        name, file, to = options.child
        print(json.dumps(CLIENTS[options.kind][name](file, json.loads(to))))
        return
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        file = Path(folder) / "source.bin"
        make_source(file, options.size)
        for kind in [options.kind] if options.kind else CLIENTS:
            print(f"== {kind}, {options.size / MIB:,.0f} MiB")
            (with_seaweedfs if kind == "s3" else with_discarding)(file, Path(folder), options)


def make_source(file, size):
    """Random bytes, which are as old as those of files that somebody uploads: one that was written a moment
    ago is read again at the end, by whoever wants to know whether it was written to meanwhile."""
    with file.open("wb") as written:
        for _ in range(0, size, MIB):
            written.write(os.urandom(MIB))
    time.sleep(3)


def with_seaweedfs(file, folder, options):
    data = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        with SeaweedFS(data) as server:

            def target(name, number):
                return {
                    "endpoint": server.origin,
                    "bucket": server.bucket,
                    "name": f"{name}-{number}",
                    "id": server.key.id,
                    "secret": server.key.secret,
                    "journal": f"{folder}/{number}.db",
                }

            compare("s3", file, options.rounds, target)
    finally:
        shutil.rmtree(data)


def with_discarding(file, folder, options):
    with Discarding() as origin:
        compare(
            "put",
            file,
            options.rounds,
            lambda _, number: {"origin": origin, "journal": f"{folder}/p{number}.db"},
        )


if __name__ == "__main__":
    main()
