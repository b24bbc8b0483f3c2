"""In-memory brokers that replace clusters: one for the process's, one for each that a task or a producer names."""

from __future__ import annotations

import math

from flux.adapters.memory import MemoryAdapter, forget
from flux.config import AdapterChoice, as_adapter
from flux.core.ports import Adapter, AsyncAdapter, System

_DEFAULT = ""


class Clusters:
    """`name`: distinguishes these brokers from those of another kit. `partitions`: of topics that a write creates."""

    def __init__(self, name: str, system: System, partitions: int) -> None:
        self._name = name
        self._system = system
        self.partitions = partitions
        self._adapters: dict[str, MemoryAdapter] = {}

    def substitute(self, own: AdapterChoice, common: AdapterChoice) -> MemoryAdapter:
        """The broker for the cluster that was chosen: see `flux.config.substituting`."""
        if own is None:
            return self._adapter(_DEFAULT)
        for adapter in self._adapters.values():
            if adapter is own:
                return adapter
        place = _place(own)
        return self._adapter(_DEFAULT if common is not None and place == _place(common) else place)

    def all(self) -> list[MemoryAdapter]:
        """Adapters that were used."""
        return list(self._adapters.values())

    def recover(self) -> None:
        """Ends outages."""
        for adapter in self._adapters.values():
            adapter.broker.available = True

    def forget(self) -> None:
        """Releases the brokers."""
        for place in self._adapters:
            forget(self._full_name(place))

    def _adapter(self, place: str) -> MemoryAdapter:
        if place not in self._adapters:
            # The kit's time moves in leaps: no member is ever late for a poll.
            self._adapters[place] = MemoryAdapter(
                self._full_name(place),
                system=self._system,
                default_partitions=self.partitions,
                max_poll_interval=math.inf,
            )
        return self._adapters[place]

    def _full_name(self, place: str) -> str:
        return f"{self._name}/{place}" if place else self._name


def _place(choice: Adapter | AsyncAdapter | str) -> str:
    """A cluster's address, whichever client is used."""
    return as_adapter(choice).cluster.partition("://")[2]
