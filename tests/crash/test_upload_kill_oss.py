import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from upload_kills import AbortKills, UploadKills


class TestOSS(UploadKills, AbortKills):
    protocol = "oss"
    kills = 5
