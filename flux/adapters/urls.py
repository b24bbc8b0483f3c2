"""How an adapter's URL is read: `SCHEME://[user:password@]host:port,…[?option=value&…]`, values percent-encoded."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from flux.core.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_PORT = re.compile(r":[0-9]{1,5}\Z")


def parsed(url: str, scheme: str, option: str, login: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The brokers and the options. `option`: what the client calls one; `login`: its options for user and password.
    Errors never repeat the URL: it may hold a password."""
    _, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError(f"an adapter's URL looks like {scheme}://host:port?{option}=value")
    authority, _, query = rest.partition("?")
    credentials, _, hosts = authority.rpartition("@")
    hosts = hosts.rstrip("/")
    if "@" in query and not _PORT.search(hosts):
        # The ? may be a password's own, and the options parts of it: no error must name one.
        raise ConfigurationError(
            "the adapter's URL has an @ after the ?: percent-encode what is no mark, as %3F and %40"
        )
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
