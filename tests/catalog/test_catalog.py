from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from deployments.config import FaceEmbedderConfig
from serve_app.catalog.catalog import Catalog
from serve_app.catalog.model_files import Download, ModelFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32


def download(**changes: Any) -> dict[str, Any]:
    """A download as a catalogue file states it; a field that is `...` is left out."""
    fields = {
        "repo": "owner/name",
        "revision": COMMIT,
        "licence": "MIT",
        "licence_url": "https://models.example/licence",
        "folder": "model",
        "files": {"config.json": {"sha256": DIGEST, "size": 3}},
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def app(**changes: Any) -> dict[str, Any]:
    return {
        "title": "An app",
        "description": "It draws.",
        "licence": "MIT",
        "model": "one",
        "native_sizes": [[512, 512]],
        "defaults": {"width": 512, "height": 512, "num_inference_steps": 20, "guidance_scale": 5},
        **changes,
    }


def written(path: Path, **content: Any) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture(scope="module")
def research() -> Catalog:
    return Catalog.read(["research"])


def test_the_research_apps_draw_at_sizes_that_their_models_know(research: Catalog) -> None:
    research.check_models({"sdxl-faceid", "sd15-faceid"})
    for item in research.apps.values():
        defaults = item.defaults
        assert item.native_size(defaults.width, defaults.height) == (defaults.width, defaults.height)
        assert all(side % 64 == 0 for size in item.native_sizes for side in size)
    sdxl = research["face-avatar-faceid"]
    assert all(0.93 < width * height / 1024**2 < 1.01 for width, height in sdxl.native_sizes)
    assert sdxl.native_size(400, 600) == (832, 1216)


def test_every_research_file_has_a_digest_a_size_a_place_of_its_own_and_a_revision_that_stays(
    research: Catalog,
) -> None:
    files = research.files(research.downloads.keys() - {"sdxl-lightning-8step"})  # for operators who pin it
    assert len({file.path for file in files}) == len(files)
    for file in files:
        assert file.sha256 is not None, file.path
        assert file.size is not None, file.path
        assert file.url.startswith("https://")
        assert not {"main", "master", "HEAD", "{revision}"} & set(file.url.split("/"))


def test_a_face_for_commerce_is_of_three_files_none_of_which_is_insightfaces(research: Catalog) -> None:
    needed = research.needed(["yunet", "auraface", "sface"])
    assert {name: (download.spdx_id, download.commercial) for name, download in needed.items()} == {
        "yunet": ("MIT", True),
        "auraface": ("Apache-2.0", True),
        "sface": ("Apache-2.0", True),
    }
    files = research.files(needed)
    assert {file.path: file.size for file in files} == {
        "yunet/face_detection_yunet_2023mar.onnx": 232_589,
        "auraface/glintr100.onnx": 260_694_151,
        "sface/face_recognition_sface_2021dec.onnx": 38_696_353,
    }
    insightfaces = {file.sha256 for file in research.files(["buffalo_l"])}
    assert not insightfaces & {file.sha256 for file in files}


@pytest.mark.parametrize(
    ("fallbacks", "problem"),
    [
        ({"a": "b", "b": "c"}, None),
        ({"a": "c", "b": "c"}, None),
        ({"a": "nobody"}, "app a: there is no app nobody to fall back on"),
        ({"b": "b"}, "app b: its fallbacks are circular: b, b"),
        ({"a": "b", "b": "c", "c": "b"}, "app a: its fallbacks are circular: a, b, c, b"),
    ],
)
def test_an_app_falls_back_on_another_one_that_is_there(
    tmp_path: Path, fallbacks: dict[str, str], problem: str | None
) -> None:
    apps = {name: app(fallback_app_id=fallbacks.get(name)) for name in "abc"}
    path = written(tmp_path / "own.yaml", apps=apps)
    if problem is None:
        assert Catalog.read([path])["a"].fallback_app_id == fallbacks["a"]
    else:
        with pytest.raises(ValueError, match=problem):
            Catalog.read([path])


def test_no_app_is_called_as_having_no_fallback_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no app can be called none"):
        Catalog.read([written(tmp_path / "own.yaml", apps={"none": app()})])


def test_an_app_that_may_be_used_falls_back_on_none_that_may_not(tmp_path: Path) -> None:
    free = {"weights": "all", "licence": "MIT", "spdx_id": "MIT", "commercial": True, "url": "https://example.org"}
    apps = {
        "free": app(fallback_app_id="paid", weights=[free]),
        "paid": app(weights=[free | {"commercial": False}]),
    }
    catalog = Catalog.read([written(tmp_path / "own.yaml", apps=apps)])
    catalog.check_licences("any")
    with pytest.raises(ValueError, match="app free: its fallback paid may not be used"):
        catalog.check_licences("commercial")


YUNET = {"kind": "yunet", "detector": "models:d.onnx", "recogniser": {"kind": "arcface", "file": "models:r.onnx"}}


def test_an_app_names_its_face_model_and_only_those_of_apps_that_may_be_used_are_loaded(tmp_path: Path) -> None:
    free = {"weights": "w", "licence": "MIT", "spdx_id": "MIT", "commercial": True, "url": "https://models.example"}
    apps = {
        "plain": app(weights=[free]),
        "free": app(face_model="free", weights=[free]),
        "bound": app(face_model="bound"),
    }
    catalog = Catalog.read([written(tmp_path / "c.yaml", apps=apps)])
    config = FaceEmbedderConfig.model_validate({"models": {"free": YUNET, "bound": YUNET, "unused": YUNET}})
    assert list(catalog.faces(config, "any").models) == ["free", "bound"]
    assert list(catalog.faces(config, "commercial").models) == ["free"]
    assert catalog.faces(config, "any").model == config.model
    assert "face_model" not in catalog["free"].model_dump()


def test_a_face_model_that_the_settings_lack_is_named(tmp_path: Path) -> None:
    catalog = Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(face_model="auraface")})])
    with pytest.raises(ValueError, match="app mine: the face settings have no model 'auraface'"):
        catalog.faces(FaceEmbedderConfig(), "any")


def test_the_research_apps_need_a_whole_pipeline_a_face_adapter_a_face_pack_and_a_matting_model(
    research: Catalog,
) -> None:
    for app_id, folder, encoders in [
        ("face-avatar-faceid", "sdxl-base-1.0", 2),
        ("face-avatar-faceid-sd15", "sd-1.5", 1),
    ]:
        paths = {file.path for file in research.files([app_id])}
        assert {f"{folder}/model_index.json", f"{folder}/unet/diffusion_pytorch_model.fp16.safetensors"} <= paths
        assert sum(path.startswith(f"{folder}/text_encoder") for path in paths) == 2 * encoders
        assert {"insightface/buffalo_l/det_10g.onnx", "insightface/buffalo_l/w600k_r50.onnx"} <= paths
        assert "rembg/birefnet-general-lite.onnx" in paths
        assert sum(PurePosixPath(path).suffix == ".bin" for path in paths) == 1


def test_the_licences_that_forbid_commerce_are_named_to_the_client(research: Catalog) -> None:
    for app_id, item in research.apps.items():
        licences = {download.licence for download in research.needed([app_id]).values()}
        assert "research only, non-commercial" in licences
        assert "non-commercial use only" in item.licence
        assert "safety checker" in item.safety
        assert "safety-checker" in item.downloads


def test_the_client_is_told_nothing_of_the_files(research: Catalog) -> None:
    assert not {"downloads", "weights"} & research["face-avatar-faceid"].model_dump().keys()


def test_every_weight_has_a_licence_and_those_of_faces_forbid_commerce(research: Catalog) -> None:
    for app_id, item in research.apps.items():
        licences = {licence.weights: licence for licence in research.licences(app_id)}
        assert licences.keys() == set(item.downloads)
        assert [name for name, licence in licences.items() if not licence.commercial] == list(item.downloads[1:3])
        assert all(licence.spdx_id != "LicenseRef-unknown" for licence in licences.values())


def test_where_commerce_is_meant_apps_that_forbid_it_are_refused_with_the_reason(research: Catalog) -> None:
    assert "ip-adapter-faceid-sdxl, buffalo_l" in research.refusal("face-avatar-faceid", "commercial")
    assert research.refusal("face-avatar-faceid", "any") == ""
    with pytest.raises(ValueError, match=r"leaves no app.*buffalo_l"):
        research.check_licences("commercial")
    research.check_licences("any")


def test_the_embedded_app_may_be_used_for_everything() -> None:
    catalog = Catalog.read(["embedded"])
    assert len(catalog.licences("face-avatar")) == 5  # diffusion, face encoder, finder and verifier, matting, cascade
    catalog.check_licences("commercial")


def test_an_app_that_states_no_licence_of_its_weights_is_not_for_commerce(tmp_path: Path) -> None:
    free = {"weights": "w", "licence": "MIT", "spdx_id": "MIT", "commercial": True, "url": "https://models.example"}
    apps = {"silent": app(), "unsaid": app(downloads=["d"]), "free": app(weights=[free])}
    catalog = Catalog.read([written(tmp_path / "c.yaml", apps=apps, downloads={"d": download()})])
    assert [bool(catalog.refusal(app_id, "commercial")) for app_id in apps] == [True, True, False]
    catalog.check_licences("commercial")


def test_the_embedded_app_needs_no_files() -> None:
    catalog = Catalog.read(["embedded"])
    assert catalog.files(catalog.apps) == []


def test_files_come_from_the_hub_from_a_url_or_out_of_an_archive() -> None:
    hub = Download(**download())
    plain = Download(**download(repo=..., url="https://models.example/{revision}", revision="v1"))
    renamed = Download(**download(files={"a/b.onnx": {"source": "c.onnx"}}))
    archive = Download(**download(repo=..., url="https://models.example/{revision}/pack.zip", revision="v1"))

    path, known = "model/config.json", {"size": 3, "sha256": DIGEST}
    assert hub.model_files() == [
        ModelFile(path=path, url=f"https://huggingface.co/owner/name/resolve/{COMMIT}/config.json", **known)
    ]
    assert plain.model_files() == [ModelFile(path=path, url="https://models.example/v1/config.json", **known)]
    assert renamed.model_files() == [
        ModelFile(path="model/a/b.onnx", url=f"https://huggingface.co/owner/name/resolve/{COMMIT}/c.onnx")
    ]
    (member,) = archive.model_files()
    assert member == ModelFile(path=path, url="https://models.example/v1/pack.zip", member="config.json", **known)
    assert member.source == "https://models.example/v1/pack.zip#config.json"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revision": "main"}, "a branch moves"),
        ({"repo": ...}, "either a repo or a url"),
        ({"url": "https://models.example/{revision}"}, "either a repo or a url"),
        ({"repo": ..., "url": "https://models.example/latest"}, "url"),
        ({"repo": ..., "url": "http://models.example/{revision}"}, "url"),
        ({"repo": "../name"}, "repo"),
        ({"folder": "../elsewhere"}, "plain relative path"),
        ({"files": {"/etc/passwd.txt": {}}}, "plain relative path"),
        ({"files": {"a.json": {"source": "../../b.json"}}}, "plain relative path"),
        ({"files": {"model.pt": {}}}, "model.pt: neither"),
        ({"files": {"model.pkl": {"weights_only": True}}}, "model.pkl: neither"),
        ({"files": {"adapter.bin": {}}}, "a .bin marked weights_only"),
        ({"files": {"a.json": {"sha256": "abc"}}}, "sha256"),
        ({"files": {}}, "files"),
    ],
)
def test_a_download_that_could_change_or_do_harm_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Download(**download(**changes))


def test_a_pickle_is_taken_where_it_is_marked_to_be_read_as_weights_only() -> None:
    marked = Download(**download(files={"adapter.bin": {"weights_only": True}}))
    assert [file.path for file in marked.model_files()] == ["model/adapter.bin"]


def test_an_app_of_ones_own_may_need_what_another_catalogue_brings(tmp_path: Path) -> None:
    own = written(tmp_path / "own.yaml", apps={"mine": app(downloads=["u2net", "buffalo_l"])})
    catalog = Catalog.read([own, "research"])
    assert {file.path for file in catalog.files(["mine", "u2net"])} == {
        "rembg/u2net.onnx",
        "insightface/buffalo_l/det_10g.onnx",
        "insightface/buffalo_l/w600k_r50.onnx",
    }
    with pytest.raises(ValueError, match="app mine: there is no download buffalo_l, u2net"):
        Catalog.read([own])


def test_names_that_are_nobodys_are_refused_with_those_that_there_are(research: Catalog) -> None:
    with pytest.raises(ValueError, match=r"'sdxl' is none of face-avatar-faceid, .*buffalo_l"):
        research.files(["sdxl"])


def test_two_catalogues_may_not_name_the_same_download(tmp_path: Path) -> None:
    own = written(tmp_path / "own.yaml", downloads={"u2net": download()}, apps={})
    with pytest.raises(ValueError, match=r"u2net is in two catalogues, .*own\.yaml and .*weights\.yaml"):
        Catalog.read(["research", own])


def test_apps_of_two_catalogues_that_have_one_id_are_refused_with_both_named() -> None:
    with pytest.raises(
        ValueError, match=r"face-avatar is in two catalogues, .*production\.yaml and .*commercial\.yaml"
    ):
        Catalog.read(["production", "commercial"])


def test_commercial_and_research_apps_are_served_together_under_ids_of_their_own() -> None:
    assert list(Catalog.read(["commercial", "research"]).apps) == [
        "face-avatar",
        "face-avatar-sdxl",
        "face-avatar-faceid",
        "face-avatar-faceid-sd15",
    ]


def test_the_catalogue_of_former_versions_has_the_research_apps_under_their_former_ids(research: Catalog) -> None:
    former = Catalog.read(["production"])
    renamed = {"face-avatar": "face-avatar-faceid", "face-avatar-sd15": "face-avatar-faceid-sd15"}
    assert former.apps.keys() == renamed.keys()
    own = {"title", "description", "face_model", "fast", "downloads", "licence"}  # their configurations bring no LoRA
    for before, now in renamed.items():
        then, app_now = dict(former[before]), dict(research[now])
        assert {key: then[key] for key in then.keys() - own} == {key: app_now[key] for key in app_now.keys() - own}
        assert former.files([before]) == [file for file in research.files([now]) if "lightning" not in file.path]


def test_a_catalogue_that_the_package_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(
        ValueError, match="no catalogue 'pro': name commercial, embedded, klein-base, production, research, or a"
    ):
        Catalog.read(["pro"])


def test_the_commercial_apps_may_be_used_commercially_and_all_their_files_are_known() -> None:
    commercial = Catalog.read(["commercial"])
    assert commercial.apps.keys() == {"face-avatar", "face-avatar-sdxl"}
    for app_id, item in commercial.apps.items():
        assert commercial.refusal(app_id, "commercial") == ""
        assert item.native_size(item.defaults.width, item.defaults.height) == (1024, 1024)
        assert all(side % 64 == 0 for size in item.native_sizes for side in size)
        files = commercial.files([app_id])
        assert all(file.size and file.sha256 for file in files)
        assert not any(PurePosixPath(file.path).suffix == ".bin" for file in files)
    brought = {file.path for file in commercial.files(["face-avatar", "face-avatar-sdxl"])}
    assert not any("buffalo" in path or "faceid" in path for path in brought)
    assert "{prompt}" in commercial["face-avatar"].instruction
    assert "instruction" not in commercial["face-avatar"].model_dump()


def test_the_undistilled_klein_is_commercial_and_only_its_own_files_are_to_be_pinned() -> None:
    catalog = Catalog.read(["commercial", "klein-base"])
    base, klein = catalog["face-avatar-klein-base"], catalog["face-avatar"]
    assert catalog.refusal("face-avatar-klein-base", "commercial") == ""
    assert (base.has_guidance, klein.has_guidance) == (True, False)
    assert (base.styles, base.native_sizes, base.instruction) == (klein.styles, klein.native_sizes, klein.instruction)
    files = {file.path.removeprefix("flux2-klein-base-4b/"): file for file in catalog.files(["face-avatar-klein-base"])}
    published = {file.path.removeprefix("flux2-klein-4b/"): file.sha256 for file in catalog.files(["face-avatar"])}
    own = {path for path, file in files.items() if "FLUX.2-klein-base-4B" in file.url}
    assert {path for path, file in files.items() if file.sha256 is None} == own
    assert all(files[path].sha256 == published[path] for path in files.keys() - own)
    assert files.keys() == published.keys()


def test_what_is_included_is_there_once_and_brings_no_apps(tmp_path: Path) -> None:
    shared = written(tmp_path / "shared.yaml", downloads={"d": download()}, apps={"unwanted": app()})
    names = [
        written(tmp_path / f"{name}.yaml", include=[shared], apps={name: app(downloads=["d"])})
        for name in ("one", "two")
    ]
    catalog = Catalog.read(names)
    assert catalog.apps.keys() == {"one", "two"}
    assert list(catalog.downloads) == ["d"]


STYLES = {
    "comic": {"title": "Comic", "prompt": "{prompt}, of a {gender_word}, in ink", "subject": "a nice {gender_word}"},
    "whole": {"title": "Whole", "prompt": "a {gender_word} in ink", "negative_prompt": "colour"},
}


@pytest.mark.parametrize(
    ("style", "own_prompt", "prompt"),
    [
        ("comic", None, "a nice woman, of a woman, in ink"),
        ("comic", "a {gender_word} {prompt}", "a {gender_word} {prompt}, of a woman, in ink"),
        ("comic", "", ", of a woman, in ink"),
        ("whole", None, "a woman in ink"),
        ("whole", "an owl", "an owl"),
        (None, "an owl", "an owl"),
        (None, None, "a woman"),
    ],
)
def test_a_style_makes_the_prompt_and_takes_the_clients_own_into_its_place(
    tmp_path: Path, style: str | None, own_prompt: str | None, prompt: str
) -> None:
    styled = Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(styles=STYLES, prompt="a {gender_word}")})])
    filled = styled["mine"].filled_prompt(own_prompt, "woman", style)
    assert filled == prompt
    assert styled["mine"].filled_prompt(filled, "woman", style) == prompt  # as `replay` sends it


def test_a_style_has_a_negative_prompt_of_its_own_where_the_model_has_any(tmp_path: Path) -> None:
    apps = {"mine": app(styles=STYLES), "distilled": app(styles=STYLES, has_guidance=False)}
    styled = Catalog.read([written(tmp_path / "c.yaml", apps=apps)])
    own = styled["mine"].defaults.negative_prompt
    assert [styled["mine"].defaults_of(style)["negative_prompt"] for style in ("whole", "comic", None)] == [
        "colour",
        own,
        own,
    ]
    assert styled["distilled"].defaults_of("whole")["negative_prompt"] == own


@pytest.mark.parametrize("name", ["Comic", "a b", "", "x" * 33, "-a"])
def test_a_style_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="styles"):
        Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(styles={name: STYLES["comic"]})})])


def test_a_style_has_one_place_for_a_prompt(tmp_path: Path) -> None:
    twice = STYLES["comic"] | {"prompt": "{prompt}, {prompt}"}
    with pytest.raises(ValueError, match="at most"):
        Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(styles={"comic": twice})})])


def test_the_lora_of_a_style_comes_with_the_apps_downloads(tmp_path: Path) -> None:
    inked = STYLES["comic"] | {"lora": {"file": "d/weights.safetensors", "scale": 0.8}}
    apps = {"mine": app(styles={"ink": inked, "plain": STYLES["comic"]}, downloads=["d"])}
    downloads = {"d": download(files={"weights.safetensors": {}}, folder="d")}
    styled = Catalog.read([written(tmp_path / "c.yaml", apps=apps, downloads=downloads)])["mine"]
    assert {name: lora.scale for name, lora in styled.loras.items()} == {"ink": 0.8}
    assert "lora" not in styled.model_dump()["styles"]["ink"]
    with pytest.raises(ValueError, match=r"app mine: none of its downloads brings d/weights\.safetensors"):
        Catalog.read([written(tmp_path / "c.yaml", apps=apps, downloads={"d": download(folder="d")})])


FAST = {"num_inference_steps": 4, "sampler": "lcm", "lora": {"file": "d/weights.safetensors"}}


def test_a_fast_preset_says_how_it_draws_and_brings_its_lora(tmp_path: Path) -> None:
    downloads = {"d": download(files={"weights.safetensors": {}}, folder="d")}
    path = written(tmp_path / "c.yaml", apps={"mine": app(fast=FAST, downloads=["d"])}, downloads=downloads)
    mine = Catalog.read([path])["mine"]
    assert mine.defaults_of(None, "fast") == mine.defaults_of(None) | {
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "negative_prompt": "",
    }
    assert [lora.file for lora in mine.loras.values()] == ["d/weights.safetensors"]
    assert mine.model_dump()["fast"].keys() == {"num_inference_steps", "guidance_scale", "negative_prompt"}
    with pytest.raises(ValueError, match="none of its downloads brings"):
        Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(fast=FAST)})])
    tiny = {"num_inference_steps": 4, "decoder": "d/tiny.safetensors"}
    with pytest.raises(ValueError, match=r"none of its downloads brings d/tiny\.safetensors"):
        Catalog.read(
            [written(tmp_path / "c.yaml", apps={"mine": app(fast=tiny, downloads=["d"])}, downloads=downloads)]
        )
    with pytest.raises(ValueError, match="fast"):
        Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(fast=FAST | {"sampler": "heun"})})])


def test_the_fast_apps_of_the_package_are_those_of_sdxl_whose_lora_is_as_free_as_they_are() -> None:
    commercial, research = (Catalog.read([name]) for name in ("commercial", "research"))
    fast = {app_id for catalog in (commercial, research) for app_id, item in catalog.apps.items() if item.fast}
    assert fast == {"face-avatar-sdxl", "face-avatar-faceid"}
    assert "sdxl-lightning" in [licence.weights for licence in commercial.licences("face-avatar-sdxl")]
    steps, lora = commercial["face-avatar-sdxl"].fast, commercial.files(["sdxl-lightning"])[0]
    assert steps is not None
    assert (steps.num_inference_steps, steps.guidance_scale, steps.sampler) == (4, 1.0, "euler-trailing")
    assert steps.lora is not None
    assert steps.lora.file == lora.path


def test_the_commercial_apps_draw_in_six_styles_that_take_a_prompt() -> None:
    for item in Catalog.read(["commercial"]).apps.values():
        assert len(item.styles) == 6
        assert all("an owl" in style.filled("an owl", "woman") for style in item.styles.values())
        assert item.model_dump()["styles"]["comic"]["title"] == "Comic"


def test_an_instruction_has_a_place_for_the_prompt(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="instruction"):
        Catalog.read([written(tmp_path / "c.yaml", apps={"mine": app(instruction="draw nicely")})])
