"""Uploads a file, and goes on where an earlier process was killed: python uploading.py '{"protocol": …}'.

Prints `complete` at the end, or `canceled`. With `"cancel": n` it cancels once n parts are confirmed.
"""

import asyncio
import json
import signal
import sys

import anyio

import meowcat

ASKED = json.loads(sys.argv[1])
BUCKET, NAME = ASKED.get("bucket", "bucket"), ASKED.get("name", "object")


def client():
    import boto3  # noqa: PLC0415  # the others have no need of it
    from botocore.config import Config  # noqa: PLC0415  # as above

    return boto3.client(
        "s3",
        endpoint_url=ASKED["endpoint"],
        aws_access_key_id=ASKED["id"],
        aws_secret_access_key=ASKED["secret"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def plan():
    """What a back end would sign: the parts of one multipart upload, its completion and its abort."""
    if ASKED["protocol"] == "presigned oss":
        settings = meowcat.AliyunOSS(endpoint=ASKED["endpoint"], region=ASKED["region"])
        key = meowcat.AccessKey(id=ASKED["id"], secret=ASKED["secret"])
        signer = meowcat.Presigner(f"oss://{BUCKET}/{NAME}", settings, key)
        return signer.upload_plan(ASKED["size"], ASKED["upload"], part_size=ASKED["part"], mark=NAME)
    from meowcat import PlanPart, PlanRequest, UploadPlan  # noqa: PLC0415  # as above

    signer, upload, part = client(), ASKED["upload"], ASKED["part"]
    target = {"Bucket": BUCKET, "Key": NAME}

    def signed(method, **more):
        return signer.generate_presigned_url(method, {**target, "UploadId": upload, **more}, 3600)

    parts = [
        PlanPart(number, at, min(part, ASKED["size"] - at), signed("upload_part", PartNumber=number))
        for number, at in enumerate(range(0, ASKED["size"], part), 1)
    ]
    return UploadPlan(
        total_size=ASKED["size"],
        chunk_size=part,
        parts=tuple(parts),
        upload_id=upload,
        complete=PlanRequest("POST", signed("complete_multipart_upload")),
        abort=PlanRequest("DELETE", signed("abort_multipart_upload")),
        check=PlanRequest("HEAD", signer.generate_presigned_url("head_object", target, 3600)),
        completion="s3-xml",
    )


def request():
    part = {"piece_size": ASKED["part"]}
    if ASKED["protocol"] == "form":
        return meowcat.Upload(ASKED["file"], ASKED["url"], meowcat.FormUpload(), **part)
    if ASKED["protocol"] == "s3":
        settings = meowcat.S3(endpoint=ASKED["endpoint"], style="path")
        return meowcat.Upload(ASKED["file"], f"s3://{BUCKET}/{NAME}", settings, **part)
    if ASKED["protocol"] == "oss":
        settings = meowcat.AliyunOSS(endpoint=ASKED["endpoint"], region=ASKED["region"])
        return meowcat.Upload(ASKED["file"], f"oss://{BUCKET}/{NAME}", settings, **part)
    if ASKED["protocol"] == "azure":
        settings = meowcat.AzureBlob(endpoint=ASKED["endpoint"])
        return meowcat.Upload(ASKED["file"], f"azure://{BUCKET}/{NAME}", settings, **part)
    return meowcat.Upload(ASKED["file"], "", meowcat.PresignedUpload(plan=plan(), refresher="back end"))


def tell():
    """Where each coroutine is: for whoever finds this process hanging."""
    for task in asyncio.all_tasks():
        print(task.get_name(), file=sys.stderr)
        inner = task.get_coro()
        while (frame := getattr(inner, "cr_frame", None)) is not None:
            print(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}", file=sys.stderr)
            inner = inner.cr_await


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    options = {}
    if ASKED["protocol"] in ("s3", "oss"):
        key = meowcat.AccessKey(id=ASKED["id"], secret=ASKED["secret"])
        options["credentials"] = {"default": key}
    if ASKED["protocol"] == "azure":
        options["credentials"] = {"default": meowcat.AzureKey(account=ASKED["id"], key=ASKED["secret"])}
    if ASKED["protocol"].startswith("presigned"):
        options["refreshers"] = {"back end": lambda _: plan()}
    config = meowcat.Config(durability=ASKED["durability"], control=False, retries=10)
    async with meowcat.Engine(ASKED["journal"], config=config, **options) as engine:
        if ASKED.get("task") is None:
            task = await engine.submit(request())
        else:  # it was canceled, and what it owes is done by the opening alone
            await engine.drain()
            task = await engine.task(ASKED["task"])
        print("task", task.id, flush=True)
        if ASKED.get("cancel") is not None and task.state is not meowcat.State.CANCELED:
            async for progress in task.progress():
                if progress.bytes_done >= ASKED["cancel"] * ASKED["part"]:
                    break
            await task.cancel()
        if task.state is meowcat.State.CANCELED:
            await engine.drain()
            print("canceled", flush=True)
            return
        await task.result()
        print("complete", flush=True)


anyio.run(main)
