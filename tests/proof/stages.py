"""All stages, in the order in which they are run."""

from __future__ import annotations

from proof.history.stage import HISTORY
from proof.machine.stage import MACHINE
from proof.model.stage import MODEL
from proof.mutation.stage import MUTATION
from proof.network.stage import NETWORK
from proof.soak.stage import SOAK
from proof.stage import Stage
from proof.versions.stage import VERSIONS

_ALL = (MODEL, MUTATION, HISTORY, NETWORK, MACHINE, VERSIONS, SOAK)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
