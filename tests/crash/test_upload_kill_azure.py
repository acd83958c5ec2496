from upload_kills import UploadKills


class TestAzure(UploadKills):
    """There is nothing to be aborted."""

    protocol = "azure"
    kills = 5
