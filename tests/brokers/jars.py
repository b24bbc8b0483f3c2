"""Kafka from its Maven jars, as a child of the test session."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from brokers.base import CanHang, KafkaNode, NoBroker, answers, free_ports, once, properties, scratch

VERSION = os.environ.get("FLUX_TEST_KAFKA_VERSION") or "4.3.0"
CLUSTER = "5L6g3nShT-eMCtK--X86sw"  # any 16 bytes in base 64
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>flux.tests</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>KAFKA</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
</dependencies></project>
"""
_LOGGING = Path(__file__).with_name("log4j2.properties")
_START = 60.0  # seconds
_FETCH = 600.0
_BLANK = re.compile(r"\{([a-z]+)\}")


class Node(CanHang):
    """One broker that may be killed and started again: its addresses and its data stay."""

    def __init__(self, directory: Path, command: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        """`command`: of `java_command`. `extra`: properties of the server, beside the usual ones. In them `{tls}`,
        `{mtls}` and other words in braces are addresses with free ports, the same for the same word, and `{usual}` is
        the overridden value."""
        self._directory = directory
        self._command = command
        self._guard: subprocess.Popen[bytes] | None = None
        wanted = sorted({word for value in (extra or {}).values() for word in _BLANK.findall(value)} - {"usual"})
        open_port, secured_port, controller_port, *more = free_ports(3 + len(wanted))
        self.bootstrap = f"127.0.0.1:{open_port}"
        self.secured = f"127.0.0.1:{secured_port}"
        self.at = {word: f"127.0.0.1:{port}" for word, port in zip(wanted, more, strict=True)}
        """The addresses of further listeners, by the word in `extra`."""
        config = properties("127.0.0.1", "127.0.0.1", open_port, secured_port, controller_port)
        for name, value in (extra or {}).items():
            config[name] = _filled(value, {**self.at, "usual": config.get(name, "")})
        config["log.dirs"] = str(directory / "data")
        self._server = directory / "server.properties"
        self._server.write_text("".join(f"{name}={value}\n" for name, value in config.items()))
        with (directory / "log").open("wb") as log:
            subprocess.run(
                [*self._command, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", self._server],
                stdout=log,
                stderr=log,
                check=False,
            )

    def start(self) -> None:
        """Returns when clients are served. Raises NoBroker."""
        with (self._directory / "log").open("ab") as log:
            # A session of its own: an interrupt at the terminal reaches the tests first.
            self._process = subprocess.Popen(
                [*self._command, "kafka.Kafka", self._server],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # Ends the broker even when the tests are killed: the guard's input ends with them.
        # A broker that was stopped by a signal, to play one that hangs, would never hear of its end.
        script = """cat > /dev/null; kill "$0"; kill -CONT "$0"; left=75
            while kill -0 "$0" && [ $left -gt 0 ]; do sleep 0.2; left=$((left - 1)); done 2> /dev/null
            kill -KILL "$0" 2> /dev/null; rm -r "$1\""""
        self._guard = subprocess.Popen(
            ["sh", "-c", script, str(self._process.pid), self._directory],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        if not answers(self.bootstrap, _START):
            raise NoBroker(f"Kafka does not start from its jars: {self.log}", surprising=True)

    @property
    def log(self) -> str:
        """Its last lines."""
        return (self._directory / "log").read_text(errors="replace")[-1000:]

    def kill(self) -> None:
        """Its machine is gone, from one moment to the next."""
        self._end(at_once=True)

    def stop(self) -> None:
        self._end(at_once=False)

    def _end(self, at_once: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        if at_once:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def node(extra: Mapping[str, str] | None = None, command: Sequence[str] = ()) -> Iterator[Node]:
    """A broker of one's own, started; `command` is `java_command` without one. Raises NoBroker."""
    directory = Path(tempfile.mkdtemp(prefix="flux-kafka-", dir=scratch()))
    try:
        made = Node(directory, command or java_command(), extra)
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def jars(version: str = VERSION, extra: Mapping[str, str] | None = None) -> Iterator[KafkaNode]:
    with node(extra, java_command(version=version)) as made:
        yield KafkaNode(made.bootstrap, made.secured, f"jars of Kafka {version}")


def _filled(text: str, words: Mapping[str, str]) -> str:
    return _BLANK.sub(lambda blank: words[blank[1]], text)


def java_command(heap: str = "512m", version: str = VERSION) -> list[str]:
    """Runs one of Kafka's programs. Raises NoBroker."""
    java, folder = found_java(), libraries(version)
    return [*_command(java, folder, heap), *_shared_classes(java, folder)]


def _command(java: str, folder: Path, heap: str) -> list[str]:
    # a broker lives for minutes: the second compiler would cost more than it saves
    options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={_LOGGING}"]
    return [java, *options, "-cp", f"{folder}/*"]


def _shared_classes(java: str, folder: Path) -> list[str]:
    """The option that makes Java map Kafka's classes from a file: a start then takes a third of the CPU time. The file
    is made once for each version of Java; where that fails, brokers start without it."""
    version = subprocess.run([java, "-version"], capture_output=True, check=False).stderr
    archive = folder.with_name(f"classes-{hashlib.sha256(version).hexdigest()[:12]}.jsa")
    if not archive.exists():
        with once(folder.with_name("lock"), 2 * _FETCH):
            if not archive.exists():
                half = archive.with_suffix(".half")
                half.unlink(missing_ok=True)
                with node(command=[*_command(java, folder, "512m"), f"-XX:ArchiveClassesAtExit={half}"]):
                    pass
                half.touch()
                half.rename(archive)
    return [f"-XX:SharedArchiveFile={archive}"] if archive.stat().st_size else []


def found_java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(f"{home}/bin/java" if home else "java")
    if java is None:
        raise NoBroker("install Java 17 or later, and Maven (on Debian: default-jre-headless and maven)")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', answer)
    if version is None or int(version[1]) < 17:
        raise NoBroker("install Java 17 or later")
    return java


def libraries(version: str = VERSION) -> Path:
    """The folder of the jars, fetched once per version, whoever comes first. Raises NoBroker."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "super-flux" / "kafka" / version
    folder = cache / "libs"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with once(cache / "lock", 2 * _FETCH):
        if not folder.is_dir():
            _fetch(folder, version)
    return folder


def _cause(said: str) -> str:
    """The one line of Maven's that says most: its errors are what followed from a failed transfer."""
    lines = said.strip().splitlines() or ["it said nothing"]
    transfers = [line for line in lines if "Could not transfer" in line]
    errors = [line for line in lines if line.startswith("[ERROR]")]
    return [*transfers, *errors, lines[-1]][0][:500]


def _fetch(folder: Path, version: str) -> None:
    with unfinished(folder) as half:
        (half / "pom.xml").write_text(_POM.replace("KAFKA", version))
        arguments = ["dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"]
        maven(arguments, half, "Kafka's jars", _FETCH, surprising=True)
        (half / "libs").rename(folder)


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, for what becomes it: what a killed one has left there would do no good."""
    half = folder.with_name("half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    try:
        yield half
    finally:
        shutil.rmtree(half, ignore_errors=True)


def maven(arguments: list[str], folder: Path, what: str, seconds: float, surprising: bool = False) -> None:
    """Runs Maven in `folder`. Raises NoBroker without it, or where it fails, which may be `surprising`."""
    program = shutil.which("mvn")
    if program is None:
        raise NoBroker(f"install Maven, which fetches {what}")
    command = [program, "-B", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NoBroker(f"Maven did not get {what} in {seconds:.0f} s", surprising=surprising) from None
    if done.returncode:
        raise NoBroker(f"Maven did not get {what}: {_cause(done.stdout)}", surprising=surprising)
