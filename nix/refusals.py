"""Refusals: how catalogs word what they don't provide."""

import re

from nix.errors import NixError, Refused

# nixpkgs throws these words since 2014; a name is in quotes that have changed since.
NAME = r"[Pp]ackage [\u2018'](?P<name>[^\u2019'\n]+)[\u2019'] in [^\n]*?"
WORDS = {
    "unfree": "has an unfree license",
    # Since 2026, what is wrong with a package is listed.
    "broken": r"(?:is marked as broken|because it has problems:\s+- broken:)",
    "insecure": "is marked as insecure",
    "unsupported_platform": "is not (?:supported on|available on the requested hostPlatform)",
}
REFUSED = {reason: re.compile(f"{NAME}(?:{words})") for reason, words in WORDS.items()}
# What a catalog throws for an attribute instead of a package, in words of its own.
THROWN = {
    "unsupported_platform": re.compile(r"not supported for interpreter"),
    "removed": re.compile(
        r"\b(?:removed|renamed|replaced|dropped|deprecated|obsolete|discontinued|superseded"
        r"|no longer|end[- ]of[- ]life|EOL|unmaintained|moved to)\b"
    ),
}


def refusal(error: NixError) -> Refused | None:
    """Return the refusal that a message of nixpkgs tells, of a package or of what it needs."""
    for reason, words in REFUSED.items():
        if found := words.search(str(error)):
            return Refused(found["name"], reason)
    return None


def thrown_refusal(name: str, error: NixError) -> Refused | None:
    """Return the refusal of a name that a catalog throws for, if it tells why."""
    if found := refusal(error):
        return found
    reasons = (reason for reason, words in THROWN.items() if words.search(str(error)))
    return next((Refused(name, reason, str(error)) for reason in reasons), None)
