"""A network of namespaces between clients and brokers, which the kernel breaks: this machine, a router, the clients.

Packets are dropped and refused in the router, so neither end's kernel has a part in it. Namespaces without a name and
links between them end with the processes that hold them; of this machine's own network only a new link is used.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import attrs

from brokers.proxy import Direction

_SECONDS = 60.0
_PORTS, _STEP = 10_000, 2_000
"""Clients connect from ports of one range after the other, so the port tells whether a connection is an old one."""
_DELAY, _TUN = Path(__file__).with_name("delay.py"), "/dev/net/tun"
_DELAYED = "7"  # the routing table that leads to the program that delays
_HOLD = """echo; cat > /dev/null; mine=$(readlink /proc/self/ns/net)
    for each in /proc/[0-9]*; do
        [ "${each#/proc/}" != $$ ] && [ "$(readlink "$each/ns/net")" = "$mine" ] && kill -KILL "${each#/proc/}"
    done 2> /dev/null
    ip link del machine; ip link del clients"""


class NoRouter(Exception):
    """Why there can be none here."""


class Link(Protocol):
    """Between clients and one broker; see `brokers.proxy.Proxy`, which is one too."""

    @property
    def address(self) -> str: ...
    def silence(self) -> None: ...
    def hang(self, *directions: Direction) -> None: ...
    def drop(self) -> None: ...
    def refuse(self) -> None: ...
    def delay(self, seconds: float, jitter: float = 0.0) -> None: ...
    def reset(self, probability: float = 1.0) -> None: ...
    def heal(self) -> None: ...


class Router:
    def __init__(self, host: str, inside: Sequence[str], here: Sequence[str], stack: ExitStack) -> None:
        """`host`: this machine's address for clients; `inside` and `here`: commands that run another one where the
        clients are, and in the router; `stack` ends with the router."""
        self.host = host
        self.inside = tuple(inside)
        self._here = tuple(here)
        self._stack = stack
        self._links: list[RoutedLink] = []
        self._oldest = _PORTS
        self._delay: tuple[float, float] | None = None
        self.renew_ports()

    def link(self, port: int) -> RoutedLink:
        """To what listens at `port` of `host`."""
        self._links.append(made := RoutedLink(self, port))
        return made

    def renew_ports(self) -> int:
        """New connections come from another range of ports, above all former ones; returns its first."""
        first, self._oldest = self._oldest, self._oldest + _STEP
        _do([*self.inside, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={first} {first + _STEP - 1}"])
        return first

    def apply(self) -> None:
        rules = "\n".join(rule for link in self._links for rule in link.rules())
        chain = f"chain passing {{\ntype filter hook forward priority 0;\n{rules}\n}}"
        table = f"table inet faults\ndelete table inet faults\ntable inet faults {{\n{chain}\n}}\n"
        _do([*self._here, "nft", "-f", "-"], table)

    def detour(self, verb: str, port: int) -> None:
        for end, side in (("clients", "dport"), ("machine", "sport")):
            _do([*self._here, "ip", "rule", verb, "iif", end, "ipproto", "tcp", side, str(port), "table", _DELAYED])

    def delay(self, seconds: float, jitter: float) -> None:
        """Starts what delays the packets that make a detour; one delay for all of them."""
        if self._delay is None:
            program = [sys.executable, "-P", str(_DELAY), "late", str(seconds), str(jitter)]
            _started(self._stack, [*self._here, *program])
            _do([*self._here, "ip", "link", "set", "late", "up"])
            _do([*self._here, "ip", "route", "add", "default", "dev", "late", "table", _DELAYED])
            self._delay = (seconds, jitter)
        assert self._delay == (seconds, jitter)


@attrs.define(eq=False)
class RoutedLink:
    """The faults of `brokers.proxy.Proxy`, as the kernel makes them."""

    _router: Router
    port: int
    _broken: Sequence[str] = ()
    _silent_below: int = 0
    _is_delayed: bool = False

    @property
    def address(self) -> str:
        return f"{self._router.host}:{self.port}"

    def rules(self) -> Iterator[str]:
        yield from self._broken
        if self._silent_below:
            yield f"tcp dport {self.port} tcp sport < {self._silent_below} drop"
            yield f"tcp sport {self.port} tcp dport < {self._silent_below} drop"

    def silence(self) -> None:
        """Whatever packets of open connections come, they vanish."""
        self._silent_below = self._router.renew_ports()
        self._router.apply()

    def hang(self, *directions: Direction) -> None:
        """Packets in these directions vanish, those that open a connection too."""
        sides = {"requests": "dport", "responses": "sport"}
        self._break(f"tcp {sides[direction]} {self.port} drop" for direction in directions)

    def drop(self) -> None:
        self.hang("requests", "responses")

    def refuse(self) -> None:
        """Each packet to the broker is answered with a reset; a connection that is idle goes on until it sends one."""
        self._break([f"tcp dport {self.port} reject with tcp reset"])

    def unreachable(self) -> None:
        """Each packet to the broker is answered with ICMP's "host unreachable", as by a router without a route."""
        self._break([f"tcp dport {self.port} reject with icmp type host-unreachable"])

    def narrow(self, size: int) -> None:
        """Packets with more than `size` bytes vanish: a tunnel too narrow for them, whose ICMP a firewall drops."""
        self._break(f"tcp {side} {self.port} meta length > {size} drop" for side in ("dport", "sport"))

    def reset(self, probability: float = 1.0) -> None:
        """Only those who send are reset: the broker keeps its half of the connection."""
        share = f"numgen random mod 100 < {round(100 * probability)}"
        self._break([f"tcp dport {self.port} tcp flags & psh == psh {share} reject with tcp reset"])

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        self._router.delay(seconds, jitter)
        self._router.detour("add", self.port)
        self._is_delayed = True

    def heal(self) -> None:
        if self._is_delayed:
            self._router.detour("del", self.port)
            self._is_delayed = False
        self._break(())

    def _break(self, rules: Iterable[str]) -> None:
        self._broken = tuple(rules)
        self._router.apply()


@contextmanager
def routed() -> Iterator[Router]:
    """Raises NoRouter, for instance where the user is not root, or a tool is missing."""
    with ExitStack() as stack:
        yield _made(stack)


def _made(stack: ExitStack) -> Router:
    if not os.access(_TUN, os.W_OK):
        raise NoRouter(f"{_TUN} cannot be opened")
    # RFC 2544's addresses, which nobody routes
    net = f"198.18.{random.randrange(256)}.{8 * random.randrange(32)}".rpartition(".")
    machine, near, far, client = (f"{net[0]}.{int(net[2]) + number}" for number in (1, 2, 5, 6))
    here, inside = _namespace(stack), _namespace(stack)
    name = f"flux{secrets.token_hex(4)}"
    ours, theirs = here[1].split("/")[2], inside[1].split("/")[2]
    for command in (
        [*here, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"],
        [*here, "sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0"],
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "machine", "netns", ours],
        [*here, "ip", "link", "add", "clients", "type", "veth", "peer", "name", "brokers", "netns", theirs],
        ["ip", "address", "add", f"{machine}/30", "dev", name],
        ["ip", "link", "set", name, "up"],
        [*here, "ip", "address", "add", f"{near}/30", "dev", "machine"],
        [*here, "ip", "address", "add", f"{far}/30", "dev", "clients"],
        [*here, "ip", "link", "set", "machine", "up"],
        [*here, "ip", "link", "set", "clients", "up"],
        [*inside, "ip", "address", "add", f"{client}/30", "dev", "brokers"],
        [*inside, "ip", "link", "set", "brokers", "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
        [*inside, "ip", "route", "add", "default", "via", far],
        ["ip", "route", "add", f"{client}/32", "via", near, "dev", name],
    ):
        _do(command)
    router = Router(machine, inside, here, stack)
    router.apply()
    _reach(router)
    return router


def _namespace(stack: ExitStack) -> list[str]:
    """The command that runs another one in a new namespace, which ends with us, and all that runs in it too."""
    holder = _started(stack, ["unshare", "--net", "sh", "-c", _HOLD])
    return ["nsenter", f"--net=/proc/{holder}/ns/net"]


def _started(stack: ExitStack, command: Sequence[str]) -> int:
    """Starts a program that says a line when it is ready, and ends when its input does."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError as missing:
        raise NoRouter(f"no command {missing.filename}") from None
    stack.callback(_end, process)
    assert process.stdout is not None
    assert process.stderr is not None
    if not process.stdout.readline():
        raise NoRouter(f"{command[0]}: {process.stderr.read().decode().strip()}")
    return process.pid


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _do(command: Sequence[str], text: str = "") -> None:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except FileNotFoundError as missing:
        raise NoRouter(f"no command {missing.filename}") from None
    if done.returncode:
        raise NoRouter(f"{' '.join(command)}: {done.stderr.strip()}")


def _reach(router: Router) -> None:
    """A firewall of this machine may refuse what comes over the link."""
    with socket.create_server((router.host, 0)) as server:
        server.settimeout(_SECONDS)
        knock = f"import socket; socket.create_connection({server.getsockname()[:2]!r}, {_SECONDS})"
        _do([*router.inside, sys.executable, "-c", knock])
