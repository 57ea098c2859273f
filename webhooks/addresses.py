"""Which addresses may be connected to on behalf of a client: public ones, and what WEBHOOK_PRIVATE
adds.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
LAST_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")  # by which a name would be an IPv4 address
# What IANA gives out to hosts. The rest, such as ::1, fc00::/7 and fe80::/10, is local or unused.
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are the IPv4 address that is reached

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class PrivateAddresses:
    """The networks, and the hosts by name, that are allowed beside public addresses."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, words: Iterable[str]) -> "PrivateAddresses":
        """Return what the words name. Raises ValueError."""
        networks, hosts = [], set()
        for word in words:
            if _is_name(word):
                hosts.add(_folded(word))
            else:
                networks.append(ipaddress.ip_network(word))
        return cls(tuple(networks), frozenset(hosts))

    def allow(self, host: str, address: str) -> bool:
        """Tell whether a connection to `address`, to which `host` was resolved, is allowed."""
        if _folded(host) in self.hosts:
            return True
        reached = _reached(ipaddress.ip_address(address))
        return _is_public(reached) or any(reached in network for network in self.networks)


def not_allowed(address: str) -> str:
    """Return the sentence about an address that is not public."""
    return f"{address} is no public address, and WEBHOOK_PRIVATE doesn't name it"


def is_refused_literal(url: str, private: PrivateAddresses) -> str | None:
    """Return the address that stands in a URL itself if it is not allowed; None for a name."""
    host = urlsplit(url).hostname or ""
    try:
        # 127.1 and 0x7f000001 are addresses, too.
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    address = str(found[0][4][0])
    return None if private.allow(host, address) else address


def _is_name(word: str) -> bool:
    folded = _folded(word)
    last = folded.rpartition(".")[2]
    return HOST_NAME.fullmatch(folded) is not None and not LAST_LABEL.fullmatch(last)


def _folded(host: str) -> str:
    return host.lower().removesuffix(".")


def _reached(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


def _is_public(address: Address) -> bool:
    if address.is_multicast or not address.is_global:
        return False
    if isinstance(address, IPv4Address):
        return True
    # 6to4 and Teredo would reach an IPv4 address, through relays that nobody runs any longer.
    is_tunnel = address.sixtofour is not None or address.teredo is not None
    return address in GLOBAL_UNICAST and not is_tunnel
