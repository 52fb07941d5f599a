from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deployments.config import WEIGHTS, DiffusionModelConfig, model_path
from serve_app.app import generator_of_apps
from serve_app.catalog.catalog import CATALOGUES
from serve_app.launcher import CONFIG, ServiceOptions, read_config
from serve_app.local_ray import StartError
from serve_app.settings import Settings


def test_the_file_wins_over_the_environment_and_the_command_line_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACE_AVATAR_DATA_DIR", "/from/environment")
    monkeypatch.setenv("FACE_AVATAR_FETCH__TIMEOUT_S", "3")
    monkeypatch.setenv("FACE_AVATAR_ADMISSION__MAX_IMAGES", "9")
    _, settings = read_config(ServiceOptions())
    assert settings.data_dir == Path("/from/environment")
    assert settings.fetch.timeout_s == 3
    assert (
        settings.admission.max_images
        == yaml.safe_load(CONFIG.read_text())["applications"][0]["args"]["admission"]["max_images"]
    )
    _, settings = read_config(ServiceOptions(data_dir=tmp_path, allow_private_urls=True))
    assert settings.data_dir == tmp_path
    assert settings.fetch.allow_private


def test_options_change_the_config_and_nothing_else() -> None:
    plain, _ = read_config(ServiceOptions())
    changed, _ = read_config(ServiceOptions(host="0.0.0.0", port=81))
    assert (changed.http_options.host, changed.http_options.port) == ("0.0.0.0", 81)
    assert changed.applications == plain.applications


def test_a_data_dir_is_the_same_for_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("here")).data_dir == tmp_path / "here"
    assert Settings().data_dir == Path.home() / ".face-avatar"


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="nonsense"):
        Settings(nonsense=1)  # type: ignore[call-arg]


def test_a_config_that_does_not_fit_says_where(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("applications: []")
    with pytest.raises(StartError, match=r"config\.yaml"):
        read_config(ServiceOptions(config=config))


def test_every_model_that_the_config_names_is_there() -> None:
    _, settings = read_config(ServiceOptions())
    generator = settings.generator.models["embedded"]
    named = [settings.face.model.encoder, settings.background.model.model_path, generator.path, generator.ip_adapter]
    for path in named:
        assert path is not None
        assert model_path(path).is_relative_to(WEIGHTS)
        assert model_path(path).exists()


def test_the_embedded_deployments_fit_two_cpus_together() -> None:
    config, _ = read_config(ServiceOptions())
    deployments = config.model_dump(exclude_unset=True)["applications"][0]["deployments"]
    cpus = [
        deployment["ray_actor_options"]["num_cpus"]
        * deployment.get("autoscaling_config", {"min_replicas": deployment.get("num_replicas")})["min_replicas"]
        for deployment in deployments
    ]
    assert len(cpus) == 6
    assert sum(cpus) <= 2


SDXL = {"path": Path("models:sdxl"), "ip_adapter": Path("models:adapter"), "compile": True}


def compiled(**changes: Any) -> DiffusionModelConfig:
    model = DiffusionModelConfig(**(SDXL | changes))
    models = {
        "sdxl-faceid": model,
        "sd15-faceid": DiffusionModelConfig(**SDXL),
        "nobodys": DiffusionModelConfig(**SDXL),
    }
    used = generator_of_apps(Settings(catalogs=("research",), generator={"models": models})).models
    assert used.keys() == {"sdxl-faceid", "sd15-faceid"}
    return used["sdxl-faceid"]


def test_a_model_is_compiled_for_the_native_sizes_and_the_guidance_of_its_apps() -> None:
    model = compiled()
    assert model.compile_sizes[:3] == ((1024, 1024), (1152, 896), (896, 1152))
    assert len(model.compile_sizes) == len(set(model.compile_sizes)) == 9
    assert model.compile_guided is True
    assert model.compile_single is True  # of fast images
    assert compiled(compile_single=False).compile_single is False


@pytest.mark.parametrize("has_guidance", [True, False])
def test_a_model_whose_apps_have_no_guidance_is_compiled_for_single_rows(tmp_path: Path, has_guidance: bool) -> None:
    app = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())["apps"]["face-avatar"]
    assert app["defaults"]["guidance_scale"] > 1  # as clients may send it to any app
    apps = {"face-avatar": {**app, "model": "klein", "has_guidance": has_guidance}}
    (tmp_path / "klein.yaml").write_text(yaml.safe_dump({"apps": apps}))
    klein = DiffusionModelConfig(path=Path("models:klein"), compile=True)
    settings = Settings(catalogs=(str(tmp_path / "klein.yaml"),), generator={"models": {"klein": klein}})
    compiled = generator_of_apps(settings).models["klein"]
    assert (compiled.compile_guided, compiled.compile_single) == (has_guidance, False)


def test_what_the_settings_say_of_compiling_stands() -> None:
    model = compiled(compile_sizes=((768, 768),), compile_guided=False)
    assert (model.compile_sizes, model.compile_guided) == (((768, 768),), False)
    assert compiled(compile=False).compile_sizes == ()
