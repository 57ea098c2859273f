"""What `flask doctor` looks at on the host: Nix, the disk, the clock, the unit."""

import grp
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flask import current_app

import nix
import services
from cache import publishing
from cache.access import CacheAccess
from catalogs.state import Catalogs
from commands.findings import Finding, error, ok, warning
from config import PRODUCTION
from database import is_usable

SYSTEMD = Path("/run/systemd/system")  # exists where systemd runs the machine
UNIT_SECONDS = 10
EVALUATION_SECONDS = 40
CONNECT_SECONDS = 5
ROOM = 4  # times MIN_FREE_BYTES: with less free, warn before tasks wait
UNIT_FACTS = ("LoadState", "ActiveState", "Result", "NRestarts", "NeedDaemonReload")


def nix_itself() -> Iterator[Finding]:
    """Look whether Nix is there, and its store answers."""
    store = services.get(nix.Store)
    try:
        nix.find_programs(store)
        if not _is_made(store):
            yield ok("nix", f"it is there; the first task makes the store {store.directory}")
            return
        nix.check(store)
        version = nix.version(store)
    except nix.NixError as fault:
        how = fault.hint or "install Nix (docs/operations.md, Install), and start its daemon"
        yield error("nix", str(fault), how)
        return
    yield ok("nix", f"Nix {version}, the store {store.directory}")


def _is_made(store: nix.Store) -> bool:
    """Tell whether there is a store: any question to Nix, even for its version, makes it."""
    return store.directory.exists()


def sandbox() -> Iterator[Finding]:
    """Look whether builds are kept from the host."""
    value = nix.setting(services.get(nix.Store), "sandbox") or "true, by default"
    if value.startswith("true"):
        yield ok("sandbox", value)
        return
    private = current_app.config["STORE_DIR"] is not None
    text = f"{value}: builds can read, and without a daemon do, what the service can"
    how = "unset STORE_DIR" if private else "set sandbox = true in nix.conf, restart nix-daemon"
    in_earnest = current_app.config["APP_ENV"] == PRODUCTION
    if in_earnest:
        yield warning("sandbox", text, f"{how}, or trust all catalogs (SECURITY.md, Builds)")
    else:
        yield ok("sandbox", text)


def daemon() -> Iterator[Finding]:
    """Look whether Nix's daemon, where the store needs one, takes connections."""
    store = services.get(nix.Store)
    path = nix.daemon_socket(store)
    if path is None:
        yield ok("daemon", "not needed: this user may write to the store itself")
        return
    try:
        with closing(socket.socket(socket.AF_UNIX)) as link:
            link.settimeout(CONNECT_SECONDS)
            link.connect(str(path))
    except OSError as fault:
        how = "systemctl start nix-daemon.socket; the user must be in the group nix-users"
        yield error("daemon", f"{path}: {fault.strerror or fault}", how)
        return
    yield ok("daemon", str(path))


def build_users() -> Iterator[Finding]:
    """Look whether the daemon, or root, has users to build as."""
    store = services.get(nix.Store)
    needs = nix.daemon_socket(store) is not None or os.geteuid() == 0
    group = nix.setting(store, "build-users-group")
    group = "nixbld" if group is None else group
    if not needs or not group:
        yield ok("build users", "none are needed: builds run as the user of the service")
        return
    try:
        members = grp.getgrnam(group).gr_mem
    except KeyError:
        members = []
    if members:
        yield ok("build users", f"{len(members)} in the group {group}")
    else:
        how = "install Nix's daemon (apt-get install nix-setup-systemd), which makes them"
        yield error("build users", f"the group {group} is missing, or has no members", how)


def catalogs() -> Iterator[Finding]:
    """Evaluate each catalog, and look whether it wants a newer Nix."""
    known, store = services.get(Catalogs), services.get(nix.Store)
    if not _is_made(store):
        yield ok("catalogs", "not evaluated before there is a store")
        return
    for catalog in known.in_order() if is_usable() else known.configured:
        about = f"catalog {catalog.name}"
        failures = nix.failing(store, [catalog], seconds=EVALUATION_SECONDS)
        if failures:
            told = f"{failures[0].code}: {failures[0].message}"
            how = "correct CATALOGS, or see flask catalog list"
            if failures[0].code == nix.NixTooOld.code:
                how = "install a newer Nix, or take an older pin (flask catalog update)"
            yield error(about, told, how)
            continue
        wanted = known.nix_wanted(catalog)
        yield ok(about, f"it evaluates; it wants Nix {wanted}" if wanted else "it evaluates")


def disk() -> Iterator[Finding]:
    """Look how much space there is for DATA_DIR and the store."""
    for folder in (current_app.config["DATA_DIR"], services.get(nix.Store).folder):
        yield _space(folder)


def _space(folder: Path) -> Finding:
    """Tell how much space there is under a folder."""
    free, needed = shutil.disk_usage(folder).free, current_app.config["MIN_FREE_BYTES"]
    text = f"{free:,} bytes free at {folder}, MIN_FREE_BYTES is {needed:,}"
    if free < needed:
        return error("disk", f"{text}: tasks wait", "make room: flask gc, flask prune")
    if free < ROOM * needed:
        return warning("disk", text, "make room: flask gc, flask prune")
    return ok("disk", text)


def cache() -> Iterator[Finding]:
    """Look whether the binary cache can be reached and its key used, and at the space for it."""
    where = publishing.cache(current_app.config)
    if where is None:
        yield ok("cache", "none: CACHE is not set")
        return
    try:
        key = nix.public_key(where.key_file)
        nix.ping(services.get(nix.Store), where)
    except nix.NixError as fault:
        yield error("cache", str(fault), fault.hint)
        return
    if unusable := services.get(CacheAccess).fault():
        yield error("cache", unusable, "see docs/operations.md, Cache")
        return
    if where.folder is not None and where.folder.exists():
        yield _space(where.folder)
    yield ok("cache", f"{where.public_uri}, signed as {key.partition(':')[0]}")


def unit() -> Iterator[Finding]:
    """Look at the state of systemd's units."""
    if not SYSTEMD.exists():
        yield ok("unit", "systemd does not run this machine")
        return
    for name in ("pkgd.service", "pkgd.socket"):
        yield _unit(name, _show(["systemctl", "show", name, f"--property={','.join(UNIT_FACTS)}"]))


def _unit(name: str, facts: dict[str, str]) -> Finding:
    state, restarts = facts.get("ActiveState", "unknown"), facts.get("NRestarts", "0")
    log = f"journalctl --unit {name} -n 20 tells why; then systemctl start {name}"
    if facts.get("LoadState") != "loaded":
        return warning("unit", f"{name} is not installed", "install it (docs/operations.md)")
    if state == "failed":
        return error("unit", f"{name} has failed: {facts.get('Result')}", log)
    if state != "active":
        return warning("unit", f"{name} is {state}", log)
    if facts.get("NeedDaemonReload") == "yes":
        return warning("unit", f"{name} was changed", "systemctl daemon-reload, then restart it")
    if restarts not in ("", "0"):
        return warning("unit", f"{name} was started again {restarts} times", log)
    return ok("unit", f"{name} is {state}")


def clock() -> Iterator[Finding]:
    """Look whether the machine's clock is right."""
    ahead = current_app.config["DATA_DIR"].stat().st_mtime - time.time()
    if ahead > 1:
        text = (
            f"DATA_DIR was changed {ahead:.0f} s in the future: the clock was set back, or differs"
        )
        yield error("clock", text, "correct the clock: timedatectl set-ntp true")
    synchronized = "NTPSynchronized"
    facts = _show(["timedatectl", "show", f"--property={synchronized}"]) if SYSTEMD.exists() else {}
    if facts.get(synchronized) == "no":
        yield warning("clock", "not synchronized by NTP", "timedatectl set-ntp true")
    elif ahead <= 1:
        yield ok("clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _show(argv: list[str]) -> dict[str, str]:
    """Return what a program of systemd shows; nothing where it fails."""
    try:
        done = nix.run(argv, environ=dict(os.environ), seconds=UNIT_SECONDS)
    except nix.NixError:
        return {}
    pairs = (line.partition("=") for line in nix.decode(done.stdout).splitlines())
    return {name: value for name, _, value in pairs}


CHECKS = (disk, nix_itself, daemon, build_users, sandbox, catalogs, cache, clock, unit)
