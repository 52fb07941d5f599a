"""What users and operators see is as it was; `tests/frozen` holds what it was."""

import difflib
import runpy
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from serve_app.app import build_app
from serve_app.launcher import CONFIG, ServiceOptions, read_config
from tests.frozen.surface import FROZEN, SURFACES, metrics_of

SHOWN_LINES = 60
CONFIGS = ("embedded.yaml", "production.yaml")
# Serve's config files, the environment of Ray's proxies, and clients' programs name these.
PUBLIC = (
    "serve_app.app:build_app",
    "serve_app.client:AsyncFaceAvatarClient",
    "serve_app.client:FaceAvatarClient",
    "serve_app.edge:middlewares",
    "serve_app.policies:RowsPolicy",
    "serve_app.policies:SlotsPolicy",
    "serve_app.policies:SteadyRowsPolicy",
    "serve_app.policies:TasksPolicy",
    "deployments.diffusion.router.ModelRouter",
)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("openapi.json", "the OpenAPI document"),
        ("help.txt", "--help of a command"),
        ("metrics.json", "a metric"),
        ("settings.txt", "a setting"),
    ],
)
def test_users_and_operators_see_what_they_saw(name: str, what: str) -> None:
    before, now = (FROZEN / name).read_text(encoding="utf-8"), SURFACES[name]()
    if now != before:
        changes = list(difflib.unified_diff(before.splitlines(), now.splitlines(), "frozen", "now", "", "", 1, ""))
        shown = "\n".join(changes[:SHOWN_LINES])
        pytest.fail(
            f"{what} changed: if that is meant, run `python -m tests.frozen` and note it in CHANGELOG\n{shown}",
            pytrace=False,
        )


def test_one_command_writes_all_of_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.frozen.surface.FROZEN", tmp_path)
    runpy.run_module("tests.frozen", run_name="__main__")
    assert {path.name for path in tmp_path.iterdir()} == set(SURFACES)


def test_a_metric_is_found_however_it_is_made(tmp_path: Path) -> None:
    source = """
from ray.serve import metrics
from ray.util.metrics import Gauge as Level
from collections import Counter
LABELS = ("a", "b")
class Metrics:
    def __init__(self):
        own = ("c",)
        self.one = metrics.Counter("one", "Of one.", LABELS)
        self.two = metrics.Histogram("two", "Of two.", [1, 2], own)
        self.three = Level(name="three", tag_keys=("d",))
        self.none = Counter("none")
"""
    assert list(metrics_of(source, tmp_path)) == [
        ("one", "Counter", ["a", "b"]),
        ("two", "Histogram", ["c"]),
        ("three", "Gauge", ["d"]),
    ]
    with pytest.raises(ValueError, match=r"metrics\.py:2: write the metric's name"):
        list(metrics_of("from ray.serve import metrics\nmetrics.Counter(NAME)", Path("metrics.py")))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_that_an_operator_copied_is_still_accepted(name: str) -> None:
    """And the deployments that it names are those of the application, or Serve refuses it."""
    (named,) = yaml.safe_load((FROZEN / name).read_text())["applications"]
    config, settings = read_config(ServiceOptions(config=FROZEN / name))
    assert {item.name for item in config.applications[0].deployments} <= deployments_of(build_app(settings))
    assert resolve_name(named["import_path"]) is build_app


def deployments_of(app: Any) -> set[str]:
    """The names of a deployment and of those that are bound to it."""
    deployment = app._bound_deployment
    bound = [argument for argument in deployment.init_args if hasattr(argument, "_bound_deployment")]
    return {deployment.name}.union(*(deployments_of(each) for each in bound))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_file_is_accepted(name: str) -> None:
    read_config(ServiceOptions(config=CONFIG.with_name(name)))


@pytest.mark.parametrize("path", PUBLIC)
def test_what_files_of_others_import_is_where_it_was(path: str) -> None:
    assert callable(resolve_name(path))
