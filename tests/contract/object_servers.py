"""Servers of objects, as tests of protocols use them: uploads to them; and what stands there, by other ways
than meowcat's: boto3 of those that speak S3, and the back doors of the stand-in for OSS.
"""

import boto3
from botocore.config import Config
from objects_harness import Sending, downloading, fresh_key, key_of, tools_of
from oss_server import OSSServer

from meowcat.protocols.objects.download import SignedDownload
from meowcat.protocols.oss import AliyunOSS
from meowcat.protocols.s3 import S3


def settings_of(server, **settings):
    if isinstance(server, OSSServer):
        return AliyunOSS(endpoint=server.origin, region=server.region, **settings)
    return S3(endpoint=server.origin, **settings)


def url_of(server, key) -> str:
    return f"{'oss' if isinstance(server, OSSServer) else 's3'}://{server.bucket}/{key}"


def sending(server, content, *, key=None, tools=None, headers=None, **settings) -> Sending:
    """An upload to a real server."""
    return Sending(
        tools or tools_of(server.key),
        url_of(server, key or fresh_key()),
        content,
        settings_of(server, **settings),
        headers or {},
    )


def download_of(server, url, tools, **settings) -> SignedDownload:
    return downloading(settings_of(server, **settings), url, tools)


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


def content_at(server, key) -> bytes:
    """What stands there."""
    if isinstance(server, OSSServer):
        return server.content(key)
    client = client_of(server)
    try:
        return client.get_object(Bucket=server.bucket, Key=key)["Body"].read()
    finally:
        client.close()


def uploads_to(server, key) -> list[str]:
    """The ids of uploads that are under way."""
    if isinstance(server, OSSServer):
        return server.uploads(key)
    client = client_of(server)
    try:
        found = client.list_multipart_uploads(Bucket=server.bucket, Prefix=key)
    except client.exceptions.NoSuchUpload:  # rclone's word for none
        return []
    finally:
        client.close()
    return [each["UploadId"] for each in found.get("Uploads", [])]


def etag_at(server, key) -> str:
    if isinstance(server, OSSServer):
        return f'"{server.object(key)["etag"]}"'
    return metadata_at(server, key)["ETag"]


def metadata_at(server, key):
    """Of a server that speaks S3."""
    client = client_of(server)
    try:
        return client.head_object(Bucket=server.bucket, Key=key)
    finally:
        client.close()


def stored(server, sent: Sending) -> bytes:
    return content_at(server, key_of(sent))


def uploads_at(server, sent: Sending) -> list[str]:
    return uploads_to(server, key_of(sent))
