"""All scenarios with what they are played with."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from chaos import exactly_once as e
from chaos import outages as o
from chaos import scenarios as s
from chaos import tokens as t
from chaos.books import Figures
from chaos.cluster import Cluster
from chaos.scenarios import Faults
from chaos.trial import SESSION, Trial

KIP_848 = {"options": "group.protocol=consumer"}
AIOKAFKA = {"scheme": "aiokafka", "options": f"session_timeout_ms={SESSION}&heartbeat_interval_ms=1000"}
STATIC = {"options": f"group.instance.id=w&session.timeout.ms={2 * SESSION}&heartbeat.interval.ms=1000"}
LONG = {"rate": 250}
LINKED = {"linked": True, **LONG}
TOKENS = {"tokens": True, "rate": 250}
EXACTLY_ONCE = {"exactly_once": True, "rate": 300}
SLOW = {"options": f"session.timeout.ms={SESSION}&max.poll.interval.ms={s.MAX_POLL}", "slow": s.SLOW}


@attrs.frozen
class Scenario:
    name: str
    faults: Faults
    given: Mapping[str, Any] = {}

    def play(self, cluster: Cluster, directory: Path, **given: Any) -> tuple[Figures, Counter[str]]:
        """What became of the records, and how many faults there were of each kind."""
        trial = Trial(cluster, directory, **{**self.given, **given})
        try:
            self.faults(trial)
            figures = trial.finish()
            return figures, Counter(fault.kind for fault in trial.faults)
        finally:
            trial.close()


@attrs.frozen
class Failures:
    """A storm of failures on a machine that has no time, for `seconds`, by one client: nothing may stand still."""

    name: str
    scheme: str
    seconds: float = 240.0

    def play(self, cluster: Cluster, directory: Path) -> tuple[Figures, Counter[str]]:
        place = "storm?partitions=4" if self.scheme == "memory" else cluster.bootstrap
        command = [sys.executable, "-m", "integration.storm", f"{self.scheme}://{place}", str(self.seconds)]
        with (directory / "storm.log").open("wb") as log:
            ended = subprocess.run(command, stdout=log, stderr=log, timeout=self.seconds + 300, check=False)
        last = re.findall(r"^(.+): (\d+) records, (\d+) dead letters$", (directory / "storm.log").read_text(), re.M)
        if not last:
            return Figures(problems=[f"ended with {ended.returncode}: see storm.log"]), Counter()
        found, records, dead = last[-1]
        figures = Figures(records=int(records), dead=int(dead), problems=[] if ended.returncode == 0 else [found])
        return figures, Counter(failure=int(dead))


def played(scenario: Scenario | Failures, cluster: Cluster, directory: Path) -> tuple[Figures, Counter[str]]:
    """The same, into a folder of its own; whatever is raised is a problem."""
    own = directory / scenario.name
    own.mkdir()
    try:
        return scenario.play(cluster, own)
    except Exception:
        cluster.start()
        return Figures(problems=[traceback.format_exc()]), Counter()


REPERTOIRE: list[Scenario | Failures] = [
    Scenario("kills", s.kills),
    Scenario("kills-kip848", s.kills, KIP_848),
    Scenario("kills-aiokafka", s.kills, AIOKAFKA),
    Scenario("children-killed", s.children_killed, STATIC),
    Scenario("killed-while-rebalancing", s.killed_while_rebalancing),
    Scenario("zombie", s.zombie),
    Scenario("zombie-kip848", s.zombie, KIP_848),
    Scenario("zombie-aiokafka", s.zombie, AIOKAFKA),
    Scenario("deployments", s.deployments),
    Scenario("deployments-kip848", s.deployments, KIP_848),
    Scenario("deployments-aiokafka", s.deployments, AIOKAFKA),
    Scenario("storm", s.storm),
    Scenario("storm-kip848", s.storm, KIP_848),
    Scenario("storm-aiokafka", s.storm, AIOKAFKA),
    Scenario("slow-call", s.slow_call, SLOW),
    Scenario("brokers-killed", o.brokers_killed),
    Scenario("brokers-killed-aiokafka", o.brokers_killed, AIOKAFKA),
    Scenario("rolling-restart", o.rolling_restart),
    Scenario("blackout", o.blackout),
    Scenario("half-open", o.half_open, LINKED),
    Scenario("half-open-aiokafka", o.half_open, {**LINKED, **AIOKAFKA}),
    Scenario("hung-broker", o.hung_broker, LONG),
    Scenario("hung-broker-aiokafka", o.hung_broker, {**LONG, **AIOKAFKA}),
    Scenario("read-only", o.read_only),
    Scenario("throttled", o.throttled, {"options": f"client.id=throttled&session.timeout.ms={SESSION}"}),
    Scenario("dead-letters-recreated", o.dead_letters_recreated),
    Scenario("retry-topic-recreated", o.retry_topic_recreated),
    Scenario("log-cut-off", s.cut_off_log),
    Scenario("tokens", t.renewals, TOKENS),
    Scenario("tokens-aiokafka", t.renewals, {**TOKENS, **AIOKAFKA}),
    Scenario("havoc", o.havoc),
    Scenario("exactly-once", e.killed_and_frozen, EXACTLY_ONCE),
    Scenario("exactly-once-kip848", e.killed_and_frozen, {**EXACTLY_ONCE, **KIP_848}),
    Failures("failures", "confluent"),
    Failures("failures-aiokafka", "aiokafka"),
    Failures("failures-memory", "memory"),
]
