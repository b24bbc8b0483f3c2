"""What both Kafka adapters do with brokers, options and URLs, whichever client they use."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote

from flux.adapters.secrets import Mask, shown
from flux.core.errors import ConfigurationError
from flux.core.ports import System
from flux.core.validation import plain
from flux.system import SYSTEM

LARGEST_RECORD = 100_000_000
"""Bytes. The topic decides how large a record may be; beyond this a broker ends the connection
(socket.request.max.bytes)."""

_NOT_IN_A_CLIENT_ID = re.compile(r"[^A-Za-z0-9._-]")
_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_PORT = re.compile(r":[0-9]{1,5}\Z")


class AdapterConfig(Protocol):
    """The module that knows one client's options."""

    def checked_bootstrap(self, bootstrap: str) -> str: ...
    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]: ...


class KafkaAdapter:
    """The brokers and options of one cluster; both adapters derive from it."""

    shares_processes = True
    _config: ClassVar[AdapterConfig]

    def __init__(
        self,
        bootstrap: str,
        options: Mapping[str, Any] | None = None,
        *,
        consumer: Mapping[str, Any] | None = None,
        producer: Mapping[str, Any] | None = None,
        system: System = SYSTEM,
    ) -> None:
        self._bootstrap = self._config.checked_bootstrap(bootstrap)
        self._shared = self._config.checked(_mapping("options", options))
        self._consumer = self._config.checked({**self._shared, **_mapping("consumer", consumer)})
        self._producer = self._config.checked({**self._shared, **_mapping("producer", producer)})
        self._mask = Mask(self._consumer, self._producer)
        self._system = system
        self._prepare()

    def _prepare(self) -> None:
        """Makes what the clients share; connects to nothing."""

    @property
    def cluster(self) -> str:
        return "kafka://" + ",".join(sorted(self._bootstrap.split(",")))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._bootstrap!r}, {shown(self._shared)!r})"


def _mapping(name: str, options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        given = type(options).__name__
        raise ConfigurationError(f"{name} of an adapter: give a dictionary of the client's options, not a {given}")
    return options


def member_client_id(task: str) -> str:
    """`flux-TASK-HOST-PID`: by it the tools of a cluster name who owns a partition."""
    parts = ("flux", task, socket.gethostname(), str(os.getpid()))
    return _NOT_IN_A_CLIENT_ID.sub("-", "-".join(part for part in parts if part))


def broker_list(bootstrap: str, is_broker: Callable[[str], bool], form: str, login: str) -> str:
    """The brokers without spaces and empty entries. `form`: how one is written; `login`: the options for user and
    password. Raises ConfigurationError."""
    bootstrap = plain(bootstrap)
    if not isinstance(bootstrap, str):
        raise ConfigurationError("the brokers are a text: host:port, several with commas between")
    hosts = [host.strip() for host in bootstrap.split(",") if host.strip()]
    if not hosts:
        raise ConfigurationError("no broker given: name at least one, as host:port")
    if "@" in bootstrap:
        raise ConfigurationError(f"a login does not belong to the brokers: set {login}")
    if not all(map(is_broker, hosts)):
        raise ConfigurationError(f"a broker is written {form}")
    return ",".join(hosts)


def without_reserved(options: Mapping[str, Any], reserved: Mapping[str, str]) -> dict[str, Any]:
    """A copy of the options. Raises ConfigurationError for one that flux sets itself. `reserved`: these, and what to do
    instead."""
    copy = {plain(name): plain(value) for name, value in options.items()}
    for name, reason in reserved.items():
        if name in copy:
            raise ConfigurationError(f"{name} cannot be set in the adapter's options: {reason}")
    return copy


def parse_url(url: str, scheme: str, option: str, login: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The brokers and the options of `SCHEME://[user:password@]host:port,…[?option=value&…]`, values percent-encoded.
    `option`: the client's word for one; `login`: its options for user and password. Raises ConfigurationError, which
    never repeats the URL: it may hold a password."""
    _, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError(f"an adapter's URL looks like {scheme}://host:port?{option}=value")
    authority, _, query = rest.partition("?")
    credentials, _, hosts = authority.rpartition("@")
    hosts = hosts.rstrip("/")
    if "@" in query and not _PORT.search(hosts):
        # The ? may belong to a password, and the options be parts of it: no error must name one.
        raise ConfigurationError("the adapter's URL has an @ after the ?: percent-encode them, as %40 and %3F")
    if "/" in hosts:
        raise ConfigurationError(f"an adapter's URL has no path: write ?{option}=value after the brokers")
    options: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        name, separator, value = pair.partition("=")
        name = unquote(name)
        if not separator or not _NAME.match(name):
            raise ConfigurationError(f"the adapter's URL has no value for an {option}: write {option}=value")
        if name in options:
            raise ConfigurationError(f"the adapter's URL sets {name} twice: keep one")
        options[name] = unquote(value)
    if credentials:
        user, separator, password = credentials.partition(":")
        if not separator:
            raise ConfigurationError("the adapter's URL has a user without a password: write user:password@host:port")
        if set(login) & options.keys():
            raise ConfigurationError(f"the adapter's URL has two logins: keep user:password@ or {login[0]}")
        options |= {login[0]: unquote(user), login[1]: unquote(password)}
    return unquote(hosts), options
