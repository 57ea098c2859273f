"""The store: which one Nix works on, and how its programs are called."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nix.internal_json import decode, failure
from nix.process import GRACE_SECONDS, Completed, NixError, find, run

PROGRAMS = ("nix-build", "nix-env", "nix-instantiate", "nix-store")
CALL_SECONDS = 120

# What the service keeps to itself: an expression could read it, and so could what Nix runs.
SECRETS = {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL"}

# What would lead Nix past a private store.
POINTERS = {"NIX_REMOTE", "NIX_PATH", "NIX_PROFILES", "NIX_USER_CONF_FILES"}

ERROR = re.compile(r"^error:\s", re.MULTILINE)
TRACED_ERROR = re.compile(r"^ +error:\s", re.MULTILINE)
MARGIN = re.compile(r"^ {7}", re.MULTILINE)


@dataclass(frozen=True)
class Store:
    """A store, as the environment that makes Nix's programs work on it."""

    environ: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """The folder that holds the store paths; before Nix has made it, the one to hold it."""
        folder = Path(self.environ.get("NIX_STORE_DIR", "/nix/store"))
        while not folder.exists():
            folder = folder.parent
        return folder

    def with_tmp(self, tmp: Path) -> "Store":
        """Return the store for one run, whose builders work under `tmp`."""
        return replace(self, environ={**self.environ, "TMPDIR": str(tmp)})


def machine_store(home: Path) -> Store:
    """Return the machine's own store; `home` is where nix-env may write."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return Store({**kept, "HOME": str(home), "TZ": "UTC"})


def private_store(root: Path, **settings: str) -> Store:
    """Return a store of one's own under `root`, which needs no rights; settings as in nix.conf."""
    root = root.resolve()
    home = root / "home"
    places = {
        "NIX_STORE_DIR": root / "store",
        "NIX_STATE_DIR": root / "var" / "nix",
        "NIX_LOG_DIR": root / "var" / "log" / "nix",
        "NIX_LOCALSTATE_DIR": root / "var",
        "NIX_CONF_DIR": root / "etc",
        "NIX_DAEMON_SOCKET_PATH": root / "socket",
        "XDG_CACHE_HOME": home / ".cache",
        "XDG_CONFIG_HOME": home / ".config",
    }
    config = {
        "sandbox": "false",
        "build_users_group": "",
        "substitute": "false",
        "substituters": "",
        "builders": "",
        "build_poll_interval": "1",
        **settings,
    }

    kept = {k: v for k, v in machine_store(home).environ.items() if k not in POINTERS}
    placed = {name: str(place) for name, place in places.items()}
    lines = (f"{name.replace('_', '-')} = {value}" for name, value in config.items())
    return Store({**kept, **placed, "NIX_CONFIG": "\n".join(lines)})


def check(store: Store) -> None:
    """Raise NixMissing unless every program that is needed is on PATH."""
    find(PROGRAMS, store.environ)


def call(
    store: Store,
    argv: Sequence[str],
    *,
    seconds: float = CALL_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
    beat: Callable[[], None] = lambda: None,
) -> Completed:
    """Run a program of Nix; `beat` is called all the while, and ends it by raising."""
    return run(
        argv,
        environ=store.environ,
        seconds=seconds,
        grace_seconds=grace_seconds,
        heard=lambda _: beat(),
    )


def text(done: Completed, otherwise: type[NixError] = NixError) -> str:
    """Return what a program wrote; if it failed raise what it says, `otherwise` by default."""
    if done.code:
        raise failure(complaint(done), otherwise)
    return done.stdout.decode()


def complaint(done: Completed) -> str:
    """Return Nix's own reason for failing, without the trace that leads to it."""
    said = "\n".join(decode(line) for line in done.stderr.split(b"\n"))
    said = said.split("\n(use '--show-trace'")[0]
    reason = ERROR.split(said, maxsplit=1)[-1]
    return MARGIN.sub("", TRACED_ERROR.split(reason)[-1]).strip()
