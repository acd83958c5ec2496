from upload_kills import AbortKills, UploadKills


class TestPresignedOSS(UploadKills, AbortKills):
    protocol = "presigned oss"
    kills = 5
