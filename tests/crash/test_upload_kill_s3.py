from upload_kills import AbortKills, UploadKills


class TestS3(UploadKills, AbortKills):
    protocol = "s3"
