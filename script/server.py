"""Serve from this folder: `script/server` runs this module."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from config import PRODUCTION, ConfigError, listen_address, load
from script import store

BIN = ".venv/bin"
# The addresses that stand for all of a machine's, and one of them that can be asked.
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# The settings that other commands need to find the same service. Secrets aren't shown.
SHOWN = ("APP_ENV", "DATA_DIR", "DB_PATH", "SECRET_KEY_FILE")
HIDDEN = ("DATABASE_URL", "SECRET_KEY")


def main() -> None:
    """Choose a store, bring the database up to date, and become gunicorn."""
    try:
        settings = load()
    except ConfigError as error:
        sys.exit(f"pkgd: {error}")

    choose_store(settings)
    init_db = subprocess.run([f"{BIN}/flask", "--app", "app", "init-db"], check=False)
    if init_db.returncode:
        sys.exit(init_db.returncode)
    os.environ["PKGD_BANNER"] = "\n".join(f"server: {line}" for line in banner(settings))
    os.execv(f"{BIN}/gunicorn", ["gunicorn", "app:create_app()"])


def choose_store(settings: dict[str, Any]) -> None:
    """Set STORE_DIR to a private store where nothing can be built in the machine's own."""
    if settings["STORE_DIR"]:
        return
    folder = private_store(settings["DATA_DIR"])
    fault = "" if folder.exists() else store.fault()
    if fault:
        say(f"this machine's Nix store can't be used ({fault}); using a private one, {folder}")
    if fault or folder.exists():
        os.environ["STORE_DIR"] = str(folder)


def private_store(data_dir: Path) -> Path:
    """Return where the private store is: Nix's built-in builders fail below a path with a space."""
    if " " not in str(data_dir):
        return data_dir / "nix"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    if not os.path.isabs(home):
        sys.exit(
            "server: DATA_DIR has a space, and there is no home folder for the store: set STORE_DIR"
        )
    return Path(home) / "pkgd" / "nix"


def banner(settings: dict[str, Any]) -> Iterator[str]:
    """Yield what to say once the server listens."""
    bind = settings["BIND"]
    if bind.startswith("unix:"):
        socket = bind.removeprefix("unix:")
        url, curl = "http://localhost", f"curl --unix-socket {shlex.quote(socket)} -X POST"
        yield f"serving on the socket {socket}; Ctrl-C stops it"
    else:
        url = "http://" + listen_address(settings | {"BIND": ANY.get(bind, bind)})
        curl = "curl -X POST"
        yield f"serving on http://{listen_address(settings)}; Ctrl-C stops it"

    is_open = settings["APP_ENV"] != PRODUCTION and is_asked_locally(bind)
    if is_open:
        yield f"make the first token:  {curl} {url}/api/v1/tokens"
    another = "make another one here: " if is_open else "make a token here: "
    yield f"{another}{' '.join((*given(), f'{BIN}/flask --app app create-token'))}"
    if not bind.startswith("unix:"):
        yield f"install packages with:  {BIN}/pkgctl login {url}"
        yield f'have pkgctl on PATH:    export PATH={shlex.quote(os.path.abspath(BIN))}:"$PATH"'


def is_asked_locally(bind: str) -> bool:
    """Tell whether a request of this machine comes from a loopback address."""
    if bind.startswith("unix:") or bind in ANY or bind == "localhost":
        return True
    try:
        return ip_address(bind).is_loopback
    except ValueError:
        return False


def given() -> Iterator[str]:
    """Yield the settings that came with the environment, as a shell reads them."""
    for name in SHOWN:
        if value := os.environ.get(name):
            yield f"{name}={shlex.quote(value)}"
    yield from (f'{name}="${name}"' for name in HIDDEN if os.environ.get(name))


def say(line: str) -> None:
    """Say a line as the script."""
    print(f"server: {line}", flush=True)


if __name__ == "__main__":
    main()
