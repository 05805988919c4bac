"""The dashboard and the alert rules ask for metrics that exist, by labels that they have."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from api import metrics as api
from graphs import metrics as worker
from serving import metrics as engine
from serving import watching

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "moatelier.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
PROMTOOL = shutil.which("promtool")


class Pool:
    """One base, as `/metrics` sees it."""

    mine: dict[str, Any] = {}

    def counts(self) -> dict[str, int | str]:
        gauges, counters = watching.HELD, watching.COUNTED
        return {name: 1 for name in (*gauges, *counters)}


def held() -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(watching.Held(lambda: {"tiny": Pool()}))
    return registry


def known() -> dict[str, set[str]]:
    """Every series' name with its labels."""
    found: dict[str, set[str]] = {"up": {"job"}}
    for registry in (api.REGISTRY, engine.REGISTRY, worker.REGISTRY):
        for name, collector in registry._names_to_collectors.items():
            found[name] = {*getattr(collector, "_labelnames", ()), *(["le"] if name.endswith("_bucket") else [])}
        # Collectors that do not name what they will tell, such as those of processes.
        told = [sample for family in registry.collect() for sample in family.samples]
        found |= {sample.name: set(sample.labels) for sample in told if sample.name not in found}
    for family in held().collect():
        found |= {sample.name: set(sample.labels) for sample in family.samples}
    return found


def asked() -> list[tuple[str, str]]:
    """(expression, legend) of all panels, and of all rules with what their texts quote."""
    panels = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    shown = [(target["expr"], target["legendFormat"]) for target in panels]
    return shown + [(rule["expr"], json.dumps(rule["annotations"]).replace("$labels.", "")) for rule in rules]


KNOWN = known()


@pytest.mark.parametrize(("expression", "legend"), asked())
def test_what_is_asked_for_exists_with_its_labels(expression: str, legend: str) -> None:
    uses = re.findall(r"\b(up|moatelier_\w+)(?:\{([^}]*)\})?", expression)
    assert uses
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    quoted = set(re.findall(r"\{\{ ?(\w+) ?\}\}", legend))
    for name, chosen in uses:
        assert name in KNOWN, name
        wanted = grouped | quoted | set(re.findall(r"(\w+)(?:=~|!~|!=|=)", chosen))
        assert wanted <= KNOWN[name], (name, wanted - KNOWN[name])
    if grouped:
        assert quoted <= grouped, "what is summed away cannot be shown"


def test_a_metric_that_does_not_exist_is_noticed() -> None:
    """Guards the test above."""
    with pytest.raises(AssertionError):
        test_what_is_asked_for_exists_with_its_labels("rate(moatelier_nothing_total[5m])", "")
    with pytest.raises(AssertionError):
        test_what_is_asked_for_exists_with_its_labels("sum(moatelier_up) by (model)", "")


def test_what_the_issue_names_is_on_the_dashboard() -> None:
    shown = " ".join(expression for expression, _ in asked())
    for name in (
        "time_to_first_token",
        "time_per_token",
        "queue_seconds",
        "batch_rows",
        "memory_used",
        "adapter_swaps",
    ):
        assert f"moatelier_engine_{name}" in shown
    for name in ("route_decisions", "moa_calls", "http_requests", "feedback"):
        assert f"moatelier_{name}_total" in shown


def test_panels_do_not_lie_on_each_other() -> None:
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places)) and max(x for x, _ in places) == 23
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on PATH (Debian's package `prometheus` has it)")
def test_promtool_agrees(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    for file in (DEPLOY / "prometheus").iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "moatelier.key").write_text("mo-x")
    checked = subprocess.run([PROMTOOL, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    told = b"".join(generate_latest(registry) for registry in (api.REGISTRY, engine.REGISTRY, held(), worker.REGISTRY))
    linted = subprocess.run([PROMTOOL, "check", "metrics"], input=told, capture_output=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr
