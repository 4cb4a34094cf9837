"""Published files of benchmarks, read in place; they are no part of the project.

published("pope", "llava_pope_test.jsonl")
"""

from pathlib import Path

import pytest

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def published(*parts: str) -> Path:
    """A published file or folder; the test that asks for it is skipped where there is none."""
    path = PUBLISHED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the published data {'/'.join(parts)} is not beside this checkout")
    return path
