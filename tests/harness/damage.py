"""Damage to files, of the kind that a bad disk or a bad copy does.

    flip(checkpoint / "adapter.safetensors")     one bit of the byte in the middle

Used by  tests/checkpoint/, tests/tools/doctor/
"""

from pathlib import Path


def flip(path: Path, at: int | None = None) -> None:
    """Flip a bit of a file.

    Args:
        path: The file.
        at: Of which byte; None takes the one in the middle.
    """
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)
