"""What is in deploy/ parses, and speaks of metrics, options and paths that there are."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flux.cli.process import command
from flux.observe import names

DEPLOY = Path(__file__).parents[3] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
SERIES = {series: metric for metric in (*names.ALL, *names.OUTBOX) for series in metric.series}
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
KUBERNETES = kubernetes_validate.latest_version()
CUSTOM = {"PodMonitor", "ScaledObject"}
"""Kinds that others add to Kubernetes: of these its schemas say nothing."""
GROUPED = {"instance", "le", "process"}
"""Labels that Prometheus, a histogram and the supervisor add."""


def needs(tool: str) -> pytest.MarkDecorator:
    """Skips where a tool is missing, but not in CI, which has to have it."""
    missing = shutil.which(tool) is None and os.environ.get("CI", "").lower() != "true"
    return pytest.mark.skipif(missing, reason=f"{tool} is not installed")


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def kinds() -> dict[str, Any]:
    return {each["kind"]: each for name in ("worker", "keda") for each in documents(DEPLOY / f"kubernetes/{name}.yaml")}


def rules() -> list[Any]:
    return [rule for group in documents(ALERTS)[0]["groups"] for rule in group["rules"]]


def queries() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    dashboard = json.loads((DEPLOY / "grafana" / "flux.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    yield kinds()["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]


def parse(args: list[str]) -> dict[str, Any]:
    """The options of `flux process`; raises click.UsageError for what it would refuse."""
    return dict(command.make_context("process", list(args)).params)


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_all_that_is_there_is_looked_at() -> None:
    assert [str(path.relative_to(DEPLOY)) for path in FILES] == [
        "Dockerfile",
        "grafana/flux.json",
        "kubernetes/keda.yaml",
        "kubernetes/worker.yaml",
        "prometheus/alerts.test.yaml",
        "prometheus/alerts.yaml",
        "systemd/flux-billing.service",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\bflux_[a-z_]+", path.read_text()))
    assert named <= {*SERIES, *(metric.name for metric in (*names.ALL, *names.OUTBOX))}


def test_every_metric_is_in_the_dashboard() -> None:
    text = (DEPLOY / "grafana" / "flux.json").read_text()
    shown = {metric.name for series, metric in SERIES.items() if series in text}
    assert shown >= {metric.name for metric in names.ALL}


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_uses_labels_that_its_metrics_have(query: str) -> None:
    found = [SERIES[name] for name in re.findall(r"\bflux_[a-z_]+", query)]
    assert found
    for name, matchers in re.findall(r"(flux_[a-z_]+)\{([^}]*)\}", query):
        matched = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))
        assert matched <= set(SERIES[name].labels) | GROUPED
    for labels in re.findall(r"by \(([^)]*)\)", query):
        for metric in found:
            assert set(labels.replace(" ", "").split(",")) <= set(metric.labels) | GROUPED
    counters = re.findall(r"(\w+)\((flux_\w+_total)", query)
    assert all(function in ("rate", "increase", "label_values") for function, _ in counters)


def test_an_alert_says_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith((".", "?"))


@needs("promtool")
@pytest.mark.parametrize("args", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]])
def test_promtool_agrees(args: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *args], cwd=ALERTS.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
def test_promtool_understands_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    asked = [query for query in queries() if not query.startswith("label_values")]
    for variable, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$task", ".*"), ("$stage", ".*")):
        asked = [query.replace(variable, value) for query in asked]
    made = [{"record": f"query:number_{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    done = run(tmp_path, "promtool", "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(made)} rules found" in done.stdout


def test_the_tests_of_the_alerts_name_alerts_that_there_are() -> None:
    [tests] = documents(ALERTS.parent / "alerts.test.yaml")
    known = {rule["alert"] for rule in rules()}
    named = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"]}
    assert named <= known


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "flux.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine


def test_the_pod_is_probed_where_flux_answers() -> None:
    pod = kinds()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"] == ["flux", "process"]
    given = parse(container["args"])
    [port] = container["ports"]
    assert given["metrics_port"] == port["containerPort"] == 9464
    for probe, path in (("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    # beside the worker's own 25 s and its producers' 30 s there is the time before it hears of its end
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= before + 25 + 30
    assert not pod.get("hostNetwork")


def test_everything_in_kubernetes_is_about_the_same_pods() -> None:
    found = kinds()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert found[kind]["spec"]["selector"]["matchLabels"] == labels
    assert found["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    [secret] = found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    assert secret["secretRef"]["name"] == found["Secret"]["metadata"]["name"]
    assert found["ScaledObject"]["spec"]["minReplicaCount"] >= 1, "nobody would tell what is due"
    [endpoint] = found["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_kubernetes_takes_every_field(kind: str) -> None:
    if kind in CUSTOM:
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(kinds()[kind], KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(kinds()[kind], KUBERNETES, strict=True)


def test_kubernetes_refuses_a_field_that_is_misspelt() -> None:
    deployment = kinds()["Deployment"]
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 75
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_the_unit_starts_flux_and_stops_it_gently() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "flux-billing.service")
    service = unit["Service"]
    binary, subcommand, *args = shlex.split(service["ExecStart"])
    assert (Path(binary).name, subcommand) == ("flux", "process")
    assert parse(args)["processes"] == 2
    assert service["KillMode"] == "mixed", "else each process hears of its end twice, and stops at once"
    assert int(service["TimeoutStopSec"]) >= 25 + 30
    assert service["RestartPreventExitStatus"] == "2"


@needs("systemd-analyze")
def test_systemd_agrees() -> None:
    unit = DEPLOY / "systemd" / "flux-billing.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Unknown" not in done.stderr
    assert "Failed to parse" not in done.stderr


def test_the_image_starts_flux_as_a_user_without_a_shell() -> None:
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    made = [line.split(" ", 1) for line in lines]
    assert {name for name, _ in made} <= {
        "ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT",
        "CMD",
    }  # fmt: skip
    last = dict(made)
    binary, subcommand, *args = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    assert (binary, subcommand) == ("flux", "process")
    assert str(parse(args)["metrics_port"]) == last["EXPOSE"]
    assert last["USER"] not in ("root", "0")
    probe = json.loads(last["HEALTHCHECK"].split(" CMD ")[1])
    compile(probe[2], "HEALTHCHECK", "exec")
    assert "/live" in probe[2]
