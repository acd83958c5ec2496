"""Aliyun OSS: direct uploads and downloads, signed with a credential by its name.

https://www.alibabacloud.com/help/en/oss/developer-reference/list-of-operations-by-function
"""

from meowcat.protocols.oss.download import OSSDownload
from meowcat.protocols.oss.settings import AliyunOSS
from meowcat.protocols.oss.upload import OSSUpload

__all__ = ["AliyunOSS", "OSSDownload", "OSSUpload"]
