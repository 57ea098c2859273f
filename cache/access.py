"""What nginx knows of tokens, so that it serves files of the binary cache without asking pkgd.

nginx reads the file that `auth_basic_user_file` names at each request. So there is a file for each
token that was used at the cache, in the folder CACHE_ACCESS_DIR: `TOKEN.PERIOD`, with what HTTP
Basic has to send. It holds a SHA-1 of the secret without a salt, which says nothing of it: a secret
is 256 random bits.

nginx forms the name itself, by the login and by its own clock. A file is thus good for a period
alone, even where nobody is left to remove it. A token that expires in the period has none. A token
that is revoked loses its file in the same transaction; the lock on the token's row has that and the
writing of a file take turns.
"""

import base64
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select, update

from models import DATABASE_AWAY, Token, cause, db, utcnow
from nix import trees

log = logging.getLogger("pkgd.auth")

# nginx's part is the three last digits that deploy/nginx/http.conf cuts off the time.
PERIOD_SECONDS = 1000
MARGIN_SECONDS = 60  # by which nginx's clock may be behind, at the most
AGAIN_SECONDS = 60
HOW = "make it so: install -d -o pkgd -g www-data -m 2750 PATH"
MODE = 0o640
NAME = re.compile(r"token-([0-9]+)\.([0-9]+)", re.ASCII)
ANY = re.compile(rf"{NAME.pattern}|\.{NAME.pattern}\.[0-9a-f]{{16}}", re.ASCII)  # drafts, too
TOO_OPEN = stat.S_IWGRP | stat.S_IWOTH


class Entry(NamedTuple):
    """A file that admits a token for a period."""

    path: Path
    token_id: int
    period: int


class CacheAccess:
    """The files by which nginx verifies tokens; none where there is no folder for them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writing = threading.Lock()
        self._again_at = 0.0

    def fault(self) -> str | None:
        """Return why the folder can't be used; None where it can, or there is none."""
        folder = self._folder
        if folder is None:
            return None
        if not (folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
            return f"CACHE_ACCESS_DIR {folder} is no folder that can be written; {HOW}"
        if folder.stat().st_mode & TOO_OPEN:
            return f"CACHE_ACCESS_DIR {folder} can be written by others, who could let anybody in"
        return None

    def admit(self, token_id: int, expires_at: datetime, secret: str) -> None:
        """Have nginx take a secret with the login `token-ID`, where that is a live token's.

        Do nothing for a token that expires soon; log what prevents it, and wait a minute then.
        """
        period = _period()
        end = (period + 1) * PERIOD_SECONDS + MARGIN_SECONDS
        if self._folder is None or expires_at.timestamp() < end:
            return
        path = self._folder / f"{login_of(token_id)}.{period}"
        is_wanted = not path.exists() and time.monotonic() >= self._again_at
        # Of the requests that come at once, one writes.
        if not (is_wanted and self._writing.acquire(blocking=False)):
            return
        try:
            self._write(token_id, path, secret)
        except (*DATABASE_AWAY, OSError) as error:
            db.session.rollback()
            self._again_at = time.monotonic() + AGAIN_SECONDS
            log.warning("nginx is not told of token %d: %s", token_id, cause(error))
        finally:
            self._writing.release()

    def _write(self, token_id: int, path: Path, secret: str) -> None:
        """Write a token's file, unless the token is revoked meanwhile; remove those of the past."""
        live = Token.id == token_id, Token.revoked_at.is_(None)
        used = update(Token).where(*live).values(last_used_at=utcnow()).returning(Token.id)
        if db.session.execute(used).one_or_none() is not None:
            digest = base64.b64encode(hashlib.sha1(secret.encode()).digest()).decode()  # noqa: S324
            _replace(path, f"{login_of(token_id)}:{{SHA}}{digest}\n")
            _remove(one.path for one in self._entries() if one.period < _period())
        db.session.commit()

    def dismiss(self, token_ids: Collection[int]) -> None:
        """Have nginx take these tokens no more, before their revocation is committed.

        Raises OSError.
        """
        _remove(one.path for one in self._entries() if one.token_id in token_ids)

    def dismiss_dead(self) -> None:
        """Have nginx take no tokens that have been revoked elsewhere, or are unknown."""
        admitted = {one.token_id for one in self._entries()}
        if admitted:
            live = select(Token.id).where(Token.revoked_at.is_(None), Token.expires_at > utcnow())
            dead = admitted.difference(db.session.scalars(live.where(Token.id.in_(admitted))))
            db.session.rollback()
            self.dismiss(dead)

    def clear(self) -> None:
        """Remove all files, as at a start: the keys or the database may be others."""
        _remove(path for path in self._paths() if ANY.fullmatch(path.name))

    def _entries(self) -> list[Entry]:
        found = [(path, NAME.fullmatch(path.name)) for path in self._paths()]
        return [Entry(path, int(name[1]), int(name[2])) for path, name in found if name]

    def _paths(self) -> list[Path]:
        return trees.listed(self._folder) if self._folder else []


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def login_of(token_id: int) -> str:
    """Return the login by which nginx finds a token."""
    return f"token-{token_id}"


def _period() -> int:
    return int(utcnow().timestamp()) // PERIOD_SECONDS


def _replace(path: Path, text: str) -> None:
    """Write a file that its group may read, in one step."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(draft, "x") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(text)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
