"""Ends a run of pytest in one line where the Python packages that the tests need are missing."""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("requirements-run.txt", "requirements.txt")
# Not those for some machines only, which have a marker.
PINNED = re.compile(r"^([\w.-]+)(?:\[\w+\])?==[^;\s]+$", re.MULTILINE)


def is_missing(name):
    """Tell whether a package isn't installed for this Python."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return True
    return False


missing = [name for file in FILES for name in PINNED.findall((ROOT / file).read_text())]
missing = [name for name in missing if is_missing(name)]
if missing:
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise SystemExit(
        f"pytest: {sys.executable} lacks {missing[0]}{others}, which the tests need: "
        "pip install -r requirements.txt"
    )
