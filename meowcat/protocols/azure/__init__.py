"""Azure Blob Storage: direct uploads and downloads, signed with a credential by its name.

https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api
"""

from meowcat.protocols.azure.download import AzureDownload
from meowcat.protocols.azure.presigner import AzurePresigner
from meowcat.protocols.azure.settings import AzureBlob
from meowcat.protocols.azure.upload import AzureUpload

__all__ = ["AzureBlob", "AzureDownload", "AzurePresigner", "AzureUpload"]
