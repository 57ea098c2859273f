"""Faults of the host: how Nix words them, and what the operator can do about each."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class HostFault:
    """A fault of the host, known by the beginning of Nix's message about it."""

    hint: str
    message: re.Pattern[str]


def _fault(hint: str, *messages: str) -> HostFault:
    return HostFault(hint, re.compile("|".join(messages)))


HOST_FAULTS = (
    _fault(
        "see to it that the Nix daemon runs and lets pkgd in (systemctl status nix-daemon)",
        r"cannot connect to socket",
        r"cannot open connection to remote store",
        r"failed to connect to socket",
        r"getting status of '[^'\n]*/socket'",
        r"unexpected end-of-file$",
        r"(reading from|writing to) file: (Connection reset by peer|Broken pipe)",
        r"[Nn]ix daemon disconnected unexpectedly",
        r"user '[^'\n]*' is not allowed to connect to the Nix daemon",
    ),
    _fault(
        "give Nix the users that builds run as (Debian: apt install nix-setup-systemd)",
        r"the group '[^'\n]*' specified in 'build-users-group' does not exist",
        r"the build users group '[^'\n]*' has no members",
        r"the user '[^'\n]*' in the group '[^'\n]*' does not exist",
        r"all build users are currently in use",
    ),
    _fault(
        "see to it that Nix can write its store and its database: permissions, mounts",
        r"remounting '?[^\n]* writable",
        r"could not set permissions on '",
        r"opening lock file '",
        r"creating directory '[^'\n]*': (Permission denied|Read-only file system)",
        r"[^\n]*: Read-only file system$",
        r"cannot open SQLite database",
        r"[^\n]*SQLite[^\n]*: (attempt to write a readonly|unable to open) database",
        r"[^\n]*you don't have sufficient (permissions|rights)",
    ),
    _fault(
        "check Nix's database (nix-store --verify), or restore it",
        r"[^\n]*SQLite[^\n]*(disk image is malformed|file is not a database|disk I/O error)",
        r"SQLite database '[^'\n]*' is busy",
        r"'[^'\n]*/db/schema' is corrupt",
    ),
    _fault(
        "free memory, or raise the limits of the service and of the Nix daemon",
        r"(out of memory|std::bad_alloc)$",
        r"[^\n]*(Cannot allocate memory|Too many open files)",
        r"unable to (fork|start thread)",
        r"Resource temporarily unavailable$",
    ),
    _fault(
        "let builds have the sandbox that nix.conf asks for",
        r"this system does not support the kernel namespaces",
    ),
)


def host_fault(message: str) -> HostFault | None:
    """Return the fault of the host that a message of Nix reports; None if it reports none."""
    return next((fault for fault in HOST_FAULTS if fault.message.match(message)), None)
