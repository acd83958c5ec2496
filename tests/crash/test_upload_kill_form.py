from upload_kills import UploadKills


class TestForm(UploadKills):
    protocol = "form"
