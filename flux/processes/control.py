"""Follows the commands to this process's tasks, and does what they say.

What still holds is read before the tasks start: a process that starts while its task is paused makes no call. Commands
that do something once are left alone then, as they were given to others.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from flux.consuming.task_runtime import TaskRuntime
from flux.consuming.topic_follower import TopicFollower
from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.control.commands import VALID, CommandAnswer, WorkerCommand, answers_topic
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import process_key, process_name
from flux.core.ports import ProducerPort, ProducerRecord, ProducerSettings, Record, System
from flux.processes.command_topics import commands_topic, explaining_denied, require_topics
from flux.processes.controlled_task import CommandResult, ControlledTask
from flux.system import Lock

logger = logging.getLogger("flux.control")

_LOOK = 2.0  # seconds between two looks whether reading has failed
_FLUSH = 3.0  # seconds for an answer
_SETTINGS = ProducerSettings(delivery_timeout=10.0)


class WorkerControl:
    """Of one process. `process`: its number with --processes; `restart`: ends the worker so that it is started
    again. Raises ConfigurationError for a topic's name that Kafka refuses."""

    def __init__(
        self, jobs: Sequence[TaskRuntime], process: int | None, restart: Callable[[], None], system: System
    ) -> None:
        self.started = int(system.now() * 1000)
        """Milliseconds since the epoch; part of this process's key in reports and answers."""
        self.process = process
        self.restart = restart
        self.system = system
        topic = commands_topic()
        tasks = [ControlledTask(job, system) for job in jobs]
        by_cluster = {task.cluster: [each for each in tasks if each.cluster == task.cluster] for task in tasks}
        self._followed = {cluster: FollowedCommands(self, topic, their) for cluster, their in by_cluster.items()}

    @property
    def key(self) -> str:
        """That of this process's reports."""
        return process_key(socket.gethostname(), os.getpid(), self.started).decode()

    @property
    def name(self) -> str:
        return process_name(socket.gethostname(), os.getpid(), self.process)

    def readers(self) -> Mapping[str, Callable[[], bool]]:
        """By cluster, what reads the commands that it has: to be called before the tasks start, again while it raises
        an UNAVAILABLE BrokerError. Raises ConfigurationError without a right."""
        return {cluster: each.read for cluster, each in self._followed.items()}

    def apply(self) -> None:
        """To be called a few times a second: ends what was for some time."""
        for each in self._followed.values():
            each.apply()

    def stop(self) -> None:
        for each in self._followed.values():
            each.close()


class FollowedCommands:
    """Of one cluster."""

    def __init__(self, process: WorkerControl, topic: str, tasks: Sequence[ControlledTask]) -> None:
        self._process = process
        self._topic = topic
        self._tasks = tasks
        self._job = tasks[0].job
        self._system = process.system
        self._follower: TopicFollower | None = None
        self._answers: ProducerPort | None = None
        self._lock = Lock()
        self._live = False
        """Whether the commands of before this process are read."""
        self._recent: list[tuple[ControlledTask, WorkerCommand, float]] = []
        """Those of before whose sender may still wait for an answer."""
        self._answering = Lock()
        self._logged = ""

    def read(self) -> bool:
        """See `WorkerControl.readers`. Returns True."""
        topic, admin = self._topic, self._job.clients.admin(self, self._job.adapter)
        with explaining_denied(f"to take commands, this login needs READ and DESCRIBE on topic {topic}"):
            require_topics(admin, topic, self._job.policy.stages.topic, self._system)
            # an empty topic is read to its end without a right to read it
            granted = admin.permissions([topic], (), REQUEST_TIMEOUT).topics.get(topic)
            if granted is not None and "READ" not in granted:
                raise BrokerError(f"cannot read topic {topic}", Fault.DENIED)
            if self._follower is None:
                self._follower = TopicFollower(self._job.adapter, admin, topic, self._take, self._system)
                self._follower.start()
            until = self._system.monotonic() + REQUEST_TIMEOUT
            while not self._follower.wait_until_read(_LOOK):
                failure = self._follower.failure
                if failure is not None and failure.fault is Fault.DENIED:
                    raise failure
                if self._system.monotonic() >= until:
                    raise failure or BrokerError(f"{topic} is not read yet", Fault.UNAVAILABLE)
        with self._lock:
            self._live = True
            self._apply_locked()
            results = [(task, command, task.result(command, at, {})) for task, command, at in self._recent]
            self._recent.clear()
        for result in results:
            self._answer(*result)
        return True

    def apply(self) -> None:
        with self._lock:
            if self._live:
                self._apply_locked()

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close(_FLUSH)
        if self._answers is not None:
            self._answers.close(_FLUSH)
        self._job.clients.leave(self)

    def _apply_locked(self) -> None:
        for task in self._tasks:
            task.apply()

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            command = WorkerCommand.from_json(record.value())
            if command is None:
                continue
            for task in self._tasks:
                if task.is_meant(command):
                    try:
                        self._obey(task, command, record.timestamp()[1])
                    except Exception:  # a bug of ours: the tasks go on
                        logger.exception("%s: a command of %s failed", task.name, command.by)

    def _obey(self, task: ControlledTask, command: WorkerCommand, at: float) -> None:
        with self._lock:
            if not self._live:
                task.standing.take(command, at)
                if at >= 1000 * (self._system.now() - VALID):
                    self._recent.append((task, command, at))
                return
            done = task.obey(command, at)
        self._answer(task, command, done)
        if done.restarts:
            self._process.restart()

    def _answer(self, task: ControlledTask, command: WorkerCommand, done: CommandResult) -> None:
        answer = CommandAnswer(
            id=command.id,
            process=self._process.key,
            name=self._process.name,
            task=task.name,
            ok=done.ok,
            text=done.text,
        )
        record = ProducerRecord(answer.to_json(), answer.id.encode())
        with self._answering:
            try:
                self._answers = self._answers or self._job.adapter.producer(_SETTINGS)
                self._answers.write(answers_topic(self._topic), [record], self._answered)
                self._answers.flush(_FLUSH)
            except BrokerError as error:
                self._answered(error, None)

    def _answered(self, error: BrokerError | None, _: Record | None) -> None:
        if error is not None and str(error) != self._logged:
            self._logged = str(error)
            topic = answers_topic(self._topic)
            remedy = f": allow this login WRITE on topic {topic}" if error.fault is Fault.DENIED else ""
            logger.warning("a command was done, but its answer cannot be written (%s)%s", error, remedy)
