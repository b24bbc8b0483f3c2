"""What is shared with the fixtures that applications get."""

from flux.testing.node import USERS, Broker, NoBroker, answers, free_ports, properties

__all__ = ["USERS", "Broker", "NoBroker", "answers", "free_ports", "properties"]
