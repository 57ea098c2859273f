"""Which server, and with which token: flags, then the environment, then the login file."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pkgctl.client import Exit, Failure

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Server:
    """A server, and the token that it gave out."""

    url: str
    token: str


@dataclass
class Logins:
    """The servers that were logged in to, by name, and which of them is meant by default."""

    default: str | None = None
    servers: dict[str, Server] = field(default_factory=dict)

    def named(self, name: str) -> Server:
        """Return the server of that name."""
        if name in self.servers:
            return self.servers[name]
        known = ", ".join(self.servers) or "none"
        raise Failure(f"no server is named {name}", Exit.NOT_FOUND, f"known: {known}")

    @property
    def default_url(self) -> str:
        """The URL of the default server; where there is none, a new one's on this machine."""
        return self.servers[self.default].url if self.default else DEFAULT_URL

    def token_for(self, url: str) -> str | None:
        """Return a token that the server at this URL gave out: no other one is shown to it."""
        names = sorted(self.servers, key=lambda name: name != self.default)  # the default first
        servers = [self.servers[name] for name in names]
        return next((server.token for server in servers if server.url == url), None)

    def forget(self, name: str) -> None:
        """Drop the server of that name; another one becomes the default if it was that."""
        self.named(name)
        del self.servers[name]
        if self.default == name:
            self.default = next(iter(self.servers), None)


def login_file() -> Path:
    """Return where the logins are kept."""
    config = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not config.is_absolute():
        config = Path(os.path.expanduser("~"), ".config")
    return config / "pkgctl" / "servers.json"


def load() -> Logins:
    """Return what the login file has."""
    path = login_file()
    try:
        kept = json.loads(path.read_text())
        servers = {name: Server(**server) for name, server in kept["servers"].items()}
        return Logins(kept["default"], servers)
    except FileNotFoundError:
        return Logins()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        hint = "remove it, then pkgctl login again"
        raise Failure(f"{path} can't be read: {error}", Exit.USAGE, hint) from None


def save(logins: Logins) -> None:
    """Put these logins in the login file, which nobody else can read."""
    path = login_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        with open(descriptor, "w") as file:
            json.dump(asdict(logins), file, indent=2)
        os.replace(draft, path)
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}", Exit.USAGE) from None


def choose(url: str | None, token: str | None, name: str | None) -> tuple[str, str | None]:
    """Return the URL and the token that these flags, or else the environment and logins, say."""
    if url and name:
        raise Failure("--url and --server name two servers", Exit.USAGE, "give one of them")
    if name:
        server = load().named(name)
        return clean_url(server.url), clean_token(token or server.token)

    url = url or os.environ.get("PKGCTL_URL")
    token = token or os.environ.get("PKGCTL_TOKEN")
    if not (url and token):
        logins = load()
        url = clean_url(url or logins.default_url)
        token = token or logins.token_for(url)
    return clean_url(url), clean_token(token) if token else None


def clean_url(url: str) -> str:
    """Return the URL as it is kept; raises Failure for what is none of a server."""
    with suppress(ValueError):
        parts = urlsplit(url)
        wanted = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        if wanted and not (parts.query or parts.fragment) and parts.port != 0:
            return url.rstrip("/")
    raise Failure(f"{url} is no server's URL", Exit.USAGE, f"such as {DEFAULT_URL}")


def clean_token(token: str) -> str:
    """Return the token; raises Failure, which doesn't show it, for what can't be one."""
    if token.isascii() and token.isprintable() and " " not in token:
        return token
    raise Failure("the token has characters that no token has", Exit.NOT_ALLOWED)
