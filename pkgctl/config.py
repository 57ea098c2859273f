"""Which server to use, with which token: flags, then the environment, then servers.json."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pkgctl import files
from pkgctl.errors import CommandError, ExitCode

DEFAULT_URL = "http://127.0.0.1:8000"
PRIVATE = 0o600  # only the owner can read it


@dataclass(frozen=True)
class ServerLogin:
    """The URL of a server, and a token for it."""

    url: str
    token: str


@dataclass
class ServersFile:
    """The contents of servers.json: logins by name, and the name of the default one."""

    default: str | None = None
    servers: dict[str, ServerLogin] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Self:
        """Read the file; one that doesn't exist has no servers."""
        path = servers_path()
        try:
            if path.exists() and not path.is_file():
                raise _unreadable("it is no file")
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise _unreadable(error.strerror or "") from None
        except (ValueError, RecursionError):
            raise _unreadable("it is no JSON") from None
        return cls._from_json(content)

    @classmethod
    def _from_json(cls, content: Any) -> Self:
        """Return the logins of a JSON document, which may be anything."""
        logins = content.get("servers") if isinstance(content, dict) else None
        if not isinstance(logins, dict):
            raise _unreadable("it has no servers")
        if "default" not in content:
            raise _unreadable("it has no default")

        servers = {name: _login(name, login) for name, login in logins.items()}
        default = content["default"]
        if default is not None and (not isinstance(default, str) or default not in servers):
            raise _unreadable(f"its default, {default!r}, is none of its servers")
        return cls(default, servers)

    def save(self) -> None:
        """Replace the file, where a link leads to if it is one; only its owner can read it."""
        path = servers_path()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.replace(path, json.dumps(asdict(self), indent=2), PRIVATE)
        except OSError as error:
            message = f"{path} can't be written: {error.strerror}"
            raise CommandError(message, ExitCode.USAGE) from None

    def named(self, name: str) -> ServerLogin:
        """Return the login of that name; raises CommandError if there is none."""
        if name in self.servers:
            return self.servers[name]
        known = ", ".join(self.servers) or "none"
        raise CommandError(f"no server is named {name}", ExitCode.NOT_FOUND, f"known: {known}")

    @property
    def default_url(self) -> str:
        """The URL of the default server, else that of a server on this machine."""
        return self.servers[self.default].url if self.default else DEFAULT_URL

    def name_of(self, url: str) -> str | None:
        """Return the name of the login for exactly this URL, the default one first."""
        default_first = sorted(self.servers, key=lambda name: name != self.default)
        return next((name for name in default_first if self.servers[name].url == url), None)

    def token_for(self, url: str) -> str | None:
        """Return the token saved for exactly this URL: no other server may receive it."""
        name = self.name_of(url)
        return None if name is None else self.servers[name].token

    def forget(self, name: str) -> None:
        """Remove a login; if it was the default, the first one left becomes the default."""
        self.named(name)
        del self.servers[name]
        if self.default == name:
            self.default = next(iter(self.servers), None)


def _unreadable(reason: str) -> CommandError:
    hint = "remove it, then pkgctl login again"
    return CommandError(f"{servers_path()} can't be read: {reason}", ExitCode.USAGE, hint)


def _login(name: str, login: Any) -> ServerLogin:
    """Return a login of the file, once its URL and token are such."""
    try:
        known = ServerLogin(**login)
        clean_url(known.url)
        clean_token(known.token)
        name.encode()
    except (TypeError, AttributeError, UnicodeError, CommandError):
        raise _unreadable(f"{name!r} has no URL and token of a server") from None
    return known


def servers_path() -> Path:
    """Return the path of servers.json; raises CommandError if there is no home folder for it."""
    config = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not config.is_absolute():
        home = os.path.expanduser("~")
        if os.environ.get("HOME") == "" or not os.path.isabs(home):
            hint = "HOME or XDG_CONFIG_HOME says where; or give both PKGCTL_URL and PKGCTL_TOKEN"
            raise CommandError("there is no home folder for servers.json", ExitCode.USAGE, hint)
        config = Path(home, ".config")
    return config / "pkgctl" / "servers.json"


def choose_server(url: str | None, token: str | None, name: str | None) -> tuple[str, str | None]:
    """Return the URL and token to use, given the values of --url, --token and --server."""
    if url and name:
        message = "--url and --server name two servers"
        raise CommandError(message, ExitCode.USAGE, "give one of them")
    if name:
        login = ServersFile.load().named(name)
        return clean_url(login.url), clean_token(token or login.token)

    url = url or os.environ.get("PKGCTL_URL")
    token = token or os.environ.get("PKGCTL_TOKEN") or _token_of_file()
    if not (url and token):
        servers = ServersFile.load()
        url = clean_url(url or servers.default_url)
        token = token or servers.token_for(url)
    return clean_url(url), clean_token(token) if token else None


def _token_of_file() -> str | None:
    """Return the token in the file that PKGCTL_TOKEN_FILE names, such as a credential of systemd.

    None where it names none.
    """
    path = os.environ.get("PKGCTL_TOKEN_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        message = f"PKGCTL_TOKEN_FILE, {path}, can't be read: {reason}"
        raise CommandError(message, ExitCode.NOT_ALLOWED) from None


def clean_url(url: str) -> str:
    """Return the URL without slashes or white space at its end.

    Raises CommandError if it can't be a server's.
    """
    url = url.strip()
    with suppress(ValueError):
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and parts.hostname
        url.encode()
        (parts.hostname or "").encode("idna")  # for the length of its parts
        has_more = "@" in parts.netloc or parts.query or parts.fragment
        if is_http and not has_more and parts.port != 0:
            return url.rstrip("/")
    raise CommandError(f"{url} isn't a server's URL", ExitCode.USAGE, f"such as {DEFAULT_URL}")


def clean_token(token: str) -> str:
    """Return the token without white space around it.

    Raises CommandError, without showing it, if a header can't carry it.
    """
    token = token.strip()
    if token and token.isascii() and token.isprintable() and " " not in token:
        return token
    message = "the token contains characters that no token can have"
    raise CommandError(message, ExitCode.NOT_ALLOWED)
