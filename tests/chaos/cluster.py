"""Three brokers from Kafka's jars that may be killed, stopped and started again on the same data."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from brokers.base import CanHang, NoBroker, free_ports, scratch
from brokers.jars import CLUSTER, java_command
from brokers.proxy import Proxy
from brokers.router import Link, Router
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from chaos.tokens import LISTENER

SIZE = 3
COORDINATORS = 4
"""Partitions of `__consumer_offsets`, and of `__transaction_state`."""
SECONDS = 60.0
"""How long the cluster may take to do what it was told."""

_PROPERTIES = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # a copy's time is the broker's that stored it: a history needs to know when that was
    "log.message.timestamp.type": "LogAppendTime",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": str(COORDINATORS),
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.num.partitions": str(COORDINATORS),
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # without a say of the members: group.protocol=consumer
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    # how soon a dead broker is found out, and its partitions led by others
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "replica.lag.time.max.ms": "5000",
    "leader.imbalance.check.interval.seconds": "10",
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "listener.security.protocol.map": ",".join(
        ["PLAINTEXT:PLAINTEXT", "LINKED:PLAINTEXT", "CONTROLLER:PLAINTEXT", "TOKENS:SASL_PLAINTEXT"]
    ),
    "inter.broker.listener.name": "PLAINTEXT",
    "sasl.enabled.mechanisms": "OAUTHBEARER",
    **LISTENER,
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Node(CanHang):
    def __init__(self, number: int, directory: Path, command: list[str], port: int, tokens: int) -> None:
        """`port` and `tokens`: of the open listener, and of the one that wants tokens."""
        self.number = number
        self.tokens = tokens
        self.directory = directory
        self.port = port
        self._command = command

    def tool(self, name: str, *arguments: str) -> None:
        """Runs one of Kafka's tools."""
        subprocess.run([*self._command, name, *arguments], check=True, capture_output=True, timeout=30)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.alive
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "kafka.Kafka", str(self.directory / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.directory / "pid").write_text(str(self._process.pid))

    def kill(self) -> None:
        """As a machine that loses its power."""
        self._end(lambda process: process.kill())

    def stop(self) -> None:
        """As an operator does: its partitions move first."""
        self._end(lambda process: process.terminate())

    def _end(self, how: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        how(process)  # type: ignore[operator]
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Cluster:
    def __init__(self, nodes: list[Node], links: Sequence[Link], inside: Sequence[str] = ()) -> None:
        """`links`: one to a listener of each node, which may be broken. `inside`: the command that runs another one
        where these links lead from; without one, everywhere."""
        self.nodes = nodes
        self.links = links
        self.inside = inside
        self.linked = ",".join(link.address for link in links)
        self.bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        self.tokens = ",".join(f"127.0.0.1:{node.tokens}" for node in nodes)
        """Its listeners that want tokens."""
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def start(self) -> None:
        """Starts what is down, and waits until every replica is in sync again."""
        for node in self.nodes:
            if not node.alive:
                node.start()
        self.wait_in_sync()

    def wait_in_sync(self, seconds: float = SECONDS) -> None:
        until = time.monotonic() + seconds
        while not self.in_sync():
            dead = [node for node in self.nodes if not node.alive]
            tail = "".join((node.directory / "log").read_text(errors="replace")[-500:] for node in dead)
            assert not dead, f"{len(dead)} broker(s) died: {tail}"
            assert time.monotonic() < until, f"replicas are not in sync after {seconds:g} s"
            time.sleep(0.2)

    def leader(self, topic: str, partition: int) -> Node:
        led = self.admin.list_topics(topic, timeout=SECONDS).topics[topic].partitions[partition].leader
        return next(node for node in self.nodes if node.number == led)

    def coordinator(self, name: str, of: str) -> Node:
        """The broker that keeps a group, or a transactional id. `of`: the topic in which it does."""
        number = 0
        for character in name:
            number = (31 * number + ord(character)) % 2**32  # as Java hashes a string
        return self.leader(of, (number % 2**31) % COORDINATORS)

    def in_sync(self) -> bool:
        """A broker that has just come may be taken for the one that died: so each must serve by itself."""
        try:
            for node in self.nodes:
                socket.create_connection(("127.0.0.1", node.port), 1).close()
            found = self.admin.list_topics(timeout=2)
        except (KafkaException, OSError):
            return False
        return len(found.brokers) == SIZE and all(
            partition.leader >= 0 and len(partition.isrs) == SIZE
            for topic in found.topics.values()
            for partition in topic.partitions.values()
        )


@contextmanager
def running(router: Router | None = None) -> Iterator[Cluster]:
    """`router`: has the links to the brokers; without one, proxies are. Raises NoBroker, which says what is missing."""
    command = java_command(heap="256m")
    directory = Path(tempfile.mkdtemp(prefix="flux-chaos-", dir=scratch()))
    ports = free_ports(5 * SIZE)  # at once: nothing listens on them yet, so the next call may return the same ones
    voters = ",".join(f"{number}@127.0.0.1:{ports[5 * number - 2]}" for number in range(1, SIZE + 1))
    nodes: list[Node] = []
    links: list[Link] = []
    stack = ExitStack()
    for number in range(1, SIZE + 1):
        port, tokens, far, controller, near = ports[5 * number - 5 : 5 * number]
        if router is None:
            stack.callback((proxy := Proxy(far, port=near)).close)
            links.append(proxy)
        else:
            links.append(router.link(far))
        node = Node(number, directory / f"node{number}", command, port, tokens)
        listeners = f"PLAINTEXT://127.0.0.1:{port},TOKENS://127.0.0.1:{tokens}"
        node.directory.mkdir()
        config = _PROPERTIES | {
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listeners": f"{listeners},LINKED://{router.host if router else '127.0.0.1'}:{far},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"{listeners},LINKED://{links[-1].address}",
            "log.dirs": str(node.directory / "data"),
        }
        (node.directory / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in config.items()))
        nodes.append(node)
    cluster = Cluster(nodes, links, router.inside if router else ())
    # Ends the brokers even when the tests are killed: the guard's input ends with them.
    script = 'cat > /dev/null; kill -9 $(cat "$0"/*/pid); sleep 1; rm -r "$0"'
    guard = subprocess.Popen(
        ["sh", "-c", script, str(directory)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _format(command, nodes)
        try:
            cluster.start()
        except AssertionError as reason:
            raise NoBroker(f"three brokers do not start: {reason}", surprising=True) from None
        yield cluster
    finally:
        guard.kill()
        guard.communicate()
        for node in nodes:
            node.kill()
        stack.close()
        shutil.rmtree(directory, ignore_errors=True)


def _format(command: list[str], nodes: list[Node]) -> None:
    """One run of the tool: what it writes differs in names only."""
    first = nodes[0].directory
    tool = [*command, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(first / "server.properties")]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoBroker(f"Kafka's storage cannot be formatted: {done.stderr[-500:]}", surprising=True)
    for node in nodes[1:]:
        shutil.copytree(first / "data", node.directory / "data")
        meta = node.directory / "data" / "meta.properties"
        lines = [line for line in meta.read_text().splitlines() if not line.startswith(("node.id", "directory.id"))]
        meta.write_text("\n".join([*lines, f"node.id={node.number}", ""]))
