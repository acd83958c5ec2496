"""Checksums of a whole that follow from those of its parts."""

from collections.abc import Sequence

import anycrc

__all__ = ["combined_crc64"]

_MODELS = {"crc64nvme": anycrc.Model("CRC64-NVME"), "crc64xz": anycrc.Model("CRC64-XZ")}


def combined_crc64(algorithm: str, parts: Sequence[tuple[str, int]]) -> str:
    """The CRC, in hexadecimal, of parts whose own, in hexadecimal, and sizes in bytes are given.

    `algorithm` is crc64nvme or crc64xz.
    """
    model, value = _MODELS[algorithm], 0
    for digits, size in parts:
        value = model.combine(value, int(digits, 16), size)
    return f"{value:016x}"
