"""Doubts about settings that can be used, but may not do what they were set for."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from config import SETTINGS, dot_env, read

# name: the setting beside which it has no effect
INEFFECTIVE = {
    "DB_PATH": "DATABASE_URL",
    "SECRET_KEY_FILE": "SECRET_KEY",
    "NIX_PATH": "STORE_DIR",
    "NIX_REMOTE": "STORE_DIR",
    "NIX_CONFIG": "STORE_DIR",
    "NIX_CONF_DIR": "STORE_DIR",
    "NIX_USER_CONF_FILES": "STORE_DIR",
    "NIX_STORE_DIR": "STORE_DIR",
    "NIX_STATE_DIR": "STORE_DIR",
    # By which systemd hands over the socket of deploy/pkgd.socket.
    "BIND": "LISTEN_FDS",
    "PORT": "LISTEN_FDS",
}
# Names in a `.env` file that are other programs': those of compose.yaml, Flask and pkgctl.
FOREIGN = re.compile(r"POSTGRES_PASSWORD|(COMPOSE|FLASK|PKGCTL)_.*")
SHORT_NAME = 5


def found(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence about each setting that has no effect, or seems to be misspelt.

    `environ` is one that `load` accepts.
    """
    in_file = dot_env()
    unknown = [name for name in {**in_file, **environ} if name not in SETTINGS]
    sentences = (_doubt(name, is_ours=name in in_file) for name in sorted(unknown))
    return [*_without_effect(environ), *filter(None, sentences)]


def _without_effect(environ: Mapping[str, str]) -> Iterator[str]:
    def is_set(name: str) -> bool:
        return environ.get(name, "").strip() != ""

    for name, other in INEFFECTIVE.items():
        if is_set(name) and is_set(other):
            yield f"{name} has no effect beside {other}"

    for name, other in (("MAX_FOLLOWERS", "WEB_THREADS"), ("SILENCE_SECONDS", "BUILD_SECONDS")):
        value, limit = (read(one, environ.get(one, "")) for one in (name, other))
        if is_set(name) and value >= limit:
            yield f"{name} is {value}, which limits nothing beside {other}, {limit}"


def _doubt(name: str, *, is_ours: bool) -> str:
    """Return a sentence about a name that is no setting; "" where it may well be another's.

    `is_ours` tells that it is in the `.env` file, where there should be settings alone.
    """
    if FOREIGN.fullmatch(name) or not (is_ours or len(name) > SHORT_NAME):
        return ""
    near = get_close_matches(name.upper(), SETTINGS, n=1, cutoff=0.7 if is_ours else 0.85)
    if near:
        return f"{name!r} is no setting; did you mean {near[0]}?"
    return f"{name!r} in .env is no setting, and has no effect on the service" if is_ours else ""
