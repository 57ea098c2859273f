"""Every setting, read once from the environment or a `.env` file, and the version."""

import os
import secrets
import stat
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

import data_folder

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


class ConfigError(Exception):
    """A setting has a value that pkgd can't run with; the message is one line."""


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.split())


def _path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def _count(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError("negative")
    return number


def _positive(value: str) -> int:
    number = _count(value)
    if number == 0:
        raise ValueError("zero")
    return number


def _yes_or_no(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("neither")
    return value == "true"


def _app_env(value: str) -> str:
    if value not in (DEVELOPMENT, PRODUCTION):
        raise ValueError("unknown")
    return value


# name: (parser, default, what a value must be)
SETTINGS: dict[str, tuple[Callable[[str], Any], Any, str]] = {
    "APP_ENV": (_app_env, DEVELOPMENT, f"{DEVELOPMENT} or {PRODUCTION}"),
    "DATABASE_URL": (str, "", "a database URL"),
    "DB_PATH": (_path, None, "a path"),
    "SECRET_KEY": (str, "", "a secret"),
    "SECRET_KEY_FILE": (_path, None, "a path"),
    "SECRET_KEY_FALLBACKS": (_words, (), "secrets, separated by spaces"),
    "DATA_DIR": (_path, Path("data").absolute(), "a path"),
    "PROFILE": (_path, None, "a path"),
    "STORE_DIR": (_path, None, "a path"),
    "CATALOGS": (_words, (), "paths or <names>, separated by spaces"),
    "PROFILE_CHECK": (str, "", "a command"),
    "KEEP_GENERATIONS": (_positive, 10, "a whole number from 1"),
    "BUILDERS": (str, "", "a list of machines as in Nix's own setting"),
    "WORKER_THREADS": (_count, 2, "a whole number from 0"),
    "LEASE_SECONDS": (_positive, 30, "a whole number from 1"),
    "BUILD_SECONDS": (_positive, 3600, "a whole number from 1"),
    "SILENCE_SECONDS": (_positive, 600, "a whole number from 1"),
    "LOG_BYTES": (_positive, 16 * MIB, "a whole number from 1"),
    "MIN_FREE_BYTES": (_count, 512 * MIB, "a whole number from 0"),
    "MAX_FOLLOWERS": (_count, 8, "a whole number from 0"),
    "TASK_DAYS": (_positive, 30, "a whole number from 1"),
    "METRICS_PUBLIC": (_yes_or_no, False, "true or false"),
    "TRUSTED_PROXIES": (_count, 0, "a whole number from 0"),
    "TOKEN_DAYS": (_positive, 90, "a whole number from 1"),
    "BIND": (str, "127.0.0.1", "an address"),
    "PORT": (_positive, 8000, "a port"),
    "WEB_PROCESSES": (_positive, 2, "a whole number from 1"),
    "WEB_THREADS": (_positive, 16, "a whole number from 1"),
}


def environment() -> dict[str, str]:
    """Return the process's environment, over that of the `.env` file in the working directory."""
    from_file = {name: value for name, value in dotenv_values(".env").items() if value}
    return {**from_file, **os.environ}


def load(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return every setting by name, typed, defaults filled in; raise ConfigError on a bad one."""
    environ = environment() if environ is None else environ
    settings = {name: _read(name, environ.get(name, "")) for name in SETTINGS}

    data_dir: Path = settings["DATA_DIR"]
    settings["PROFILE"] = settings["PROFILE"] or data_dir / "profile"
    settings["STORE_DIR"] = settings["STORE_DIR"] or data_folder.remembered_store_dir(data_dir)
    settings["DATABASE_URL"] = _database_url(settings)
    settings["SECRET_KEY"] = _secret_key(settings)
    return settings


def _read(name: str, value: str) -> Any:
    read, default, wanted = SETTINGS[name]
    if value == "":
        return default
    try:
        return read(value)
    except ValueError:
        raise ConfigError(f"{name} is {value!r}, but must be {wanted}") from None


def _database_url(settings: Mapping[str, Any]) -> str:
    url: str = settings["DATABASE_URL"]
    if not url:
        return f"sqlite:///{settings['DB_PATH'] or settings['DATA_DIR'] / 'app.db'}"
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url


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


def _read_secret(path: Path | None) -> str:
    """Return the secret in a file, which others must not be able to read; "" for no file."""
    if path is None:
        return ""
    try:
        if path.stat().st_mode & stat.S_IROTH:
            raise ConfigError(f"SECRET_KEY_FILE {path} can be read by everyone: chmod o-r it")
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"SECRET_KEY_FILE can't be read: {error}") from None


def _development_key(path: Path) -> str:
    """Return the key in the file `path`, which is made where it doesn't exist."""
    mine = path.with_name(f"{path.name}.{secrets.token_hex(4)}")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            mine.touch(mode=0o600)
            mine.write_text(secrets.token_urlsafe(SECRET_KEY_BYTES))
            # Unlike a rename, a link never replaces the key of a process that was faster.
            with suppress(FileExistsError):
                path.hardlink_to(mine)
            mine.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"DATA_DIR can't be used: {error}") from None
