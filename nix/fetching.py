"""Fetching: which derivations fetch something, from where, and why a fetch failed."""

import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

NETWORK = "check the host's network: its route, firewall and proxy, then try again"
DNS = "check the host's network and its name servers (/etc/resolv.conf), then try again"
PROXY = "check http_proxy and https_proxy in the environment of the service and of the Nix daemon"
TLS = "check the host's clock and certificates (ca-certificates, NIX_SSL_CERT_FILE), and the proxy"
GONE = "the source has moved since the catalog was written: update the catalog, or use another one"
DENIED = "the server wants a login (netrc-file in nix.conf) or lets this host fetch nothing"
SERVER = "the server is at fault: try again later"
OTHER = "look in the build's log, and try to fetch the URL on the host"

URL_CHARACTERS = 1000

# Nix's own downloads, and git's.
FAILED = re.compile(
    r"(?:unable to download|fatal: unable to access|fatal: repository) '([^'\n]+)':? ([^\n]*)"
)
TRYING = re.compile(r"^trying (\S+)$")  # a line of nixpkgs' fetchurl
COMPLAINT = re.compile(r"curl: \(|^fatal: |abort:|[Ee]rr(?:or)?\b|ERR|[Ff]ailed|\bdial\b")
NUMBER = re.compile(r"(?<!curl: )\(\d+\)")  # not an exit code of curl
CONNECTING = re.compile(r"\(7\)|[Cc]ould(?:n't| not) connect to server")

# The beginning of a derivation with a single output whose hash is given.
FIXED_OUTPUT = re.compile(r'Derive\(\[\("[^"]*","[^"]*","[^"]+","[^"]+"\)\]')
URL = re.compile(r'\("urls?","([^\s"\\]+)|\\"urls?\\":\[?\\"([^\s"\\]+)')


@dataclass(frozen=True)
class FetchFault:
    """Why something could not be fetched; `is_transient` tells that it may be there later."""

    cause: str
    hint: str
    is_transient: bool
    url: str = ""

    def __str__(self) -> str:
        return f"could not fetch {self.url[:URL_CHARACTERS]}: {self.cause}"


@dataclass(frozen=True)
class Wording:
    """How the programs that fetch word a cause; what is matched as `status` goes into `cause`."""

    cause: str
    hint: str
    is_transient: bool
    message: re.Pattern[str]

    def fault(self, text: str) -> FetchFault | None:
        """Return the fault if the text is about it."""
        found = self.message.search(text)
        if found is None:
            return None
        return FetchFault(self.cause.format(**found.groupdict()), self.hint, self.is_transient)


def _wording(cause: str, hint: str, *messages: str, is_transient: bool) -> Wording:
    return Wording(cause, hint, is_transient, re.compile("|".join(messages)))


def _http(cause: str, hint: str, status: str, *, is_transient: bool = False) -> Wording:
    words = r"HTTP error|returned error:|HTTP code|[Ss]tatus(?: code)?:?|HTTP/[\d.]+|ERROR"
    message = rf"(?:{words}) (?P<status>{status})\b"
    return _wording(f"{cause} (HTTP {{status}})", hint, message, is_transient=is_transient)


# In this order: the first that matches is the cause. Numbers in parentheses are curl's exit codes.
WORDINGS = (
    _wording(
        "the proxy can't reach the server (HTTP {status})",
        NETWORK,
        r"(?:CONNECT tunnel failed, response|HTTP code) (?P<status>5\d\d)(?: from proxy|$)",
        is_transient=True,
    ),
    _wording(
        "the proxy's name can't be resolved (DNS)",
        PROXY,
        r"[Rr]esolve proxy|\(5\)",
        is_transient=True,
    ),
    _wording(
        "the proxy refuses it",
        PROXY,
        r"from proxy after CONNECT|CONNECT tunnel failed|HTTP error 407|error: 407|\(97\)",
        is_transient=False,
    ),
    _http("the server has nothing there", GONE, "404|410"),
    _wording("there is no such repository", GONE, r"^not found$", is_transient=False),
    _http("the server denies access", DENIED, "401|403|451"),
    _http("the server wants fewer requests", SERVER, "429", is_transient=True),
    _http("the server failed", SERVER, r"408|5\d\d", is_transient=True),
    _http("the server refused", OTHER, r"4\d\d"),
    _wording(
        "the host's name can't be resolved (DNS)",
        DNS,
        r"[Rr]esolve host|\(6\)|Name or service not known|name resolution|no such host",
        r"ENOTFOUND|EAI_AGAIN",
        is_transient=True,
    ),
    _wording(
        "the network is unreachable",
        NETWORK,
        r"Network is unreachable|No route to host|ENETUNREACH|EHOSTUNREACH",
        is_transient=True,
    ),
    _wording(
        "the connection broke off",
        NETWORK,
        r"[Rr]eset by peer|Empty reply|transfer closed|receiving data|recv error|unexpected EOF",
        r"[Tt]ransferred a partial file",
        r"\((?:16|18|52|55|56|92)\)",
        is_transient=True,
    ),
    _wording(
        "TLS failed",
        TLS,
        r"SSL|TLS|certificate|x509|\((?:35|5[1348-9]|60|64|66|77|8[0235]|9[01])\)",
        is_transient=False,
    ),
    _wording(
        "the connection was refused",
        NETWORK,
        rf"[Cc]onnection refused|ECONNREFUSED|{CONNECTING.pattern}",
        is_transient=True,
    ),
    _wording(
        "the server did not answer in time",
        NETWORK,
        r"[Tt]imed out|[Tt]imeout|ETIMEDOUT|\(28\)",
        is_transient=True,
    ),
    _wording(
        "there is no such file",
        GONE,
        r"[Cc]ould(?:n't| not) (?:read a file://|open) file|\(37\)",
        is_transient=False,
    ),
)


def fetch_fault(text: str) -> FetchFault | None:
    """Return why Nix or git could not fetch something; None if the text tells of no such thing."""
    failed = FAILED.search(text)
    if failed is None:
        return None
    url, detail = failed.groups()
    fault = _fault(detail) or FetchFault(detail, OTHER, is_transient=False)
    return _seen_from_here(replace(fault, url=url), detail)


def builder_fetch_fault(lines: Sequence[str], url: str) -> FetchFault | None:
    """Return why the builder of a fixed-output derivation failed to fetch; None if it did fetch.

    `lines` are the end of its log, `url` is the one that it should fetch.
    """
    found = fetch_fault("\n".join(reversed(lines)))
    if found is not None:
        return found
    for number, line in reversed(list(enumerate(lines))):
        detail = NUMBER.sub("", line)
        if COMPLAINT.search(detail) and (fault := _fault(detail)):
            tried = filter(None, map(TRYING.match, reversed(lines[:number])))
            trying = next(tried, None)
            return _seen_from_here(replace(fault, url=trying[1] if trying else url), detail)
    return None


def fetched_url(drv_path: str) -> str | None:
    """Return the URL that a derivation fetches, "" if it doesn't say; None if it doesn't fetch.

    A derivation fetches if its hash is given beforehand: only then does Nix let it use the network.
    """
    with suppress(OSError):
        derivation = Path(drv_path).read_text(errors="replace")
        if FIXED_OUTPUT.match(derivation):
            url = URL.search(derivation)
            return (url[1] or url[2]) if url else ""
    return None


def _fault(text: str) -> FetchFault | None:
    return next(filter(None, (wording.fault(text) for wording in WORDINGS)), None)


def _seen_from_here(fault: FetchFault, detail: str) -> FetchFault:
    """Tell what the message leaves open: the proxy behind it, or that there is no route."""
    with suppress(ValueError):  # a URL of a catalog may be none
        proxy = _proxy(fault.url)
        if proxy and detail.endswith("(56)"):  # all that Nix 2.8 says when a proxy refuses CONNECT
            cause = f"the proxy {proxy} refuses it, or the connection through it broke off"
            return replace(fault, cause=cause, hint=PROXY)
        if proxy and fault.hint == PROXY:
            return replace(fault, cause=fault.cause.replace("the proxy", f"the proxy {proxy}", 1))
        if proxy and fault.hint == NETWORK:
            return replace(fault, cause=f"through the proxy {proxy}, {fault.cause}", hint=PROXY)
        if CONNECTING.search(detail) and not _has_route(fault.url):
            return replace(fault, cause="the network is unreachable")
    return fault


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment sets for a URL, without its credentials."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or not parts.hostname or proxy_bypass(parts.hostname):
        return None
    scheme, separator, address = proxy.rpartition("://")
    return f"{scheme}{separator}{address.rpartition('@')[2]}"


def _has_route(url: str) -> bool:
    """Tell whether the kernel has a route to the host of a URL. Nothing is sent to it."""
    with suppress(OSError):
        host = urlsplit(url).hostname or ""
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe, suppress(OSError):
                probe.connect(address)
                return True
    return False
