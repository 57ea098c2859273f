"""Refusals: how catalogs word what they don't provide."""

import re

from nix.errors import NixError, Refused

# nixpkgs throws these words since 2014; a name is in quotes that have changed since.
NAME = r"[Pp]ackage [\u2018'](?P<name>[^\u2019'\n]+)[\u2019'] in [^\n]*?"
WORDS = {
    "unfree": "has an unfree license",
    "broken": "is marked as broken",
    "insecure": "is marked as insecure",
    "unsupported_platform": "is not (?:supported on|available on the requested hostPlatform)",
}
REFUSED = {reason: re.compile(f"{NAME}(?:{words})") for reason, words in WORDS.items()}
REMOVED = re.compile(
    r"\b(?:removed|renamed|replaced|dropped|deprecated|obsolete|discontinued|superseded|no longer"
    r"|end[- ]of[- ]life|EOL|unmaintained|moved to)\b"
)


def refusal(error: NixError) -> Refused | None:
    """Return the refusal that a message of nixpkgs tells, of a package or of what it needs."""
    for reason, words in REFUSED.items():
        if found := words.search(str(error)):
            return Refused(found["name"], reason)
    return None


def removal(name: str, error: NixError) -> Refused | None:
    """Return the refusal of a name that a catalog throws for, if it tells why it is gone."""
    return refusal(error) or (
        Refused(name, "removed", str(error)) if REMOVED.search(str(error)) else None
    )
