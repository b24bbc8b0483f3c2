"""Who visitors are and what they may do: by a token, or by a header of the proxy that has logged them in."""

from __future__ import annotations

import enum
import hmac
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs
from starlette.datastructures import Headers

from flux.core.errors import ConfigurationError

SHORTEST_TOKEN = 16
_MAX_NAME = 200
_SEPARATORS = re.compile(r"[,|]")
_HEADER = re.compile(r"[A-Za-z0-9-]+\Z")


class UserRole(enum.IntEnum):
    """Each may do what those before it may."""

    VIEWER = 1
    """Sees everything, and exports dead letters."""
    OPERATOR = 2
    """Replays, edits and rejects dead letters, cancels jobs, and gives commands to workers."""
    ADMIN = 3
    """Deletes dead letters."""

    @classmethod
    def of(cls, name: str) -> UserRole:
        """Raises ConfigurationError."""
        try:
            return cls[name.upper()]
        except KeyError:
            names = ", ".join(role.name.lower() for role in cls)
            raise ConfigurationError(f"{name!r} is no role: choose one of {names}") from None


@attrs.frozen
class User:
    """A visitor with access."""

    name: str
    role: UserRole


LOCAL = User("local", UserRole.ADMIN)
"""Everybody, where no login is needed."""


@attrs.frozen
class AccessToken:
    """A secret that gives a user's role. Raises ConfigurationError."""

    user: User
    secret: str = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        if len(self.secret) < SHORTEST_TOKEN:
            raise ConfigurationError(f"a token needs at least {SHORTEST_TOKEN} characters: use a generator")

    def matches(self, secret: str) -> bool:
        return hmac.compare_digest(self.secret.encode("utf-8", "replace"), secret.encode("utf-8", "replace"))


def read_tokens(lines: str) -> list[AccessToken]:
    """From lines of `ROLE NAME TOKEN`; those that start with # are comments. Raises ConfigurationError, which never
    repeats a token."""
    found: list[AccessToken] = []
    for number, line in enumerate(lines.splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        try:
            if len(parts) != 3:
                raise ConfigurationError("write ROLE NAME TOKEN")
            role, name, secret = parts
            if any(each.matches(secret) for each in found):
                raise ConfigurationError("an earlier line has the same token")
            found.append(AccessToken(User(name, UserRole.of(role)), secret))
        except ConfigurationError as error:
            raise ConfigurationError(f"line {number}: {error}") from None
    if not found:
        raise ConfigurationError("there is no token: write lines of ROLE NAME TOKEN")
    return found


@attrs.frozen
class ProxyLogin:
    """Users that a reverse proxy has logged in, and names in a header. `proxies`: the addresses whose header is
    believed: any other visitor could write one. `users` and `groups`: roles by name; everybody else is a viewer.
    `groups_header`: holds the groups of a user, with commas or | between. Raises ConfigurationError."""

    header: str
    proxies: Sequence[IPv4Network | IPv6Network]
    users: Mapping[str, UserRole] = attrs.field(factory=dict)
    groups: Mapping[str, UserRole] = attrs.field(factory=dict)
    groups_header: str | None = None

    def __attrs_post_init__(self) -> None:
        for name in (self.header, self.groups_header):
            if name is not None and not _HEADER.match(name):
                raise ConfigurationError(f"{name!r} is no name of a header, such as X-Forwarded-User")
        if not self.proxies:
            raise ConfigurationError(
                "any visitor can send the header of a login: name the proxy that sets it (--trust-proxy ADDRESS)"
            )
        if self.groups and self.groups_header is None:
            raise ConfigurationError("roles of groups need the header that holds them (--auth-groups-header)")

    def user(self, peer: str | None, headers: Headers) -> User | None:
        """`peer`: the address that the connection came from."""
        name = _only(headers, self.header)
        if name is None or not self._trusts(peer):
            return None
        found = [self.users.get(name, UserRole.VIEWER)]
        if self.groups_header is not None:
            groups = _SEPARATORS.split(_only(headers, self.groups_header) or "")
            found += [self.groups.get(group.strip(), UserRole.VIEWER) for group in groups]
        return User(name, max(found))

    def _trusts(self, peer: str | None) -> bool:
        try:
            address = ip_address(peer or "")
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.proxies)


def _only(headers: Headers, name: str) -> str | None:
    """A header that was sent once: of two, one may be the visitor's own."""
    values = headers.getlist(name)
    if len(values) != 1:
        return None
    text = values[0].strip()
    try:
        text = text.encode("latin-1").decode()
    except ValueError:
        return None
    return text if 0 < len(text) <= _MAX_NAME and text.isprintable() else None


def proxies_of(addresses: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    """From addresses and networks such as 10.0.0.7 and fd00::/64. Raises ConfigurationError."""
    found = []
    for text in addresses:
        try:
            found.append(ip_network(text))
        except ValueError:
            raise ConfigurationError(f"{text!r} is no address of a proxy, such as 10.0.0.7 or fd00::/64") from None
    if any(network.prefixlen == 0 for network in found):
        raise ConfigurationError("a network of all addresses trusts every visitor: name the proxy's address")
    return found


def grants_of(grants: Sequence[str]) -> tuple[dict[str, UserRole], dict[str, UserRole]]:
    """The roles of users and of groups, from `ROLE=NAME` and `ROLE=@GROUP`. Raises ConfigurationError."""
    users: dict[str, UserRole] = {}
    groups: dict[str, UserRole] = {}
    for text in grants:
        role, separator, name = text.partition("=")
        if not separator or name in ("", "@"):
            raise ConfigurationError(f"{text!r} grants nothing: write operator=NAME, or operator=@GROUP")
        if name.startswith("@"):
            groups[name[1:]] = UserRole.of(role)
        else:
            users[name] = UserRole.of(role)
    return users, groups
