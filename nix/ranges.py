"""Ranges of versions: which of a catalog's versions a client means by ^1.2, or by 2.10."""

from collections.abc import Iterable

from semantic_version import SimpleSpec, Version, validate

from nix.evaluate import Offer
from nix.versions import is_prerelease

OPERATORS = "~^<>=!"
EXACT = ("", "=", "==", "!=")  # the operators that may be followed by build metadata
READABLE = (
    "Write an exact version, also as a catalog spells it (2.12.1, 2.10), or a range: ^1.2, ~1.2,"
    " >=1,<2, >1.4, <=1.4, ==1.2, !=1.2.3, 1.2, *."
)


def matching(offers: Iterable[Offer], wanted: str) -> list[Offer]:
    """Return the offers that are meant by an exact version or a range.

    What a catalog spells so is exact: 2.10 then is not 2.10.5. Build metadata decides only where
    it is named with ==, != or an exact version. Raises ValueError.
    """
    offers = list(offers)
    exact = [offer for offer in offers if wanted in (offer.version, offer.spelled)]
    if exact or validate(wanted):
        return exact

    spec = _read(wanted)
    return [offer for offer in offers if spec.match(_comparable(offer.version, offer.spelled))]


def _read(wanted: str) -> SimpleSpec:
    """Return a range. Raises ValueError, with what can be written."""
    try:
        return SimpleSpec(",".join(map(_clause, wanted.split(","))))
    except ValueError:
        message = f"Neither a version that a catalog has nor a range. {READABLE}"
        raise ValueError(message) from None


def _clause(clause: str) -> str:
    """Return a clause as SimpleSpec reads it: build metadata has no order, and no white space."""
    version = clause.strip().lstrip(OPERATORS)
    operator = clause.strip().removesuffix(version)
    version = version.strip()
    if not validate(version):
        return f"{operator}{version}"
    comparable = _comparable(version, version)
    if comparable.prerelease and operator.startswith(("^", "~")):
        return _beginning_at(comparable, operator)
    if operator not in EXACT:
        comparable = comparable.truncate("prerelease")
    return f"{operator}{comparable}"


def _beginning_at(prerelease: Version, operator: str) -> str:
    """Return what ^ or ~ means of a pre-release: SimpleSpec would end it before its own release."""
    release = prerelease.truncate()
    end = release.next_minor()
    if operator == "^" and release.major:
        end = release.next_major()
    elif operator == "^" and not release.minor:
        end = release.next_patch()
    return f">={prerelease.truncate('prerelease')},<{end}"


def _comparable(version: str, spelled: str) -> Version:
    """Return a version to compare; a hyphen that makes no pre-release begins build metadata."""
    parsed = Version(version)
    if is_prerelease(spelled):
        return parsed
    build = (*parsed.prerelease, *parsed.build)
    return Version(major=parsed.major, minor=parsed.minor, patch=parsed.patch, build=build)
