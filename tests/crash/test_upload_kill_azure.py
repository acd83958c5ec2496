import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from upload_kills import UploadKills


class TestAzure(UploadKills):
    """There is nothing to be aborted."""

    protocol = "azure"
    kills = 5
