"""The Nix of this machine: fetching from a cache, and the profile that a sync changes.

Nothing is ever built here: a store path comes from the server's cache, signed by a trusted key, or
not at all.
"""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import click

from pkgctl.children import Finished, run
from pkgctl.errors import CommandError, ExitCode
from pkgctl.output import printable_log
from pkgctl.sync_state import faults_told

TOKEN_NAMES = ("PKGCTL_TOKEN", "PKGCTL_TOKEN_FILE")
FETCH_SECONDS = 3600
CALL_SECONDS = 120
STORE_PATH = re.compile(r"/[^\s\0]*/[0-9a-df-np-sv-z]{32}-[\w+.?=-]+", re.ASCII)
DERIVATION = ".drv"
PUBLIC_KEY = re.compile(r"[^\s:]+:[A-Za-z0-9+/=]+", re.ASCII)
# How a cache may be reached, and the parameters that say where a bucket is. Nix knows others, with
# which it would trust a cache without signatures, or write to files.
CACHE_PARAMETERS = {"http": set(), "https": set(), "s3": {"endpoint", "region", "scheme"}}

UNTRUSTED = re.compile(
    r"not signed by any|lacks a (?:valid )?signature|hash mismatch|archive|compress|corrupt"
    r"|unexpected end-of-file"
)
DENIED = re.compile(r"HTTP error 40[13]")
AWAY = re.compile(
    r"unable to download|does not appear to be a binary cache|don't know how to build"
    r"|no substituter that can build"
)
ELSEWHERE = re.compile(r"is not in the Nix store")
RESTRICTED = re.compile(r"not a trusted user")
NAMED = re.compile(r"'[^'\s]*'|/\S+")  # names may hold any word
LOUD = re.compile(r"^ *(?:(?:warning|error): *)+")
ERROR = re.compile(r"^(?:warning: )?error: *(.*)", re.MULTILINE)
TRUST_HINT = "let it be of trusted-users in nix.conf, or run the sync as root"
FETCH_FAULTS = (
    (UNTRUSTED, ExitCode.UNTRUSTED),
    (DENIED, ExitCode.NOT_ALLOWED),
    (AWAY, ExitCode.UNREACHABLE),
)


@dataclass(frozen=True)
class BinaryCache:
    """The cache that store paths come from, the keys to trust, and the file with its password."""

    url: str
    public_keys: str
    netrc: Path | None

    @property
    def settings(self) -> dict[str, str]:
        """Nix's settings that fetch from this cache alone, and build nothing."""
        settings = {
            "substituters": self.url,
            "trusted-public-keys": self.public_keys,
            "require-sigs": "true",
            "substitute": "true",
            "fallback": "false",
            "max-jobs": "0",
            "builders": "",
            # A path may have been published, or signed anew, since Nix looked last.
            "narinfo-cache-negative-ttl": "0",
            "narinfo-cache-positive-ttl": "0",
            "connect-timeout": "10",
            "download-attempts": "5",
            "http-connections": "4",  # what one process of the server sends at once by itself
            "stalled-download-timeout": "60",
        }
        return settings | ({"netrc-file": str(self.netrc)} if self.netrc else {})


def is_store_path(path: object) -> bool:
    """Tell whether what a server names has the form of a store path, and is no derivation."""
    is_path = isinstance(path, str) and STORE_PATH.fullmatch(path)
    return bool(is_path) and not str(path).endswith(DERIVATION)


def cache_url(told: object) -> SplitResult:
    """Return the URL of the cache that a server names, with CACHE_PARAMETERS alone.

    Raises CommandError where it is no such URL.
    """
    url = _url(told)
    if url is None or url.scheme not in CACHE_PARAMETERS:
        raise CommandError(f"the server names {told!r} as its cache", ExitCode.REFUSED)
    known = CACHE_PARAMETERS[url.scheme]
    kept = urlencode([one for one in parse_qsl(url.query) if one[0] in known])
    return url._replace(query=kept, fragment="")


def _url(told: object) -> SplitResult | None:
    """Return the parts of a URL; None for anything else."""
    if not (isinstance(told, str) and re.fullmatch(r"[!-~]+", told)):
        return None
    try:
        url = urlsplit(told)
        return url if url.hostname and url.port != 0 else None
    except ValueError:  # a port out of range, half an IPv6 address
        return None


class NixProfile:
    """A profile of Nix at `path`, a link to one of its generations.

    Nix's programs inherit the descriptor `lock`, so that it is held until they have ended, even if
    this process is killed; `home` takes the place of the user's.
    """

    def __init__(self, path: Path, home: Path, lock: int | None = None) -> None:
        self.path = path
        self._home = home
        self._kept = () if lock is None else (lock,)

    @property
    def number(self) -> int | None:
        """The number of its generation; None where it has none. Raises CommandError if foreign."""
        try:
            link = os.readlink(self.path)
        except FileNotFoundError:
            return None
        except OSError:
            link = ""
        found = re.fullmatch(rf"{re.escape(self.path.name)}-(\d+)-link", link)
        if found is None:
            message = f"{self.path} is not a profile of Nix, and stays as it is"
            raise CommandError(message, ExitCode.USAGE, "--to names another path")
        return int(found[1])

    @property
    def store_path(self) -> str | None:
        """The store path of its generation; None where it has none."""
        number = self.number
        return None if number is None else self.store_path_of(number)

    def link(self, number: int) -> Path:
        """Return the path of a generation."""
        return self.path.with_name(f"{self.path.name}-{number}-link")

    def store_path_of(self, number: int) -> str | None:
        """Return the store path of a generation; None where there is none."""
        try:
            return os.readlink(self.link(number))
        except OSError:
            return None

    def numbers(self) -> list[int]:
        """Return the numbers of all generations."""
        pattern = re.compile(rf"{re.escape(self.path.name)}-(\d+)-link")
        names = map(pattern.fullmatch, os.listdir(self.path.parent))
        return [int(found[1]) for found in names if found]

    def earlier(self) -> int | None:
        """Return the number of the generation before; None where there is none."""
        return max((one for one in self.numbers() if one < (self.number or 0)), default=None)

    def fetch(self, store_path: str, root: Path, cache: BinaryCache) -> None:
        """Fetch a store path from the cache, kept by the GC root `root`. Raises CommandError."""
        options = [word for pair in cache.settings.items() for word in ("--option", *pair)]
        argv = ["nix-store", "--realise", store_path, "--add-root", str(root), "--indirect"]
        # Once the clock was set back, Nix's notes on a cache are of the future, and do not expire.
        notes = self._home / "cache"
        shutil.rmtree(notes, ignore_errors=True)
        done = self._run([*argv, *options], FETCH_SECONDS, XDG_CACHE_HOME=str(notes))
        if done.code != 0:
            raise _fetch_failure(done, store_path, cache.url)

    def set(self, store_path: str) -> None:
        """Make a valid store path the profile's newest generation. Raises CommandError."""
        self._nix_env("--set", store_path)

    def switch(self, number: int) -> None:
        """Switch to a generation. Raises CommandError."""
        self._nix_env("--switch-generation", str(number))

    def clear(self) -> None:
        """Leave the profile without an active generation. Raises CommandError."""
        with faults_told(self.path):
            self.path.unlink()

    def forget(self, store_path: str) -> None:
        """Delete the generations of a store path, which must not be active. Raises CommandError."""
        with faults_told(self.path):
            for number in self.numbers():
                if self.store_path_of(number) == store_path:
                    self.link(number).unlink()

    def _nix_env(self, *arguments: str) -> None:
        argv = ["nix-env", "--profile", str(self.path), *arguments]
        done = self._run(argv, CALL_SECONDS, HOME=str(self._home))
        if done.code != 0:
            raise _failure(done)

    def _run(self, argv: list[str], seconds: float, **more: str) -> Finished:
        environ = {**environment(), **more}
        try:
            return run(argv, environ=environ, seconds=seconds, show=show, kept=self._kept)
        except OSError as error:
            message = f"{argv[0]} can't be run: {error.strerror}"
            raise CommandError(
                message, ExitCode.MACHINE_FAILED, "a sync needs Nix on PATH"
            ) from None


def environment() -> dict[str, str]:
    """Return the environment for programs that a sync runs: without the token and its file."""
    return {name: value for name, value in os.environ.items() if name not in TOKEN_NAMES}


def show(piece: bytes) -> None:
    """Show a piece of what a program writes, on a terminal."""
    if sys.stderr.isatty():
        click.echo(printable_log(piece.decode(errors="replace")), err=True, nl=False)


def _fetch_failure(done: Finished, store_path: str, url: str) -> CommandError:
    """Return the error for a store path that could not be fetched."""
    if ELSEWHERE.search(done.output):
        folder = os.path.dirname(store_path)
        message = f"the server's store is at {folder}, and that of this machine's Nix elsewhere"
        hint = "both have to be at the same place, such as /nix/store"
        return CommandError(message, ExitCode.MACHINE_FAILED, hint)
    if RESTRICTED.search(done.output):
        message = "this user may not tell Nix's daemon which cache and key to use"
        return CommandError(message, ExitCode.MACHINE_FAILED, TRUST_HINT)
    for pattern, exit_code in FETCH_FAULTS:
        if line := _line_with(pattern, done.output):
            hint = f"nothing was changed; the cache is {url}"
            return CommandError(line, exit_code, hint)
    return _failure(done)


def _line_with(pattern: re.Pattern[str], output: str) -> str | None:
    """Return the first line that matches outside of its paths and URLs; None where none does."""
    for line in output.splitlines():
        if pattern.search(NAMED.sub("", line)):
            return LOUD.sub("", line).partition("; retrying")[0].rstrip(":")
    return None


def _failure(done: Finished) -> CommandError:
    """Return the error for a program of Nix that failed, or took too long."""
    if done.code is None:
        return CommandError("Nix took too long, and was ended", ExitCode.MACHINE_FAILED)
    errors = ERROR.findall(done.output)
    said = errors or [line for line in done.output.splitlines() if line.strip()]
    message = said[-1] if said else f"it ended with exit code {done.code}"
    return CommandError(f"Nix failed: {message}", ExitCode.MACHINE_FAILED)
