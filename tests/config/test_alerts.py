"""The alerts of Prometheus: each is tried, names metrics that there are, and says what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "serve_app" / "config"
CASES = Path(__file__).with_name("alerts.test.yaml")
METRIC = re.compile(r"\bray_\w+")


@pytest.fixture(scope="module")
def rules() -> dict[str, dict[str, Any]]:
    """By the name of their alert."""
    (group,) = yaml.safe_load((CONFIG / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Prometheus is not installed")
@pytest.mark.parametrize(
    "command", [("check", "rules", CONFIG / "alerts.yaml"), ("test", "rules", CASES)], ids=lambda command: command[0]
)
def test_prometheus_takes_the_rules_and_every_alert_fires_when_it_should(command: tuple[Any, ...]) -> None:
    ran = subprocess.run(["promtool", *map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_is_tried(rules: dict[str, dict[str, Any]]) -> None:
    tried = set(re.findall(r'exp_samples:|alertname="(\w+)"', CASES.read_text())) - {""}
    assert tried == rules.keys()


def test_alerts_look_at_what_the_dashboard_shows(rules: dict[str, dict[str, Any]]) -> None:
    dashboard = json.loads((CONFIG / "grafana.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
        for name in METRIC.findall(target["expr"])
    }
    assert {name for rule in rules.values() for name in METRIC.findall(rule["expr"])} <= shown


def test_every_alert_says_how_urgent_it_is_and_what_to_do(rules: dict[str, dict[str, Any]]) -> None:
    for rule in rules.values():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description"}
