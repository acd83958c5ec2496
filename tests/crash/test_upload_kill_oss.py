from upload_kills import AbortKills, UploadKills


class TestOSS(UploadKills, AbortKills):
    protocol = "oss"
    kills = 5
