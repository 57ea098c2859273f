"""Errors: all that can go wrong with Nix, one class for each cause."""

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from nix.faults import host_fault
from nix.fetching import FetchFault, fetch_fault
from nix.terminal import plain

MESSAGE_CHARACTERS = 4000
FULL_DISK = re.compile(r"No space left on device|database or disk is full|Disk quota exceeded")


class NixError(Exception):
    """Nix did not do what it was asked to; the message, in plain text, says why.

    `code` identifies the error to programs. It is empty for an error that has none of its own; a
    task that ends with such an error has the code of BuildFailed. `hint` tells the user what to do.
    """

    code: ClassVar[str] = ""
    hint: str = "read the message, then the service's log"

    def __init__(self, message: str = "") -> None:
        """Give the message."""
        super().__init__(plain(message))


class NixMissing(NixError):
    """A program that Nix needs is not on PATH."""

    hint = "install Nix (Debian: apt install nix-bin), and see to it that the service's PATH has it"


class NixUnavailable(NixError):
    """Nix or its store could not be used, in each of the task's attempts."""

    code = "nix_unavailable"
    hint = "look in the log of the Nix daemon and in the kernel's, then try again"

    def __init__(self, message: str) -> None:
        """Give the message; the hint follows from it where the fault is a known one."""
        super().__init__(message)
        if fault := host_fault(message):
            self.hint = fault.hint


class NixCrashed(NixUnavailable):
    """A program was ended by a signal that pkgd did not send."""

    hint = "look for the cause in the kernel's log (out of memory?), then try again"


class NixKilled(NixCrashed):
    """A program was ended by SIGKILL that pkgd did not send, as the kernel does without memory."""

    hint = "add memory, or lower WORKER_THREADS; the kernel's log names what it has killed"


class TimedOut(NixError):
    """A command ran past its limit; the message says which, and its value."""

    code = "timed_out"
    hint = "raise BUILD_SECONDS or SILENCE_SECONDS if it only needs longer, then try again"


class DiskFull(NixError):
    """The disk of the store or of the build has no space left."""

    code = "disk_full"
    hint = "free some space (flask gc), then try again"


class NotProvided(NixError):
    """A catalog does not provide a package; `attr` tells where it has it, if it has."""

    catalog: str | None = None
    attr: str | None = None
    spelled: str | None = None


class EvaluationFailed(NotProvided):
    """A catalog, or a package in it, can't be evaluated; the message says why."""

    code = "evaluation_failed"
    hint = "the catalog has a mistake, or needs something that this server does not have"


class Refused(NotProvided):
    """A catalog has the package, and refuses to provide it; `reason` tells programs why."""

    code = "refused"

    def __init__(self, package: str, reason: str, message: str = "") -> None:
        """Name the package, the reason (a key of REFUSALS) and, if there is one, Nix's message."""
        sentence, self.hint = REFUSALS[reason]
        super().__init__(message or f"{package} {sentence}")
        self.reason = reason


# reason: (how a message goes on after the package, hint)
REFUSALS = {
    "unfree": (
        "has an unfree license, which this server does not allow",
        "choose another package, or have the server's ALLOW_UNFREE set",
    ),
    "insecure": (
        "has known vulnerabilities, and this server does not allow it",
        "choose a newer version, or have it listed in the server's ALLOW_INSECURE",
    ),
    "broken": (
        "is marked as broken in its catalog",
        "choose another version, or have the server's ALLOW_BROKEN set",
    ),
    "unsupported_platform": (
        "is not made for the server's platform",
        "choose another package, or a server or an interpreter that it is made for",
    ),
    "removed": ("was removed from its catalog", "the message may name what takes its place"),
}


class NameUnknown(NixError):
    """No catalog has a package of this name."""

    code = "name_unknown"
    hint = "check the spelling, or add a catalog that has the name to CATALOGS"

    def __init__(self, name: str, near: Sequence[str] = (), kind: str = "") -> None:
        """Name what was looked for, what may have been meant, and the kind of what has the name."""
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        if kind == "set":
            super().__init__(f"{name} is a set of packages, which are named {name}.NAME")
        elif kind:
            super().__init__(f"{name} is no package, but {KINDS.get(kind, f'a {kind}')}{meant}")
        else:
            super().__init__(f"no catalog has {name}{meant}")


KINDS = {"lambda": "a function", "int": "a number", "float": "a number", "bool": "true or false"}


class VersionUnavailable(NixError):
    """The catalogs have the name, but not in this version."""

    code = "version_unavailable"
    hint = "register one of the versions there are, or add a catalog that has this one to CATALOGS"


class NixTooOld(NixError):
    """A catalog wants a newer version of Nix than this host has."""

    code = "nix_too_old"
    hint = "install the Nix that the catalog wants (Debian 13 has 2.26), or use an older catalog"


class FetchFailed(NixError):
    """A source, or a binary of a cache, could not be fetched; URL and cause come first."""

    code = "fetch_failed"

    def __init__(self, fault: FetchFault, said: str = "") -> None:
        """Begin the message with the fault; `said` is what else there is to tell."""
        super().__init__(f"{fault}\n{said}".rstrip())
        self.fault = fault
        self.hint = fault.hint


class BuildFailed(NixError):
    """A builder failed, or Nix could not build the package or keep it in the store."""

    code = "build_failed"
    hint = "read the end of the build's log; the recipe is at fault, or it doesn't fit this machine"


class HashMismatch(NixError):
    """A fetched file differs from the one that the catalog specifies by its hash."""

    code = "hash_mismatch"
    hint = "the source has changed since the catalog was written: update the catalog"


class NotATarball(NixError):
    """What was fetched can't be unpacked."""

    hint = "check the URL, and fetch it again: the file may have been cut"


class CacheAway(NixError):
    """The binary cache can't be used for the moment: away, unreachable, or its disk is full."""

    hint = "see to it that the cache can be reached and has room: publishing goes on by itself"


class PublishFailed(NixError):
    """The binary cache took nothing, and will not until the operator has set something right."""

    code = "publish_failed"
    hint = "have the operator set right what the message names, then flask publish --all"


class CacheKeyUnusable(PublishFailed):
    """The key that signs what is published can't be used."""

    hint = "have the operator see to CACHE_KEY_FILE, then flask publish --all"


class ProfileRefused(NixError):
    """A profile can't hold these packages, and will not however often it is tried."""

    code = "profile_refused"
    hint = "read the message: one of the packages is at fault"


class Collision(ProfileRefused):
    """Two packages contain the same file, so that one profile can't hold both."""

    code = "files_collide"
    hint = "deactivate one of the two first"

    def __init__(self, first: str, second: str, file: str) -> None:
        """Name the two packages, and the file relative to the profile."""
        super().__init__(f"{first} and {second} both have the file {file}")
        self.first, self.second, self.file = first, second, file


class ProfileReplaced(ProfileRefused):
    """Something that Nix did not make is in the place of the profile."""

    code = "profile_replaced"
    hint = "move away what is in the place of the profile"


def codes() -> dict[str, str]:
    """Return each code that a task can end with, and what it means in one line."""
    owners = (kind for kind in _kinds() if "code" in vars(kind))
    return {kind.code: (kind.__doc__ or "").partition("\n")[0] for kind in owners}


def _kinds(parent: type[NixError] = NixError) -> Iterator[type[NixError]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from _kinds(kind)


def is_about_full_disk(message: str) -> bool:
    """Tell whether Nix, or a program it ran, reports that a disk or a quota is used up."""
    return FULL_DISK.search(message) is not None


def error_from(message: str, kind: type[NixError] = NixError) -> NixError:
    """Return an error of this kind with the end of Nix's message.

    It is DiskFull, NixUnavailable or FetchFailed if the message reports that.
    """
    whole = message.strip()
    text = whole[-MESSAGE_CHARACTERS:]
    if is_about_full_disk(text):
        return DiskFull(text)
    if host_fault(whole):
        return NixUnavailable(text)
    fault = fetch_fault(whole)
    return FetchFailed(fault) if fault else kind(text)
