"""Read a JSONL journal with the standard library alone: `python examples/read_jsonl.py x.jsonl`."""

import base64
import hashlib
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

TABLE = list(range(256))
for _ in range(8):
    TABLE = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in TABLE]


def crc32c(content: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in content:
        value = TABLE[(value ^ byte) & 255] ^ value >> 8
    return value ^ 0xFFFFFFFF


def link(previous: bytes, record: dict[str, Any], line: bytes) -> bytes:
    begin, end = line.find(b',"body":', line.index(b',"type":')) + 8, line.rindex(b',"chain":')
    body = base64.b64decode(record["base64"]) if "base64" in record else line[begin:end]
    texts = record["task"].encode(), record["type"].encode(), body
    numbers = [record[name] for name in ("position", "epoch", "seq", "at", "version", "open")]
    head = struct.pack(">BqqqqI?III", 1, *numbers, *map(len, texts))
    return hashlib.sha256(previous + head + b"".join(texts)).digest()


chain: bytes | None = None
batch: list[tuple[dict[str, Any], bytes]] = []
records = faults = 0
folder = Path(sys.argv[1])
segments = [*folder.glob("*.jsonl"), *folder.glob("archive/*.jsonl")]
for path in sorted(segments, key=lambda each: each.name):
    for number, line in enumerate(path.open("rb"), 1):
        end = re.fullmatch(rb',"crc":"([0-9a-f]{8})"\}\n', line[-19:])
        if end is None or int(end[1], 16) != crc32c(line[:-19]):
            print(f"{path.name}:{number}: a damaged line, or the end of a batch that was never finished")
            faults, chain = faults + 1, None
            continue
        said = json.loads(line)
        if "segment" in said:
            chain, batch = bytes.fromhex(said["segment"]["chain"]), []
        elif "commit" not in said:
            batch.append((said, line))
        else:
            for record, raw in [each for each in batch if "position" in each[0]]:
                right, records = bytes.fromhex(record["chain"]), records + 1
                if chain is not None and link(chain, record, raw) != right:
                    print(f"{path.name}: record {record['position']} breaks the hash chain")
                    faults += 1
                print(record["position"], record["task"], record["seq"], record["type"])
                chain = right
            batch = []
print(f"{records} records, {faults} faults")
sys.exit(faults > 0)
