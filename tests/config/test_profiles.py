"""The production profile: commercial as it is, and with research apps as the operators' page switches them on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.app import HEAD_PX, faces_of_apps, generator_of_apps
from serve_app.catalog.catalog import Catalog
from serve_app.cli.doctor.files import model_paths
from serve_app.cli.doctor.gpu import Gpu, gpu_needs, judge_memory
from serve_app.settings import Settings

ROOT = Path(__file__).parents[2]
L40S = Gpu("NVIDIA L40S", 46068 * 2**20 / 1e9, "580.65.06")
COMMERCIAL = ["face-avatar", "face-avatar-sdxl"]
RESEARCH = ["face-avatar-faceid", "face-avatar-faceid-sd15"]


@dataclass(frozen=True)
class Profile:
    """A Serve config, the apps that it serves, and what `doctor` says of its memory."""

    config: dict[str, Any]
    apps: list[str]
    memory: str

    @property
    def settings(self) -> Settings:
        return Settings(**self.config["applications"][0]["args"])


def production() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_app" / "config" / "production.yaml").read_text())
    return config


def blocks(heading: str) -> list[dict[str, Any]]:
    """The YAML blocks of a section of the operators' page."""
    section = (ROOT / "serve_app" / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [yaml.safe_load(part.partition("```")[0]) for part in section.split("```yaml\n")[1:]]


def research_alone() -> Profile:
    alone, _, _ = blocks("Research use")
    config = production()
    config["applications"][0]["args"] |= alone
    return Profile(config, RESEARCH, "FaceEmbedder 2.7 of 2.9, AvatarGenerator 41.6 of 42.5")


def both() -> Profile:
    _, arguments, shares = blocks("Research use")
    config = production()
    args = config["applications"][0]["args"]
    args |= arguments | {"generator": args["generator"] | arguments["generator"]}
    for deployment in config["applications"][0]["deployments"]:
        deployment["ray_actor_options"] |= shares.get(deployment["name"], {})
    return Profile(config, COMMERCIAL + RESEARCH, "FaceEmbedder 4.9 of 5.3, AvatarGenerator 36.6 of 37.7")


def undistilled() -> Profile:
    config = production()
    config["applications"][0]["args"]["catalogs"] = ["commercial", "klein-base"]
    memory = "FaceEmbedder 2.7 of 2.9, AvatarGenerator 41.6 of 42.5"
    return Profile(config, [*COMMERCIAL, "face-avatar-klein-base"], memory)


PROFILES = {
    "commercial": Profile(production(), COMMERCIAL, "FaceEmbedder 2.7 of 2.9, AvatarGenerator 41.6 of 42.5"),
    "research": research_alone(),
    "both": both(),
    "undistilled": undistilled(),
}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return PROFILES[request.param]


def test_a_profile_serves_its_apps_and_no_model_that_they_do_not_draw_with(profile: Profile) -> None:
    settings = profile.settings
    catalog = Catalog.read(settings.catalogs)
    assert list(catalog.apps) == profile.apps
    assert not any(catalog.refusal(app_id, settings.license_mode) for app_id in catalog.apps)
    models = generator_of_apps(settings).models
    assert models.keys() == {app.model for app in catalog.apps.values()}
    for app in catalog.apps.values():
        if models[app.model].compile:
            assert set(models[app.model].compile_sizes) == set(app.native_sizes)


def test_heads_are_cut_out_and_face_models_loaded_for_the_apps_that_need_them() -> None:
    kinds = {name: [model.kind for model in faces_of_apps(each.settings).loaded()] for name, each in PROFILES.items()}
    assert kinds == {
        "commercial": ["yunet"],
        "research": ["insightface"],
        "both": ["yunet", "insightface"],
        "undistilled": ["yunet"],
    }
    heads = {name: faces_of_apps(each.settings).head_px for name, each in PROFILES.items()}
    assert heads == {"commercial": HEAD_PX, "research": None, "both": HEAD_PX, "undistilled": HEAD_PX}


def test_every_file_that_the_stages_load_is_brought_by_the_apps(profile: Profile) -> None:
    catalog = Catalog.read(profile.settings.catalogs)
    brought = {str(profile.settings.models_dir / file.path) for file in catalog.files(catalog.apps)}
    paths = [str(path) for path in model_paths(profile.settings)]
    assert paths
    for path in paths:
        assert any(file == path or file.startswith(f"{path}/") for file in brought), path


def test_the_stages_fit_the_gpu_of_the_nodes_as_the_page_says(profile: Profile) -> None:
    schema = ServeDeploySchema.model_validate(profile.config)
    (fits,) = judge_memory([L40S], gpu_needs(schema, profile.settings))
    assert (fits.state, fits.reason) == ("ok", f"GB of a replica: {profile.memory}")
    options = {each["name"]: each["ray_actor_options"] for each in profile.config["applications"][0]["deployments"]}
    embedders = 2 * options["FaceEmbedder"]["num_gpus"]
    assert embedders + options["AvatarGenerator"]["num_gpus"] == pytest.approx(1)
    page = (ROOT / "serve_app" / "README.md").read_text()
    assert all(figure.partition(" ")[2] in page for figure in profile.memory.split(", "))


def test_research_apps_are_refused_under_a_commercial_licence_mode_and_their_models_not_loaded() -> None:
    settings = Settings(**PROFILES["both"].config["applications"][0]["args"] | {"license_mode": "commercial"})
    catalog = Catalog.read(settings.catalogs)
    assert [app_id for app_id in catalog.apps if catalog.refusal(app_id, "commercial")] == RESEARCH
    assert list(generator_of_apps(settings).models) == ["flux2-klein", "sdxl-plus-face"]
    assert faces_of_apps(settings).models == {}
