"""One object up and down through the whole engine, against the provider's own SDK in the same run.

    python tests/bench/bench_clouds.py oss|azure [--size BYTES] [--rounds N]

256 MiB in 8 MiB parts, 4 at once: to the stand-in for Aliyun OSS, against `alibabacloud-oss-v2`; and to
Azurite (`make azurite`), against `azure-storage-blob`. What comes down is compared with what went up. Source,
target, journal and server are in memory-backed files where there are any.

Each transfer is a process of its own. Runs take turns; medians are printed, and the ratios of each round.
Seconds are those of the transfer, without the start of the process.
"""

import argparse
import filecmp
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "servers"))
sys.path.insert(0, str(Path(__file__).parent))
from bench_uploads import CONNECTIONS, MEMORY, MIB, PART, figures, make_source
from oss_server import OSSServer

import meowcat
from meowcat.protocols.credentials import AccessKey, AzureKey
from meowcat.testing.azurite import Azurite


def by_meowcat(way, file, url, protocol, credential, journal):
    """Up or down, through an engine of its own."""
    size = {"piece_size": PART, "connections": CONNECTIONS}

    async def transfer():
        config = meowcat.Config(durability="process", control=False)
        async with meowcat.Engine(journal, config=config, credentials={"default": credential}) as engine:
            began, cpu = time.perf_counter(), time.process_time()
            if way == "up":
                await engine.upload(file, url, protocol=protocol, **size)
            else:
                await engine.download(url, file, protocol=protocol.spec(), **size)
            return figures(began, cpu)

    return anyio.run(transfer)


# Aliyun OSS


def oss_meowcat(way, file, to):
    protocol = meowcat.AliyunOSS(endpoint=to["endpoint"], region=to["region"])
    key = AccessKey(id=to["id"], secret=to["secret"])
    return by_meowcat(way, file, f"oss://{to['bucket']}/{to['name']}", protocol, key, to["journal"])


def oss_sdk(way, file, to):
    import alibabacloud_oss_v2 as oss  # not in the memory of the others

    client = oss.Client(
        oss.config.Config(
            region=to["region"],
            endpoint=to["endpoint"],
            credentials_provider=oss.credentials.StaticCredentialsProvider(to["id"], to["secret"]),
        )
    )
    named = {"bucket": to["bucket"], "key": to["name"]}
    began, cpu = time.perf_counter(), time.process_time()
    if way == "up":
        uploader = client.uploader(part_size=PART, parallel_num=CONNECTIONS)
        uploader.upload_file(oss.PutObjectRequest(**named), file)
    else:
        downloader = client.downloader(part_size=PART, parallel_num=CONNECTIONS)
        downloader.download_file(oss.GetObjectRequest(**named), file)
    return figures(began, cpu)


# Azure Blob


def azure_meowcat(way, file, to, checksum="auto"):
    protocol = meowcat.AzureBlob(endpoint=to["endpoint"], checksum=checksum)
    key = AzureKey(account=to["account"], key=to["key"])
    return by_meowcat(way, file, f"azure://{to['container']}/{to['name']}", protocol, key, to["journal"])


def azure_sdk(way, file, to, check=False):
    from azure.storage.blob import BlobClient  # not in the memory of the others

    client = BlobClient(
        to["endpoint"],
        to["container"],
        to["name"],
        credential={"account_name": to["account"], "account_key": to["key"]},
        max_single_put_size=PART,
        max_block_size=PART,
        max_single_get_size=PART,
        max_chunk_get_size=PART,
    )
    began, cpu = time.perf_counter(), time.process_time()
    if way == "up":
        with Path(file).open("rb") as source:
            client.upload_blob(source, max_concurrency=CONNECTIONS, validate_content=check)
    else:
        with Path(file).open("wb") as target:
            client.download_blob(max_concurrency=CONNECTIONS).readinto(target)
    return figures(began, cpu)


# The comparison


CLIENTS = {
    "oss": {"meowcat": oss_meowcat, "the SDK": oss_sdk},
    "azure": {"meowcat": azure_meowcat, "the SDK": azure_sdk},
}
RACES = {
    "oss": {"up": {}, "down": {}},
    "azure": {
        "up": {"meowcat": {"checksum": "none"}},
        "up, MD5": {"meowcat": {"checksum": "md5"}, "the SDK": {"check": True}},
        "down": {},
    },
}
"""What is timed, and with which options of each client: Azure's SDK sends no checksum unless it is asked to,
and meowcat does unless it is told otherwise."""


def oss_target(server):
    key = {"id": server.key.id, "secret": server.key.secret}
    return {"endpoint": server.origin, "region": server.region, "bucket": server.bucket} | key


def azure_target(server):
    key = {"account": server.key.account, "key": server.key.key}
    return {"endpoint": server.endpoint, "container": server.container} | key


SERVERS = {"oss": (OSSServer, oss_target), "azure": (Azurite, azure_target)}


def apart(*child):
    """One transfer in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--child", *child]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _other_way_round(turns):
    """The clients of each race in the other order: a server's state, and its warming up, hurt all alike."""
    return [turns[at + 1 - at % 2 * 2] for at in range(len(turns))]


def compare(kind, rounds, source, folder):
    make, target = SERVERS[kind]
    results = {(race, name): [] for race in RACES[kind] for name in CLIENTS[kind]}
    with make(folder / "server") as server:
        for number in range(rounds):
            turns = list(results.items())
            for (race, name), runs in turns if number % 2 else _other_way_round(turns):
                way = race.partition(",")[0]
                to = target(server) | {
                    "name": f"{name}-{race}-{number}",
                    "journal": f"{folder}/{number}-{race}.db",
                }
                if way == "down":
                    to["name"] = f"{name}-up-{number}"
                file = source if way == "up" else folder / f"{name}-{number}"
                runs.append(apart(kind, name, race, str(file), json.dumps(to)))
                if way == "down":
                    assert filecmp.cmp(source, file, shallow=False), f"{name} brought something else"
                    file.unlink()
    for (race, name), runs in results.items():
        shown = "  ".join(f"{key} {median(each[key] for each in runs):.3g}" for key in runs[0])
        print(f"{kind:6}{race:8} {name:8} {shown}")
    for race in RACES[kind]:
        pairs = zip(results[race, "meowcat"], results[race, "the SDK"], strict=True)
        ratios = [theirs["seconds"] / mine["seconds"] for mine, theirs in pairs]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{kind:6}{race:8} speed of the SDK's: median {median(ratios):.2f}, {spread}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(CLIENTS), nargs="?")
    parser.add_argument("--size", type=int, default=256 * MIB)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, name, race, file, to = options.child
        client, way, more = CLIENTS[kind][name], race.partition(",")[0], RACES[kind][race].get(name, {})
        print(json.dumps(client(way, file, json.loads(to), **more)))
        return
    for kind in [options.kind] if options.kind else CLIENTS:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            source = Path(folder) / "source.bin"
            make_source(source, options.size)
            compare(kind, options.rounds, source, Path(folder))


if __name__ == "__main__":
    main()
