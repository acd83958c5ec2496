"""What the tests of S3 share: uploads to real servers, and what stands there, by boto3."""

import sys
from pathlib import Path

import boto3
from botocore.config import Config

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from objects_harness import Sending, downloading, fresh_key, key_of, tools_of

from meowcat.protocols.objects.download import SignedDownload
from meowcat.protocols.s3 import S3


def sending(server, content, *, key=None, tools=None, headers=None, **settings) -> Sending:
    """An upload to a real server."""
    return Sending(
        tools or tools_of(server.key),
        f"s3://{server.bucket}/{key or fresh_key()}",
        content,
        S3(endpoint=server.origin, **settings),
        headers or {},
    )


def download_of(server, url, tools, **settings) -> SignedDownload:
    return downloading(S3(endpoint=server.origin, **settings), url, tools)


def client_of(server):
    """boto3's, for what stands there in the end."""
    return boto3.client(
        "s3",
        endpoint_url=server.origin,
        region_name=server.region,
        aws_access_key_id=server.key.id,
        aws_secret_access_key=server.key.secret,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def stored(server, sent: Sending) -> bytes:
    """What stands there, read by boto3."""
    client = client_of(server)
    try:
        return client.get_object(Bucket=server.bucket, Key=key_of(sent))["Body"].read()
    finally:
        client.close()


def uploads_at(server, sent: Sending):
    client = client_of(server)
    try:
        found = client.list_multipart_uploads(Bucket=server.bucket, Prefix=key_of(sent))
    except client.exceptions.NoSuchUpload:  # rclone's word for none
        return []
    finally:
        client.close()
    return [each["UploadId"] for each in found.get("Uploads", [])]
