"""The commercial profile, as the operators' page says it is set."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.app import HEAD_PX, faces_of_apps, generator_of_apps
from serve_app.catalog.catalog import Catalog
from serve_app.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def args() -> dict[str, Any]:
    """The arguments of production.yaml with what the page puts in their place."""
    text = (ROOT / "serve_app" / "README.md").read_text()
    block = text.partition("## Commercial use")[2].partition("```yaml\n")[2].partition("```")[0]
    config = yaml.safe_load((ROOT / "serve_app" / "config" / "production.yaml").read_text())
    production: dict[str, Any] = config["applications"][0]["args"]
    return production | yaml.safe_load(block)


def test_every_model_of_the_profile_is_one_that_its_apps_draw_with(args: dict[str, Any]) -> None:
    settings = Settings(**args)
    catalog = Catalog.read(settings.catalogs)
    catalog.check_licences(settings.license_mode)
    catalog.check_models(settings.generator.models)
    assert {app.model for app in catalog.apps.values()} == settings.generator.models.keys()
    assert faces_of_apps(settings).head_px == HEAD_PX
    sdxl = generator_of_apps(settings).models["sdxl-plus-face"]
    assert set(sdxl.compile_sizes) == set(catalog["face-avatar-sdxl"].native_sizes)


def test_every_file_that_the_profile_names_is_brought_by_its_apps(args: dict[str, Any]) -> None:
    settings = Settings(**args)
    catalog = Catalog.read(settings.catalogs)
    brought = {file.path for file in catalog.files(catalog.apps)}

    def paths(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [path for each in value.values() for path in paths(each)]
        return [value.removeprefix("models:")] if isinstance(value, str) and value.startswith("models:") else []

    for path in paths(args["face"]) + paths(args["generator"]["models"]):
        assert any(file == path or file.startswith(f"{path}/") for file in brought), path
