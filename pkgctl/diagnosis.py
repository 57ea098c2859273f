"""Why a server can't be reached: a proxy of the environment, http for https, a wrong path."""

import re
import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from pkgctl.errors import ServerUnreachable

PROBE_SECONDS = 2
DEFAULT_PORTS = {"http": 80, "https": 443}
CREDENTIALS = re.compile(r"//[^/\s]*@")
SERVER_HINT = "is it running? --url, PKGCTL_URL or pkgctl login say where"
CERTIFICATE_HINT = "REQUESTS_CA_BUNDLE names the file of a CA of your own"
PROXY_HINT = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY set it; NO_PROXY names hosts to reach without it"


def unreachable(url: str, error: OSError, *, is_new: bool) -> ServerUnreachable:
    """Return the error for a request to `url` that requests could not get an answer to.

    `is_new` tells that this server has not answered yet, so that its URL may be wrong.
    """
    proxy = environment_proxy(url)
    if proxy is not None:
        message = f"can't reach {url} through the proxy {proxy}: {_cause(error)}"
        return ServerUnreachable(message, PROXY_HINT)

    found = other_scheme(url) if is_new else None
    hint = CERTIFICATE_HINT if isinstance(error, requests.exceptions.SSLError) else SERVER_HINT
    return found or ServerUnreachable(f"can't reach {url}: {_cause(error)}", hint)


def environment_proxy(url: str) -> str | None:
    """Return the proxy that the environment sets for a URL, without its credentials."""
    proxy = select_proxy(url, get_environ_proxies(url))
    if proxy is None:
        return None
    scheme, separator, address = proxy.rpartition("://")
    return f"{scheme}{separator}{address.rpartition('@')[2]}"


def other_scheme(url: str) -> ServerUnreachable | None:
    """Return the error for http against a port that speaks https, or the other way round."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    if parts.scheme == "https":
        # A proxy answers http on its port of https, too, if only to refuse it.
        is_http = not _speaks_tls(host, port) and _speaks_http(host, port)
        other = "http" if is_http else None
    else:
        other = "https" if _speaks_tls(host, port) else None
    if other is None:
        return None

    hint = f"give {parts._replace(scheme=other).geturl()} as --url"
    return ServerUnreachable(f"{url} speaks {other}, not {parts.scheme}", hint)


def without_path(url: str) -> str:
    """Return the URL without its path."""
    return urlsplit(url)._replace(path="").geturl()


def is_pkgd(url: str) -> bool:
    """Tell whether a pkgd answers at a URL, which needs no token."""
    with suppress(OSError, ValueError):  # any of requests; no JSON
        document = requests.get(
            f"{url}/livez",
            timeout=PROBE_SECONDS,
            allow_redirects=False,
            auth=lambda request: request,  # without one, requests sends that of a .netrc file
        ).json()
        return isinstance(document, dict) and document.get("status") == "alive"
    return False


def _speaks_http(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), PROBE_SECONDS) as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\nHost: pkgd\r\n\r\n")
        return connection.recv(5) == b"HTTP/"
    return False


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent
    with suppress(OSError), socket.create_connection((host, port), PROBE_SECONDS) as connection:
        context.wrap_socket(connection, server_hostname=host).close()
        return True
    return False


def _cause(error: OSError) -> str:
    """Return the operating system's message behind an error of requests, else its own."""
    if isinstance(error, requests.Timeout):
        return "it doesn't answer in time"

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, requests.ConnectionError):
        return "the connection was lost"
    return CREDENTIALS.sub("//", str(error))
