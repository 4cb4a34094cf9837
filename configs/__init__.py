"""One YAML per method with the values of its paper; `scale/` says where it runs."""

from importlib.resources import files
from pathlib import Path

SHIPPED = Path(str(files(__name__)))
"""The folder of the configs that come with mmalign."""


def find(name: str) -> Path | None:
    """The config of that name in the working directory, else the shipped one; None where there is neither."""
    return next((path for path in (Path(name), SHIPPED / name) if path.is_file()), None)
