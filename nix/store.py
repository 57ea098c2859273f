"""The store: which one Nix works on, and how its programs are called."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from nix.errors import NixError, NixUnavailable, TimedOut, error_from
from nix.process import GRACE_SECONDS, Completed, find, run
from nix.terminal import decode

PROGRAMS = ("nix-build", "nix-env", "nix-instantiate", "nix-store")
CALL_SECONDS = 120
CHECK_SECONDS = 10
PATHS_PER_CALL = 1000

# Nix's own attempts at a download, within each attempt at a task: where there is no network at all,
# a task ends within seconds. A Nix daemon goes by its own nix.conf.
DOWNLOAD_OPTIONS = (
    *("--option", "download-attempts", "3"),
    *("--option", "connect-timeout", "10"),
)

# The service's secrets, which expressions and builders could read from the environment.
# Only publishing is given those of AWS.
AWS_SECRETS = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
SECRETS = {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL", *AWS_SECRETS}

# Variables that would lead Nix past a private store.
POINTERS = {"NIX_REMOTE", "NIX_PATH", "NIX_PROFILES", "NIX_USER_CONF_FILES"}

STORE_NAME = re.compile(r"[0-9a-df-np-sv-z]{32}-[\w+.?=-]+")
ERROR = re.compile(r"^(?:filesystem )?error:\s", re.MULTILINE)
TRACED_ERROR = re.compile(r"^ +error:\s", re.MULTILINE)
NOT_ON_SEARCH_PATH = re.compile(r"was not found in the Nix search path")
GIT = re.compile(r"\b[Gg]it\b")
GIT_FAULT = re.compile(r"^fatal: (?:unable to access|repository) '.*", re.MULTILINE)
INDENT = re.compile(r"^ {7}", re.MULTILINE)


@dataclass(frozen=True)
class Store:
    """A store, given by the environment that makes Nix's programs work on it.

    `has_no_builders` tells that its configuration is known to name no other machine to build on.
    """

    environ: Mapping[str, str]
    has_no_builders: bool = False

    @property
    def directory(self) -> Path:
        """The store directory, whether it exists or not."""
        return Path(self.environ.get("NIX_STORE_DIR", "/nix/store"))

    @property
    def folder(self) -> Path:
        """The store directory or, until Nix has created it, its nearest parent that exists."""
        folder = self.directory
        while not folder.exists():
            folder = folder.parent
        return folder

    def is_store_path(self, path: str) -> bool:
        """Tell whether `path` has the form of a store path of this store."""
        folder, _, name = path.rpartition("/")
        return folder == str(self.directory) and STORE_NAME.fullmatch(name) is not None

    def with_tmp(self, tmp: Path) -> "Store":
        """Return this store for one run, whose builders work under `tmp`."""
        return replace(self, environ={**self.environ, "TMPDIR": str(tmp)})

    def with_heap(self, size: int) -> "Store":
        """Return this store for evaluations that may use so many bytes of memory."""
        return replace(self, environ={**self.environ, "GC_MAXIMUM_HEAP_SIZE": str(size)})


def make_passable(folder: Path) -> None:
    """Make a folder, and those above it, where there is none; others may pass through, not list it.

    So they reach the programs of a profile in it, whatever the umask.
    """
    if not folder.is_dir():
        make_passable(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)


def machine_store(home: Path) -> Store:
    """Return the machine's own store; nix-env may write in `home`."""
    make_passable(home.parent)
    home.mkdir(mode=0o700, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    if not os.path.exists(kept.get("NIX_STATE_DIR", "/nix/var/nix")):
        # Else newer versions of Nix use a store in `home`, whose paths are not where they say.
        kept.setdefault("NIX_REMOTE", "local")
    return Store({**kept, "HOME": str(home), "TZ": "UTC"})


def private_store(root: Path, **settings: str) -> Store:
    """Return a store in the folder `root`, which needs no root user and no daemon.

    `settings` are those of nix.conf, with underscores for hyphens.
    """
    root = root.resolve()
    home = root / "home"
    inherited = {k: v for k, v in machine_store(home).environ.items() if k not in POINTERS}
    folders = {
        "NIX_STORE_DIR": root / "store",
        "NIX_STATE_DIR": root / "var" / "nix",
        "NIX_LOG_DIR": root / "var" / "log" / "nix",
        "NIX_LOCALSTATE_DIR": root / "var",
        "NIX_CONF_DIR": root / "etc",
        "NIX_DAEMON_SOCKET_PATH": root / "socket",
        "XDG_CACHE_HOME": home / ".cache",
        "XDG_CONFIG_HOME": home / ".config",
    }
    own = {name: str(folder) for name, folder in folders.items()}
    environ = {**inherited, **own, "NIX_CONFIG": _private_config(settings)}
    return Store(environ, has_no_builders=not settings.get("builders"))


def _private_config(settings: Mapping[str, str]) -> str:
    config = {
        "sandbox": "false",
        "build_users_group": "",
        "substitute": "false",
        "substituters": "",
        "builders": "",
        "build_poll_interval": "1",
        **settings,
    }
    return "\n".join(f"{name.replace('_', '-')} = {value}" for name, value in config.items())


def find_programs(store: Store) -> None:
    """Raise NixMissing unless every program that is needed is on PATH."""
    find(PROGRAMS, store.environ)


def check(store: Store) -> None:
    """Ask the store a question. Raises NixMissing, or NixUnavailable where it has no answer."""
    find_programs(store)
    absent = f"{store.directory}/{'0' * 32}-absent"
    argv = ["nix-store", "--check-validity", "--print-invalid", absent]
    try:
        text(call(store, argv, seconds=CHECK_SECONDS, grace_seconds=0), NixUnavailable)
    except TimedOut:
        raise NixUnavailable(f"the store did not answer within {CHECK_SECONDS} s") from None


def version(store: Store) -> str:
    """Return Nix's version."""
    return text(call(store, ["nix-store", "--version"])).strip().rpartition(" ")[2]


def find_channel(store: Store, name: str) -> Path | None:
    """Return the path that <name> stands for on Nix's search path; None if it is not there."""
    found = call(store, ["nix-instantiate", "--find-file", name])
    if found.code and NOT_ON_SEARCH_PATH.search(decode(found.stderr)):
        return None
    return Path(text(found).strip())


def call(
    store: Store,
    argv: Sequence[str],
    *,
    seconds: float = CALL_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
    beat: Callable[[], None] = lambda: None,
    is_build: bool = False,
    is_brief: bool = False,
) -> Completed:
    """Run a program of Nix; `beat` is called every TICK_SECONDS, and ends it by raising."""
    return run(
        argv,
        environ=store.environ,
        seconds=seconds,
        grace_seconds=grace_seconds,
        heard=lambda _: beat(),
        is_build=is_build,
        is_brief=is_brief,
    )


def text(done: Completed, kind: type[NixError] = NixError) -> str:
    """Return what a program wrote to stdout; if it failed, raise its message as a `kind`."""
    try:
        return output(done, kind).decode()
    except UnicodeDecodeError as error:
        raise kind(f"what Nix wrote is not UTF-8: {error}") from None


def output(done: Completed, kind: type[NixError] = NixError) -> bytes:
    """Return the bytes that a program wrote to stdout; if it failed, raise like `text`."""
    if done.code:
        raise error_from(error_message(done), kind)
    return done.stdout


def error_message(done: Completed) -> str:
    """Return the error message that a program wrote, without the trace before it."""
    stderr = "\n".join(decode(line) for line in done.stderr.split(b"\n"))
    message = ERROR.split(stderr.split("\n(use '--show-trace'")[0], maxsplit=1)[-1]
    reason = INDENT.sub("", TRACED_ERROR.split(message)[-1]).strip()
    # What made git fail is in its own message, which Nix does not repeat.
    fault = GIT_FAULT.search(stderr) if GIT.search(reason) else None
    return f"{fault[0]}\n{reason}" if fault else reason


def call_in_batches(store: Store, argv: Sequence[str], paths: Iterable[str]) -> Iterator[str]:
    """Yield the words that a program answers when called with `paths`, PATHS_PER_CALL at a time."""
    rest = iter(paths)
    while batch := list(islice(rest, PATHS_PER_CALL)):
        yield from text(call(store, [*argv, *batch])).split()
