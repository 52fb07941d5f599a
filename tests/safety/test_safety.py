"""What is withheld: checkers loaded from real formats, the generator, the pipeline and the envelope around them."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from ray.exceptions import RayTaskError

from deployments.config import AvatarGeneratorConfig, ClassifierConfig, ConceptCheckerConfig, DiffusionModelConfig
from deployments.diffusion.deployment import AvatarGenerator
from deployments.errors import UnsafeImageError
from deployments.safety.checker import SharedChecker
from deployments.safety.model import ImageClassifier, load_checker
from deployments.safety.picture import PictureFormat
from deployments.types import GeneratedImage, Pixels
from serve_app.backends.object_store import FOLDER, Results, StoreSettings
from serve_app.generation.envelope import envelope_of
from serve_app.generation.execution import failure_outcome, success_outcome
from serve_app.generation.prompt_filter import PromptFilter
from serve_app.tasks.models import TaskRecord
from tests.support.diffusion_folders import write_faceid_adapter, write_tiny_model
from tests.support.fakes import avatar_spec, face
from tests.support.safety_folders import embedding, flat, write_classifier, write_concept_checker, write_preprocessor
from tests.support.stages import AVATAR, Embedder, Stage, run_job
from tests.support.tasks import task

torch.set_num_threads(1)

RED, GREEN, BLUE = flat(220, 20, 30), flat(20, 220, 30), flat(20, 30, 220)
STRIPES = np.where(np.arange(64)[:, None, None] % 16 < 8, RED, BLUE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept checker that flags red pictures."""
    folder = tmp_path_factory.mktemp("checker")
    write_concept_checker(folder, unsafe=[RED])
    return folder


def test_a_picture_like_a_concept_is_flagged_and_another_is_not(folder: Path) -> None:
    checker = load_checker(ConceptCheckerConfig(path=folder), "cpu")
    assert checker.flags([GREEN, RED, STRIPES, RED, BLUE]) == [False, True, False, True, False]
    assert checker.flags([GREEN]) == [False]


def test_the_decisions_are_those_of_diffusers_own_checker(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) // (1 + place) for place in range(40)]
    write_concept_checker(tmp_path, unsafe=pictures[:3], special=pictures[10:12])
    theirs = StableDiffusionSafetyChecker.from_pretrained(tmp_path)
    with torch.no_grad():
        near = torch.stack([embedding(theirs, tmp_path, picture) @ theirs.concept_embeds[:3].T for picture in pictures])
    theirs.concept_embeds_weights.data[:3] = near.quantile(0.7, dim=0)  # some are flagged, and some are not
    theirs.save_pretrained(tmp_path)
    inputs = PictureFormat.read(tmp_path).tensor(pictures)
    _, expected = theirs(clip_input=inputs, images=np.zeros((40, 4, 4, 3)))
    assert 3 <= sum(expected) < 40
    assert load_checker(ConceptCheckerConfig(path=tmp_path), "cpu").flags(pictures) == expected


def test_weights_of_half_precision_are_loaded_as_such(tmp_path: Path) -> None:
    write_concept_checker(tmp_path, unsafe=[RED], variant="fp16")
    checker = load_checker(ConceptCheckerConfig(path=tmp_path, variant="fp16", dtype="float16"), "cpu")
    assert checker.flags([BLUE, STRIPES]) == [False, False]


def test_special_care_makes_the_thresholds_stricter(tmp_path: Path) -> None:
    found = []
    for special in ([], [RED]):
        write_concept_checker(tmp_path, unsafe=[RED], special=special)
        model = StableDiffusionSafetyChecker.from_pretrained(tmp_path)
        model.concept_embeds_weights.data[0] = 1.005  # out of reach, but for the 0.01 of special care
        model.save_pretrained(tmp_path)
        found.append(load_checker(ConceptCheckerConfig(path=tmp_path), "cpu").flags([RED]))
    assert found == [[False], [True]]


def test_a_classifier_withholds_by_its_labels(tmp_path: Path) -> None:
    write_classifier(tmp_path, unsafe=RED)
    config = ClassifierConfig(kind="classifier", path=tmp_path, labels=("NSFW",), threshold=0.7)
    checker = load_checker(config, "cpu")
    assert isinstance(checker, ImageClassifier)
    assert checker.flags([GREEN, RED, BLUE]) == [False, True, False]


def test_a_label_that_the_classifier_lacks_is_refused_at_the_start(tmp_path: Path) -> None:
    write_classifier(tmp_path, unsafe=RED)
    with pytest.raises(ValueError, match="no label gore, but normal, nsfw"):
        load_checker(ClassifierConfig(kind="classifier", path=tmp_path, labels=("gore",)), "cpu")


def test_a_checker_that_is_not_there_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checker(ConceptCheckerConfig(path=tmp_path / "absent"), "cpu")


def test_a_preprocessor_may_lie_in_another_folder(folder: Path, tmp_path: Path) -> None:
    write_concept_checker(tmp_path / "checker", unsafe=[RED])
    (tmp_path / "checker" / "preprocessor_config.json").unlink()
    write_preprocessor(tmp_path / "features")
    config = ConceptCheckerConfig(path=tmp_path / "checker", preprocessor=tmp_path / "features")
    assert load_checker(config, "cpu").flags([RED, BLUE]) == [True, False]


@pytest.mark.parametrize("shape", [(64, 64), (70, 100), (300, 100)])
def test_pictures_are_prepared_as_transformers_would(tmp_path: Path, shape: tuple[int, int]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    write_preprocessor(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = CLIPImageProcessorPil.from_pretrained(tmp_path)(images=[pixels], return_tensors="pt")["pixel_values"]
    assert torch.allclose(PictureFormat.read(tmp_path).tensor([pixels]), theirs, atol=1e-5)


@pytest.mark.parametrize(
    "prompt",
    [
        "a nude man",
        "NUDE",
        "a ｎｕｄｅ man",
        "núde",
        "nude, standing",
        "very-nude",
        "nu\u00adde",
        "a bare   chest",
        "Bare-Chest",
    ],
)
def test_a_refused_word_is_found_in_any_form(prompt: str) -> None:
    assert PromptFilter(["nude", "bare chest"]).refuse(prompt)


@pytest.mark.parametrize("prompt", ["denuded hills", "nudes", "a chest, bare", "a man", ""])
def test_a_refused_word_is_a_whole_one(prompt: str) -> None:
    assert not PromptFilter(["nude", "bare chest"]).refuse(prompt)


def test_without_terms_nothing_is_refused_and_an_empty_term_is_a_mistake() -> None:
    assert not PromptFilter([]).refuse("nude")
    with pytest.raises(ValueError, match="at least one letter"):
        PromptFilter(["nude", " ! "])


# The generator


class LooksTwice:
    """Flags dark pictures; fails at a black one, and at every batch with it."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        self.batches.append(len(pictures))
        if any(picture.max() == 0 for picture in pictures):
            raise ValueError("too dark to tell")
        return [bool(picture.mean() < 50) for picture in pictures]


def looked_at(checker: LooksTwice, *pictures: Pixels) -> list[bool | BaseException]:
    async def main() -> list[bool | BaseException]:
        shared = SharedChecker(checker)
        first = asyncio.create_task(shared.flags(pictures[0]))
        await asyncio.sleep(0)  # it is being looked at when the others come
        return await asyncio.gather(first, *map(shared.flags, pictures[1:]), return_exceptions=True)

    return asyncio.run(main())


def test_pictures_that_come_together_are_looked_at_together_and_each_gets_its_own_answer() -> None:
    checker = LooksTwice()
    pictures = [flat(level, level, level) for level in (10, 200) * 6]
    assert looked_at(checker, *pictures) == [True, False] * 6
    assert checker.batches == [1, 8, 3]


def test_a_picture_that_breaks_the_checker_harms_no_neighbour() -> None:
    found = looked_at(LooksTwice(), GREEN, flat(10, 10, 10), flat(0, 0, 0), BLUE)
    assert [isinstance(flag, ValueError) for flag in found] == [False, False, True, False]
    assert (found[0], found[1], found[3]) == (False, True, False)


def generator_config(folder: Path, safety: Path | None) -> AvatarGeneratorConfig:
    model = DiffusionModelConfig(
        path=folder / "model",
        ip_adapter=folder / "adapter.safetensors",
        threads=1,
        safety=None if safety is None else ConceptCheckerConfig(path=safety),
    )
    return AvatarGeneratorConfig(models={"tiny": model})


async def drawn(config: AvatarGeneratorConfig, *seeds: int) -> list[Pixels | str]:
    """The pictures of these seeds, drawn at once; for one that is withheld, what is said of it."""
    generator = AvatarGenerator.__new__(AvatarGenerator)
    await generator.__init__(config)  # type: ignore[misc]

    async def draw(seed: int) -> Pixels | str:
        spec = avatar_spec(
            model="tiny", seed=seed, width=64, height=64, num_inference_steps=2, deadline=time.time() + 60
        )
        try:
            image: GeneratedImage = await generator.generate(spec, face())
        except UnsafeImageError as error:
            return str(error)
        return image.pixels

    try:
        return await asyncio.gather(*map(draw, seeds))
    finally:
        generator.__del__()


def test_the_generator_gives_no_flagged_picture_away_and_its_neighbours_go_on(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model", "sd")
    write_faceid_adapter(tmp_path, "sd", "safetensors", lora=False).rename(tmp_path / "adapter.safetensors")
    free = asyncio.run(drawn(generator_config(tmp_path, None), 7, 8, 9))
    assert all(isinstance(picture, np.ndarray) for picture in free)

    write_concept_checker(tmp_path / "checker", unsafe=[free[1]])  # type: ignore[list-item]
    checked = asyncio.run(drawn(generator_config(tmp_path, tmp_path / "checker"), 7, 8, 9))
    assert checked[1] == "The safety checker withholds this image."
    assert np.array_equal(checked[0], free[0])
    assert np.array_equal(checked[2], free[2])


# The pipeline and its answer

UNSAFE = UnsafeImageError("withheld")


def through_ray(error: Exception) -> Exception:
    return RayTaskError("postprocess", "traceback", error)


def test_a_withheld_image_is_stored_nowhere_and_null_in_the_answer(tmp_path: Path) -> None:
    done = run_job(tmp_path, Embedder(face()), Stage("image"), Stage(AVATAR, through_ray(UNSAFE), AVATAR), batch=3)
    assert [avatar.withheld for avatar in done.avatars] == [False, True, False]
    assert len([path for path in (tmp_path / FOLDER).rglob("*") if path.is_file()]) == 4  # two images and thumbnails

    results = Results.open(StoreSettings(), data_dir=tmp_path, signing_key=b"key", ttl_s=60)
    record = TaskRecord(task=task(), status="SUCCESS", outcome=success_outcome(done, 0, []))
    output = asyncio.run(envelope_of(record, results, "http://here")).output
    assert output["Has_NSFW_Content"] == [False, True, False]
    for name in ("result", "low_res_urls"):
        assert [url is None for url in output[name]] == [False, True, False]
    assert output["seeds"] == [7, 8, 9]


def test_when_all_images_are_withheld_the_request_fails_as_the_contract_says(tmp_path: Path) -> None:
    with pytest.raises(UnsafeImageError) as caught:
        run_job(tmp_path, Embedder(face()), Stage("image"), Stage(through_ray(UNSAFE)), batch=2)
    failure = failure_outcome(caught.value).failure
    assert failure is not None
    assert (failure.status, failure.error) == (422, "NSFW Content")
    assert not [path for path in (tmp_path / FOLDER).rglob("*") if path.is_file()]
