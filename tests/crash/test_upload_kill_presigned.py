from upload_kills import AbortKills, UploadKills


class TestPresigned(UploadKills, AbortKills):
    protocol = "presigned"
