"""S3, and all that speak as it does: direct uploads and downloads, signed with a credential by its name.

https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html
"""

from meowcat.protocols.s3.download import S3Download
from meowcat.protocols.s3.settings import S3
from meowcat.protocols.s3.upload import S3Upload

__all__ = ["S3", "S3Download", "S3Upload"]
