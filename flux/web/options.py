"""The options of the pages."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

from flux.core.errors import ConfigurationError
from flux.core.monitoring.report import TOPIC
from flux.web.redaction import RedactionFunction

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_TOKEN = 16


@attrs.frozen
class WebOptions:
    """`token`: the access token; None: none needed, on this machine only. `hosts`: allowed host names; None: any.
    `every`: refresh interval in seconds. Raises ConfigurationError."""

    token: str | None = attrs.field(default=None, repr=False)
    hosts: frozenset[str] | None = LOOPBACK
    read_only: bool = False
    redact: RedactionFunction | None = None
    every: float = 5.0
    report_topic: str = TOPIC
    cookie: str = "flux-web"

    def __attrs_post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ConfigurationError(f"a token needs at least {SHORTEST_TOKEN} characters: use a generator")
        if self.token is None and (self.hosts is None or not self.hosts <= LOOPBACK):
            raise ConfigurationError(
                "visitors can replay and delete: set a token (--token, or FLUX_WEB_TOKEN) to listen on"
                " another address than this machine's own"
            )


def hosts_of(bind: str, allowed: frozenset[str]) -> frozenset[str] | None:
    """The host names of a server that listens on `bind`; None: any, for an address of all interfaces without `allowed`
    names."""
    names = LOOPBACK | {name.lower() for name in allowed}
    if is_loopback(bind):
        return names
    if is_wildcard(bind):
        return names if allowed else None
    return names | {bind.lower()}


def is_loopback(host: str) -> bool:
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_wildcard(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
