"""Every setting, read once from the environment or a `.env` file, and the version."""

import ipaddress
import os
import re
import secrets
import shlex
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from dotenv import dotenv_values
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

import data_folder
import nix
from webhooks.addresses import PrivateAddresses

HERE = Path(__file__).resolve().parent
BUNDLED_CATALOG = HERE / "catalog"
VERSION: str = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["version"]
BUILD = "20261125"
PRODUCTION = "production"
DEVELOPMENT = "development"
SECRET_KEY_BYTES = 32
EXAMPLE_SECRET_KEYS = {"change-me", "changeme", "secret", "dev", "default"}
MIB = 1024 * 1024
BODY_BYTES = 64 * 1024
STALL_SECONDS = 5  # how long a thread waits for the next byte of a client, either way
DAY = 86_400
CENTURY_DAYS = 36_500
MANY = 1_000_000
SOCKET_BYTES = 107  # the longest path that Linux gives a Unix socket

WORD = re.compile(r"""(?:"([^"]+)"|'([^']+)')(?!\S)|(\S+)""")
TEXT = re.compile(r"[^\0\ud800-\udfff]*")
LOCATION = re.compile(r"/([\w-]+/)+", re.ASCII)
HOST = re.compile(r"[\w.-]+", re.ASCII)


class ConfigError(Exception):
    """A setting has a value that pkgd can't run with; the message is one line."""


def refuse_start(reason: object) -> NoReturn:
    """End the process with one line, and with a status at which systemd doesn't try again.

    That is for what stays wrong until somebody changes the configuration or the database.
    """
    end = SystemExit(f"pkgd: {reason}")
    end.code = os.EX_CONFIG
    print(end, file=sys.stderr, flush=True)
    raise end from None


def _words(value: str) -> tuple[str, ...]:
    """Split at white space; a word that begins with a quote goes on to the next such quote."""
    return tuple(match[match.lastindex] for match in WORD.finditer(value) if match.lastindex)


def _secrets(value: str) -> tuple[str, ...]:
    """Return the words, and those of a version that knew no quotes: a key may begin with one."""
    return tuple(dict.fromkeys((*_words(value), *value.split())))


def _path(value: str) -> Path:
    user = value.partition("/")[0]
    if user.startswith("~"):
        no_home = user == "~" and os.environ.get("HOME") == ""
        if no_home or not os.path.isabs(os.path.expanduser(user)):
            raise ConfigError(f"is {value!r}, but {user} is no home folder here")
    return Path(value).expanduser().absolute()


def _catalogs(value: str) -> tuple[str, ...]:
    words = _words(value)
    if any(word[0] in "\"'" for word in words):
        raise ConfigError(f"is {value!r}, which has a quote without an end")
    return tuple(word if word[0] in "</" else str(_path(word)) for word in words)


def _command(value: str) -> str:
    """Return the command, with the path of its program expanded."""
    program, *arguments = shlex.split(value)
    return shlex.join([str(_path(program)) if "/" in program else program, *arguments])


def _bind(value: str) -> str:
    """Return `unix:` and the path of a socket, or a host, an IPv6 address without its brackets."""
    if value.startswith("unix:"):
        path = value.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError("no path")
        socket = _path(path)
        if len(os.fsencode(socket)) > SOCKET_BYTES:
            raise ConfigError(f"has a path of more than {SOCKET_BYTES} bytes, {socket}")
        return f"unix:{socket}"

    host = re.sub(r"^\[(.*)\]$", r"\1", value)
    return host if HOST.fullmatch(host) else str(ipaddress.ip_address(host))


def _cache(value: str) -> str:
    try:
        return nix.check_cache_uri(value)
    except ValueError as error:
        raise ConfigError(f"is {value!r}, which {error}") from None


def _private(value: str) -> PrivateAddresses:
    return PrivateAddresses.parse(value.split())


def _location(value: str) -> str:
    if not LOCATION.fullmatch(value):
        raise ValueError("no location")
    return value


def _yes_or_no(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("neither")
    return value == "true"


def _app_env(value: str) -> str:
    if value not in (DEVELOPMENT, PRODUCTION):
        raise ValueError("unknown")
    return value


def _number(default: int, low: int, high: int) -> tuple[Callable[[str], int], int, str]:
    """Return the entry of a whole number from `low` to `high`."""

    def number(value: str) -> int:
        if not low <= int(value) <= high:
            raise ValueError("out of range")
        return int(value)

    return number, default, f"a whole number from {low} to {high}"


# name: (parser, default, what a value must be)
SETTINGS: dict[str, tuple[Callable[[str], Any], Any, str]] = {
    "APP_ENV": (_app_env, DEVELOPMENT, f"{DEVELOPMENT} or {PRODUCTION}"),
    "DATABASE_URL": (str, "", "a database URL"),
    "DB_PATH": (_path, None, "a path"),
    "SECRET_KEY": (str, "", "a secret"),
    "SECRET_KEY_FILE": (_path, None, "a path"),
    "SECRET_KEY_FALLBACKS": (_secrets, (), "secrets, separated by spaces"),
    "DATA_DIR": (_path, None, "a path"),
    "PROFILE": (_path, None, "a path"),
    "STORE_DIR": (_path, None, "a path"),
    "CATALOGS": (_catalogs, (), "paths or <names>, separated by spaces"),
    "PROFILE_CHECK": (_command, "", "a command, quoted as in a shell"),
    "ALLOW_UNFREE": (_yes_or_no, False, "true or false"),
    "ALLOW_BROKEN": (_yes_or_no, False, "true or false"),
    "ALLOW_INSECURE": (_words, (), "names with versions, separated by spaces"),
    "NAME_LENGTH": _number(50, 2, 128),
    "INDEX_BYTES": _number(1024 * MIB, 0, MIB**3),
    "INDEX_SETS": (_words, ("python3Packages",), "names of sets, separated by spaces"),
    "INDEX_VERIFY": (_yes_or_no, True, "true or false"),
    "KEEP_GENERATIONS": _number(10, 1, MANY),
    "CACHE": (_cache, "", "file:///PATH or s3://BUCKET"),
    "CACHE_KEY_FILE": (_path, None, "a path"),
    "CACHE_ACCEL": (_location, "", "a path of nginx that begins and ends with /"),
    "CACHE_ACCESS_DIR": (_path, None, "a path"),
    "MAX_TRANSFERS": _number(4, 1, 4096),
    "BUILDERS": (str, "", "a list of machines as in Nix's own setting"),
    "READ_ONLY": (_yes_or_no, False, "true or false"),
    "WORKER_THREADS": _number(2, 0, 256),
    "LEASE_SECONDS": _number(30, 3, DAY),
    "BUILD_SECONDS": _number(3600, 1, 365 * DAY),
    "SILENCE_SECONDS": _number(600, 1, 365 * DAY),
    "LOG_BYTES": _number(16 * MIB, 1, MIB * MIB),
    "MIN_FREE_BYTES": _number(512 * MIB, 0, MIB**3),
    "MAX_FOLLOWERS": _number(8, 0, 4096),
    "MACHINE_SILENT_SECONDS": _number(600, 1, 365 * DAY),
    "WEBHOOK_PRIVATE": (
        _private,
        PrivateAddresses(),
        "addresses, networks (10.0.0.0/8) or host names, separated by spaces",
    ),
    "WEBHOOK_RETRY_SECONDS": _number(5, 1, 3600),
    "TASK_DAYS": _number(30, 1, CENTURY_DAYS),
    "EVENT_DAYS": _number(90, 7, CENTURY_DAYS),
    "METRICS_PUBLIC": (_yes_or_no, False, "true or false"),
    "TRUSTED_PROXIES": _number(0, 0, 100),
    "TOKEN_DAYS": _number(90, 1, CENTURY_DAYS),
    "BIND": (_bind, "127.0.0.1", "an address without a port, or unix:PATH"),
    "PORT": _number(8000, 1, 65_535),
    "WEB_PROCESSES": _number(2, 1, 256),
    "WEB_THREADS": _number(16, 1, 4096),
}


def environment() -> dict[str, str]:
    """Return the process's environment, over that of the `.env` file in the working directory.

    Raises ConfigError if that file can't be read.
    """
    return {**dot_env(), **os.environ}


def dot_env() -> dict[str, str]:
    """Return what the `.env` file in the working directory sets. Raises ConfigError."""
    try:
        found = dotenv_values(".env", encoding="utf-8-sig")  # without the mark of some editors
    except (OSError, UnicodeError) as error:
        raise ConfigError(f".env can't be read: {error}") from None
    return {name: value for name, value in found.items() if value}


def load(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return every setting by name, typed, defaults filled in; raise ConfigError on a bad one."""
    environ = environment() if environ is None else environ
    settings = {name: read(name, environ.get(name, "")) for name in SETTINGS}
    # As text, for a process that is to run with the same ones, whatever becomes of the `.env` file.
    settings["GIVEN"] = {name: environ.get(name, "") for name in SETTINGS}

    settings["DATA_DIR"] = settings["DATA_DIR"] or Path("data").absolute()
    settings["PROFILE"] = settings["PROFILE"] or settings["DATA_DIR"] / "profile"
    settings["STORE_DIR"] = settings["STORE_DIR"] or data_folder.remembered_store_dir(
        settings["DATA_DIR"]
    )
    _check_cache(settings)
    settings["DATABASE_URL"] = database_url(settings)
    settings["SECRET_KEY"] = _secret_key(settings)
    settings["SECRET_KEY_FALLBACKS"] += _unstripped_secrets(environ)
    return settings


def read(name: str, value: str) -> Any:
    """Return the value of a setting as its text says, or the default. Raises ConfigError."""
    parse, default, wanted = SETTINGS[name]
    value = value.strip()
    if value == "":
        return default
    if not TEXT.fullmatch(value):
        raise ConfigError(f"{name} contains bytes that are no text")
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{name} {error}") from None
    except ValueError:
        raise ConfigError(f"{name} is {value!r}, but must be {wanted}") from None


def _check_cache(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings of the cache that don't go together."""
    uri = settings["CACHE"]
    for name in ("CACHE_ACCEL", "CACHE_ACCESS_DIR"):
        if settings[name] and not settings["TRUSTED_PROXIES"]:
            raise ConfigError(f"{name} needs nginx in front, and TRUSTED_PROXIES to count it")
    if not uri:
        return
    if settings["CACHE_KEY_FILE"] is None:
        raise ConfigError("CACHE needs CACHE_KEY_FILE, a path; flask cache-key then makes the key")
    folder, store_dir = nix.Cache(uri, settings["CACHE_KEY_FILE"]).folder, settings["STORE_DIR"]
    store = store_dir / "store" if store_dir else Path("/nix/store")
    if folder and (
        folder.is_relative_to(store)
        or store.is_relative_to(folder)
        or settings["DATA_DIR"].is_relative_to(folder)
    ):
        raise ConfigError(f"CACHE is {uri}, but needs a folder of its own, as DATA_DIR/cache is")


# --- The address to listen on ---


def listen_address(settings: Mapping[str, Any]) -> str:
    """Return what gunicorn listens on: HOST:PORT, an IPv6 address in brackets, or unix:PATH."""
    bind, port = settings["BIND"], settings["PORT"]
    if bind.startswith("unix:"):
        return str(bind)
    return f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"


# --- The database ---


def database_url(settings: Mapping[str, Any]) -> str:
    """Return the URL of the database as SQLAlchemy takes it. Raises ConfigError."""
    given: str = settings["DATABASE_URL"]
    if not given:
        path = settings["DB_PATH"] or settings["DATA_DIR"] / "app.db"
        path = _former_or_new(path, Path(unquote(str(path))))
        return _text(URL.create("sqlite", database=str(path)))

    scheme, _, rest = given.partition("://")
    if scheme in ("postgres", "postgresql"):
        given = f"postgresql+psycopg://{rest}"
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # its message would show the password
        raise ConfigError("DATABASE_URL is no URL") from None

    if url.drivername == "postgresql+psycopg":
        return given
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigError(f"DATABASE_URL is of {url.drivername}, not of postgresql or sqlite")
    return _text(url.set(database=_sqlite_database(url)))


def _sqlite_database(url: URL) -> str:
    """Return the absolute path of the file that a URL of SQLite names, a `file:` before it kept."""
    scheme = "file:" if (url.database or "").startswith("file:") else ""
    given = (url.database or "").removeprefix(scheme)
    if given in ("", ":memory:") or url.query.get("mode") == "memory":
        raise ConfigError("DATABASE_URL names no file: a database in memory is lost at each stop")
    if "uri" in url.query and not scheme:
        raise ConfigError("DATABASE_URL has uri, but no file: before its path")
    try:
        url.get_dialect()().create_connect_args(url)
        path = _path(given)
    except ConfigError as error:
        raise ConfigError(f"DATABASE_URL {error}") from None
    except ValueError as error:
        raise ConfigError(f"DATABASE_URL has a parameter that can't be used: {error}") from None
    return f"{scheme}{_former_or_new(path, Path('instance', given).absolute())}"


def _former_or_new(path: Path, former: Path) -> Path:
    """Return where the database file is: `path`, or `former`, where earlier versions had it."""
    if former == path or not os.path.exists(former):
        return path
    if os.path.exists(path):
        reason = f"{path} by its settings, and {former} by how earlier versions read them"
        raise ConfigError(f"there are two databases: {reason}; move the unused one away")
    return former


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


# --- Secrets ---


def _secret_key(settings: Mapping[str, Any]) -> str:
    key: str = settings["SECRET_KEY"] or _read_secret(settings["SECRET_KEY_FILE"])
    if settings["APP_ENV"] == DEVELOPMENT:
        return key or _development_key(settings["DATA_DIR"] / "secret_key")

    how = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
    if not key:
        raise ConfigError(f"SECRET_KEY is not set; {how}")
    if key.lower() in EXAMPLE_SECRET_KEYS:
        raise ConfigError(f"SECRET_KEY is an example's value; {how}")
    if len(key.encode()) < SECRET_KEY_BYTES:
        raise ConfigError(f"SECRET_KEY is shorter than {SECRET_KEY_BYTES} bytes; {how}")
    return key


def _unstripped_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys with the white space around them, under which earlier versions made digests.

    They only verify: a digest moves to the key itself when its token is used.
    """
    given = [environ.get(name, "") for name in ("SECRET_KEY", "SECRET_KEY_FALLBACKS")]
    return tuple(value for value in given if value.strip() not in ("", value))


def _read_secret(path: Path | None) -> str:
    """Return the secret in a file, which others must not be able to read; "" for no file."""
    if path is None:
        return ""
    try:
        if path.stat().st_mode & stat.S_IROTH:
            raise ConfigError(f"SECRET_KEY_FILE {path} can be read by everyone: chmod o-r it")
        return _key_in(path)
    except OSError as error:
        raise ConfigError(f"SECRET_KEY_FILE can't be read: {error}") from None


def _development_key(path: Path) -> str:
    """Return the key in the file `path`, which is made where it doesn't exist."""
    try:
        nix.make_passable(path.parent)
        if not path.exists():
            _make_key(path)
        return _key_in(path)
    except OSError as error:
        raise ConfigError(f"DATA_DIR can't be used: {error}") from None


def _make_key(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(SECRET_KEY_BYTES))
        # Unlike a rename, a link never replaces the key of a process that was faster.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _key_in(path: Path) -> str:
    """Return the key in a file, without the white space around it. Raises OSError."""
    try:
        key = path.read_text().strip()
    except UnicodeError:
        raise ConfigError(f"{path} contains bytes that are no text") from None
    if not key:
        raise ConfigError(f"{path} is empty, and should hold a key")
    return key


# --- Doubts ---

NIX_VARIABLES = (
    *("NIX_PATH", "NIX_REMOTE", "NIX_CONFIG", "NIX_CONF_DIR", "NIX_USER_CONF_FILES"),
    *("NIX_STORE_DIR", "NIX_STATE_DIR"),
)
# name: the setting beside which it has no effect
INEFFECTIVE = {
    "DB_PATH": "DATABASE_URL",
    "SECRET_KEY_FILE": "SECRET_KEY",
    **dict.fromkeys(NIX_VARIABLES, "STORE_DIR"),
    **dict.fromkeys(("BIND", "PORT"), "LISTEN_FDS"),  # the socket that systemd hands over
}
# Names in a `.env` file that are other programs': those of compose.yaml, Flask and pkgctl.
FOREIGN = re.compile(r"POSTGRES_PASSWORD|(COMPOSE|FLASK|PKGCTL)_.*")
SHORT_NAME = 5


def doubts(environ: Mapping[str, str]) -> list[str]:
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
