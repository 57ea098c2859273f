"""Siblings: attributes that are a name with a version or a channel appended.

`nodejs_20`, `openjdk17`, `python3_11`, `nginxMainline`, `foo-1_2`, `nodejs-6_x` and `erlangR19` are
siblings of the names before. resolve.nix has the same rule, from siblings.json; a test compares the
two.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

RULE = json.loads(Path(__file__).with_name("siblings.json").read_text())
# A number is as long as it can be: else a long one would be tried in parts without an end.
NUMBER = f"{RULE['number']}(?![0-9_.])x?"
SUFFIX = re.compile(f"(?:[_-]?(?:{'|'.join([NUMBER, *RULE['words']])}))+")


def is_sibling(name: str, attr: str) -> bool:
    """Tell whether an attribute is `name` with a version or a channel appended."""
    return attr.startswith(name) and SUFFIX.fullmatch(attr, len(name)) is not None


def bases(attr: str) -> Iterator[str]:
    """Yield the names that an attribute is a sibling of, the shortest first."""
    for length in range(1, len(attr)):
        if SUFFIX.fullmatch(attr, length):
            yield attr[:length]
