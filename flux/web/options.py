"""The options of the pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import combinations
from pathlib import Path

import attrs

from flux.core.errors import ConfigurationError
from flux.core.monitoring.report import TOPIC
from flux.core.ports.outbox import OutboxStore
from flux.web.redaction import RedactionFunction
from flux.web.users import LOCAL, AccessToken, ProxyLogin, User, UserRole

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@attrs.frozen
class WebOptions:
    """`token`: an administrator's; `tokens`: of users; `proxy_login`: users by a header. With none of them no login is
    needed, on this machine only. `hosts`: allowed host names; None: any. `read_only`: everybody is a viewer. `every`:
    refresh interval in seconds. `prometheus`: its address, for a longer history; `prometheus_selector`: matchers of
    labels for its queries. `outbox`: opens the outbox that is shown. `audit_file`: where
    actions are written down; None: in the audit topic. Raises ConfigurationError."""

    token: str | None = attrs.field(default=None, repr=False)
    tokens: Sequence[AccessToken] = ()
    proxy_login: ProxyLogin | None = None
    hosts: frozenset[str] | None = LOOPBACK
    read_only: bool = False
    redact: RedactionFunction | None = None
    every: float = 5.0
    report_topic: str = TOPIC
    prometheus: str | None = attrs.field(default=None, repr=False)
    prometheus_selector: str = ""
    audit_file: Path | None = None
    outbox: Callable[[], OutboxStore] | None = None
    cookie: str = "flux-web"

    def __attrs_post_init__(self) -> None:
        tokens = self.all_tokens
        if self.open and (self.hosts is None or not self.hosts <= LOOPBACK):
            raise ConfigurationError(
                "visitors can replay and delete: set a token (--token, or FLUX_WEB_TOKEN) to listen on"
                " another address than this machine's own"
            )
        if any(one.matches(other.secret) for one, other in combinations(tokens, 2)):
            raise ConfigurationError("two users have the same token: give each its own")

    @property
    def all_tokens(self) -> list[AccessToken]:
        own = [] if self.token is None else [AccessToken(attrs.evolve(LOCAL, name="token"), self.token)]
        return [*own, *self.tokens]

    @property
    def open(self) -> bool:
        """Whether no login is needed."""
        return self.token is None and not self.tokens and self.proxy_login is None

    def limited(self, user: User) -> User:
        return attrs.evolve(user, role=UserRole.VIEWER) if self.read_only else user


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
