"""Clients of object stores, up and down: `job` has `file` or `to`, `size`, `connections` and the store's
`endpoint`, `bucket`, `name`, `id` and `secret`. Parts are of 8 MiB; where `connections` is None, all is as
the client has it by default."""

import asyncio
import os
from pathlib import Path

from .races import MIB, Client, Job
from .scripts import Clock

PART = 8 * MIB


def _meowcat(job: Job, clock: Clock, url: str, protocol, credential) -> None:
    import anyio

    import meowcat

    chosen = job["connections"] is not None
    size = {"piece_size": PART, "connections": job["connections"]} if chosen else {}

    async def transfer() -> None:
        config = meowcat.Config(durability=job["durability"], control=False)
        keys = {"default": credential}
        async with meowcat.Engine(job["journal"], config=config, credentials=keys) as engine:
            with clock:
                if job["up"]:
                    await engine.upload(job["file"], url, protocol=protocol, **size)
                else:
                    await engine.download(url, job["to"], protocol=protocol.spec(), **size)

    anyio.run(transfer)


# S3


def meowcat_s3(job: Job, clock: Clock) -> None:
    import meowcat

    key = meowcat.AccessKey(id=job["id"], secret=job["secret"])
    protocol = meowcat.S3(endpoint=job["endpoint"], style="path")
    _meowcat(job, clock, f"s3://{job['bucket']}/{job['name']}", protocol, key)


def boto3(job: Job, clock: Clock) -> None:
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client(
        "s3",
        endpoint_url=job["endpoint"],
        aws_access_key_id=job["id"],
        aws_secret_access_key=job["secret"],
        region_name="us-east-1",
    )
    chosen = {} if job["connections"] is None else {"max_concurrency": job["connections"]}
    config = TransferConfig(multipart_chunksize=PART, **chosen)
    with clock:
        if job["up"]:
            client.upload_file(job["file"], job["bucket"], job["name"], Config=config)
        else:
            client.download_file(job["bucket"], job["name"], job["to"], Config=config)


def obstore_s3(job: Job, clock: Clock) -> None:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        job["bucket"],
        endpoint=job["endpoint"],
        access_key_id=job["id"],
        secret_access_key=job["secret"],
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    count = job["connections"]

    async def down() -> None:
        ranges = iter(range(0, job["size"], PART))
        with Path(job["to"]).open("wb") as file:

            async def connection() -> None:
                for at in ranges:
                    end = min(at + PART, job["size"])
                    data = await obstore.get_range_async(store, job["name"], start=at, end=end)
                    os.pwrite(file.fileno(), data, at)

            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(connection())

    with clock:
        if job["up"]:
            chosen = {} if count is None else {"chunk_size": PART, "max_concurrency": count}
            obstore.put(store, job["name"], Path(job["file"]), **chosen)
        else:
            asyncio.run(down())


def _rclone(job: Job) -> list[str]:
    remote = f":s3,provider=Other,access_key_id={job['id']},secret_access_key={job['secret']}"
    remote += f",endpoint='{job['endpoint']}'"
    if job["connections"] is not None:
        remote += f",chunk_size=8M,upload_concurrency={job['connections']}"
    there = f"{remote}:{job['bucket']}/{job['name']}"
    command = [
        "copyto",
        *((job["file"], there) if job["up"] else (there, job["to"])),
        "--config",
        "/dev/null",
    ]
    if job["connections"] is not None:
        command += ["--multi-thread-streams", str(job["connections"]), "--multi-thread-cutoff", "1M"]
        command += ["--multi-thread-chunk-size", "8M"]
    return command


def _s5cmd(job: Job) -> list[str]:
    keys = Path(job["folder"]) / "keys"
    keys.write_text(f"[default]\naws_access_key_id = {job['id']}\naws_secret_access_key = {job['secret']}\n")
    command = ["--endpoint-url", job["endpoint"], "--credentials-file", str(keys), "cp"]
    if job["connections"] is not None:
        command += ["--concurrency", str(job["connections"]), "--part-size", str(PART // MIB)]
    there = f"s3://{job['bucket']}/{job['name']}"
    return [*command, *((job["file"], there) if job["up"] else (there, job["to"]))]


# Azure Blob; neither with a checksum for each block unless `checked`


def meowcat_azure(job: Job, clock: Clock) -> None:
    import meowcat

    key = meowcat.AzureKey(account=job["id"], key=job["secret"])
    protocol = meowcat.AzureBlob(endpoint=job["endpoint"], checksum="md5" if job.get("checked") else "none")
    _meowcat(job, clock, f"azure://{job['bucket']}/{job['name']}", protocol, key)


def azure_sdk(job: Job, clock: Clock) -> None:
    from azure.storage.blob import BlobClient

    client = BlobClient(
        job["endpoint"],
        job["bucket"],
        job["name"],
        credential={"account_name": job["id"], "account_key": job["secret"]},
        max_single_put_size=PART,
        max_block_size=PART,
        max_single_get_size=PART,
        max_chunk_get_size=PART,
    )
    count = {"max_concurrency": job["connections"]}
    with clock:
        if job["up"]:
            with Path(job["file"]).open("rb") as source:
                client.upload_blob(source, validate_content=bool(job.get("checked")), **count)
        else:
            with Path(job["to"]).open("wb") as target:
                client.download_blob(**count).readinto(target)


# Aliyun OSS


def meowcat_oss(job: Job, clock: Clock) -> None:
    import meowcat

    key = meowcat.AccessKey(id=job["id"], secret=job["secret"])
    protocol = meowcat.AliyunOSS(endpoint=job["endpoint"], region=job["region"])
    _meowcat(job, clock, f"oss://{job['bucket']}/{job['name']}", protocol, key)


def oss_sdk(job: Job, clock: Clock) -> None:
    import alibabacloud_oss_v2 as oss

    client = oss.Client(
        oss.config.Config(
            region=job["region"],
            endpoint=job["endpoint"],
            credentials_provider=oss.credentials.StaticCredentialsProvider(job["id"], job["secret"]),
        )
    )
    named = {"bucket": job["bucket"], "key": job["name"]}
    parts = {"part_size": PART, "parallel_num": job["connections"]}
    with clock:
        if job["up"]:
            client.uploader(**parts).upload_file(oss.PutObjectRequest(**named), job["file"])
        else:
            client.downloader(**parts).download_file(oss.GetObjectRequest(**named), job["to"])


S3 = (
    Client("meowcat", script="stores:meowcat_s3"),
    Client("boto3's transfer manager", script="stores:boto3", needs=("boto3",)),
    Client("rclone", "rclone", _rclone),
    Client("s5cmd", "s5cmd", _s5cmd),
    Client("obstore", script="stores:obstore_s3", needs=("obstore",)),
)
AZURE = (
    Client("meowcat", script="stores:meowcat_azure"),
    Client("azure-storage-blob", script="stores:azure_sdk", needs=("azure.storage.blob",)),
)
OSS = (
    Client("meowcat", script="stores:meowcat_oss"),
    Client("alibabacloud-oss-v2", script="stores:oss_sdk", needs=("alibabacloud_oss_v2",)),
)
