"""What `flask doctor` looks at in the service: settings, keys, the data folder, the database."""

import os
import stat
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from flask import current_app
from sqlalchemy import func, select, text

import auth
import config
import data_folder
import drain
import gc_roots
import nix
import read_only
import services
from commands.findings import Finding, error, ok, warning
from database import backup_note, is_usable, sqlite_file, state
from models import Package, PackageStatus, Scope, Task, TaskStatus, Token, db, soon, utcnow
from worker import living_holders

BACKUP_AGE = timedelta(days=2)
CLOCK_SECONDS = 2.0
WAIT_SECONDS = 3600


def version() -> Iterator[Finding]:
    """Tell what runs here, and as whom."""
    kind = f"pkgd {config.VERSION} ({config.BUILD}), APP_ENV={current_app.config['APP_ENV']}"
    owner = current_app.config["DATA_DIR"].stat().st_uid
    if owner != os.geteuid():
        whose = f"run it as the user {owner}, who owns DATA_DIR, as docs/operations.md shows"
        yield warning("version", f"{kind}; this is the user {os.geteuid()}", whose)
    else:
        yield ok("version", kind)


def settings() -> Iterator[Finding]:
    """Tell which settings have no effect."""
    found = config.doubts(config.environment())
    for sentence in found:
        yield warning("settings", sentence, "remove or correct it")
    if not found:
        yield ok("settings", "all have an effect")


def keys() -> Iterator[Finding]:
    """Look who may read the files with secrets, and how long the key is."""
    length = len(current_app.config["SECRET_KEY"].encode())
    if length < config.SECRET_KEY_BYTES:
        text = f"SECRET_KEY has {length} bytes, and should have {config.SECRET_KEY_BYTES}"
        yield warning("keys", text, "make a longer one (docs/operations.md, Keys and tokens)")
    open_files = [path for path in _secret_files() if path.stat().st_mode & stat.S_IRWXO]
    for path in open_files:
        mode = stat.filemode(path.stat().st_mode)
        yield error("keys", f"others may use {path} ({mode})", f"chmod o= {path}")
    if length >= config.SECRET_KEY_BYTES and not open_files:
        yield ok("keys", f"SECRET_KEY has {length} bytes, and others can't read it")


def _secret_files() -> list[Path]:
    folder: Path = current_app.config["DATA_DIR"]
    given = current_app.config["SECRET_KEY_FILE"], sqlite_file(db.engine.url)
    paths = [Path(".env"), folder / "secret_key", *filter(None, given)]
    return [path for path in paths if path.exists()]


def data_dir() -> Iterator[Finding]:
    """Look whether the data folder is there, is ours, and can be written."""
    folder: Path = current_app.config["DATA_DIR"]
    try:
        data_folder.claim(record=False)
    except data_folder.NotYours as fault:
        yield error("data", str(fault), "correct the settings, or flask adopt")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield error("data", f"DATA_DIR {folder} can't be written", f"chown it to {os.geteuid()}")
        return
    nix.leads_to(current_app.config["PROFILE"])
    yield ok("data", f"DATA_DIR {folder} belongs to {data_folder.configured()}")


def proxies() -> Iterator[Finding]:
    """Look whether TRUSTED_PROXIES fits the address that the service listens on."""
    count, bind = current_app.config["TRUSTED_PROXIES"], current_app.config["BIND"]
    is_local = bind.startswith(("unix:", "127.")) or bind in ("localhost", "::1")
    said = f"TRUSTED_PROXIES is {count}, and pkgd listens on {bind}"
    if count and not is_local:
        how = "set BIND=127.0.0.1, or see that only the proxy reaches it"
        yield warning("proxies", f"{said}: who gets past the proxy can forge an address", how)
    elif not count and not is_local:
        how = "install the front door (docs/operations.md), and set TRUSTED_PROXIES=1"
        yield error("proxies", f"{said}: slow clients can keep everybody from being served", how)
    elif not count and current_app.config["APP_ENV"] == config.PRODUCTION:
        how = "set it to the number of proxies in front"
        yield warning("proxies", f"{said}: behind a proxy all clients are one address", how)
    else:
        yield ok("proxies", said)


# --- The database ---


def database() -> Iterator[Finding]:
    """Look whether the database answers, with which schema, and how SQLite keeps it."""
    url = db.engine.url.render_as_string()
    file = sqlite_file(db.engine.url)
    if file is not None and not file.exists():
        yield error("database", f"there is no file {file}", "flask init-db, or restore a backup")
        return
    found = state()
    if found != "ok":
        yield error("database", f"{url}: {found}", "docs/operations.md, Restore and Upgrade")
        return
    with db.engine.connect() as connection:
        if file is not None and connection.scalar(text("PRAGMA journal_mode")) != "wal":
            how = "flask init-db sets it while the service is stopped"
            yield warning("database", f"{url} is not in WAL mode: writers block readers", how)
            return
    yield ok("database", f"{url}, its schema is current")


def tokens() -> Iterator[Finding]:
    """Look whether somebody can administer the service, and with this key."""
    if not is_usable():
        return
    live = Token.revoked_at.is_(None), Token.expires_at > utcnow(), Token.scope == Scope.ADMIN
    count = db.session.scalar(select(func.count()).select_from(Token).where(*live))
    if not auth.fits_key():
        how = "put the former key back, or among SECRET_KEY_FALLBACKS"
        yield error("tokens", "SECRET_KEY fits none of the live tokens", how)
    elif not count:
        yield warning("tokens", "no live token is an admin's", "flask create-token")
    else:
        yield ok("tokens", f"{count} live of scope admin")


def times() -> Iterator[Finding]:
    """Compare the clock with the database's, or with the times in a file."""
    if not is_usable():
        return
    if db.engine.dialect.name == "postgresql":
        there = db.session.scalar(select(func.clock_timestamp()))
        apart = abs((there - utcnow()).total_seconds()) if there else 0.0
    else:
        newest = db.session.scalar(select(func.max(Task.created_at)))
        apart = (newest - utcnow()).total_seconds() if newest else 0.0
    if apart > CLOCK_SECONDS:
        how = "correct both clocks by NTP: leases are times"
        yield error("clock", f"the times in the database are {apart:.0f} s from this clock", how)


def queue() -> Iterator[Finding]:
    """Look whether tasks are taken, by whom, and how long they wait."""
    reason = read_only.REASON if read_only.is_set() else None
    reason = reason or drain.reason(current_app.config["DATA_DIR"])
    if reason:
        how = "unset READ_ONLY, and restart" if read_only.is_set() else "flask resume"
        yield warning("queue", reason, how)
    pools = len(living_holders(current_app.config["DATA_DIR"] / "holders"))
    if not pools and not read_only.is_set():
        how = "start the service, or flask run-worker; WORKER_THREADS must not be 0"
        yield warning("queue", "no worker runs with this DATA_DIR", how)
    if not is_usable():
        return
    oldest = db.session.scalar(
        select(func.min(Task.created_at)).where(Task.status == TaskStatus.QUEUED)
    )
    if oldest is not None and oldest < soon(-WAIT_SECONDS):
        how = "waiting of the task says why (pkgctl tasks)"
        yield warning("queue", f"a task waits since {oldest:%Y-%m-%d %H:%M}Z", how)
    elif pools and not reason:
        yield ok("queue", f"{pools} processes take tasks")


def backups() -> Iterator[Finding]:
    """Look when the last backup was made by `flask backup`."""
    if sqlite_file(db.engine.url) is None:
        yield ok("backup", "PostgreSQL's own (pg_dump), of which pkgd doesn't know")
        return
    how = "flask backup each night (docs/operations.md, Backup), or Litestream"
    note = backup_note()
    try:
        age = timedelta(seconds=time.time() - note.stat().st_mtime)
    except FileNotFoundError:
        yield warning("backup", "flask backup has never made one from here", how)
        return
    last = f"{note.read_text(errors='replace')}, {age.total_seconds() / 3600:.0f} hours ago"
    yield warning("backup", last, how) if age > BACKUP_AGE else ok("backup", last)


def roots() -> Iterator[Finding]:
    """Look whether Nix keeps what was downloaded."""
    if not is_usable():
        return
    store, folder = services.get(nix.Store), current_app.config["DATA_DIR"]
    known = nix.known_roots(store)
    paths = select(Package.id, Package.store_paths).where(Package.status != PackageStatus.CREATED)
    rows = db.session.execute(paths).all()
    bare = [
        row
        for row in rows
        if not gc_roots.are_complete(folder, row.id, row.store_paths or [], known)
    ]
    if bare:
        text = f"{len(bare)} of {len(rows)} downloaded packages have no GC root"
        yield error("roots", text, "flask reconcile, before anything collects garbage")
    else:
        yield ok("roots", f"Nix keeps all {len(rows)} downloaded packages")


CHECKS = (
    version,
    settings,
    keys,
    data_dir,
    database,
    tokens,
    queue,
    backups,
    proxies,
    roots,
    times,
)
