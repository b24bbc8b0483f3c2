"""Kafka in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flux.testing.node import KafkaNode, NoBroker, answers, free_ports, properties

IMAGE = "apache/kafka:4.3.0"


@contextmanager
def container(auto_create: bool = False) -> Iterator[KafkaNode]:
    """A node of the image in FLUX_TEST_KAFKA_IMAGE. Raises NoBroker, which says what to install or start."""
    try:
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient
    except ImportError:
        raise NoBroker("install super-flux[testcontainers] and start a Docker engine") from None
    try:
        host = DockerClient().host()
    except Exception:
        raise NoBroker("start a Docker engine") from None
    if "TESTCONTAINERS_RYUK_DISABLED" not in os.environ:
        # The session stops its container itself; the reaper would need one more image.
        testcontainers_config.ryuk_disabled = True

    image = os.environ.get("FLUX_TEST_KAFKA_IMAGE", IMAGE)
    # Clients connect to the advertised address: the port inside and outside must be the same.
    open_port, secured_port, controller_port = free_ports(3)
    kafka = DockerContainer(image).with_kwargs(auto_remove=True)
    for port in (open_port, secured_port):
        kafka.with_bind_ports(port, port)
    settings = properties(host, "", open_port, secured_port, controller_port, auto_create)
    for name, value in settings.items():
        kafka.with_env(_variable(name), value)
    try:
        kafka.start()
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoBroker(f"a Docker engine answers, but {image} does not start: {reason}", surprising=True) from None
    try:
        bootstrap = f"{host}:{open_port}"
        if not answers(bootstrap, 60):
            raise NoBroker(f"{image} runs, but does not answer at {bootstrap}", surprising=True)
        yield KafkaNode(bootstrap, f"{host}:{secured_port}", f"container of {image}")
    finally:
        kafka.stop()


def _variable(name: str) -> str:
    """The environment variable of a property: https://github.com/apache/kafka/blob/4.3.0/docker/docker_official_images"""
    return "KAFKA_" + name.replace("-", "___").replace("_", "__").replace(".", "_").upper()
