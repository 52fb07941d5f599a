"""The weights in the package draw the person they are shown, through the loading code of production."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments.background.model import RembgModel
from deployments.config import WEIGHTS, MattingModelConfig
from deployments.embedded.training.data.captions import default_caption
from deployments.embedded.training.evaluate.figures import DARK_BLACK, PALE_BLOND, held_out
from deployments.embedded.training.evaluate.inference import Studio, drawn_reference, real_references
from deployments.embedded.training.evaluate.judge import Judge
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.photo import face_views
from deployments.embedded.training.renderer.portrait import NAMED_COLOURS
from deployments.embedded.training.train.networks import closed_form_latents
from deployments.face.alignment import CROP_SIZE, crop_face
from loadtest.bench.avatars.scores import JUDGE, differences, intersection_over_union, lab_of
from serve_app.catalog.catalog import Catalog

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Studio(WEIGHTS)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def avatars(studio: Studio) -> dict[str, list[Picture]]:
    """Two persons with the same seed and the same prompt, one with another seed, too."""
    drawn = {}
    for name, person, seeds in (("pale", PALE_BLOND, [3, 4]), ("dark", DARK_BLACK, [3])):
        embedding = studio.embed(drawn_reference(name, person, seed=5).crop[None])[0]
        drawn[name] = studio.draw(embedding, "portrait of a woman, blue background", seeds=seeds, steps=8)
    return drawn


def test_a_face_at_the_edge_is_cropped_with_repeated_pixels() -> None:
    photo = np.full((60, 80, 3), 7, dtype=np.uint8)
    crop = crop_face(photo, (-10, -10, 50, 50))
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    assert (crop == 7).all()


def test_the_latents_of_a_picture_are_its_small_version_in_cells(studio: Studio) -> None:
    picture = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = studio.pipeline.vae.encode(picture * 2 - 1).latents
    expected = closed_form_latents(torch.nn.functional.avg_pool2d(picture, 4))
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=0)


def test_a_drawing_survives_encoding_and_decoding(studio: Studio) -> None:
    picture = torch.from_numpy(np.array(render(PALE_BLOND)[0])).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        again = studio.pipeline.vae.decode(studio.pipeline.vae.encode(picture).latents).sample
    assert (again - picture).abs().mean() < 0.04


def test_changing_only_the_photo_changes_skin_and_hair_towards_it(avatars: dict[str, list[Picture]]) -> None:
    judge = Judge.load(JUDGE)
    seen = {name: judge.read(pictures[:1]) for name, pictures in avatars.items()}
    persons = {"pale": PALE_BLOND, "dark": DARK_BLACK}
    for part in ("skin", "hair"):
        truth = {name: lab_of([getattr(person, part)]) for name, person in persons.items()}
        read = {name: getattr(seen[name], part) for name in persons}
        assert (read["pale"][:, 0] - read["dark"][:, 0] > 20).all()  # CIE lightness
        for name, other in (("pale", "dark"), ("dark", "pale")):
            assert (differences(read[name], truth[name]) + 10 < differences(read[name], truth[other])).all()


def test_the_prompt_names_the_background(avatars: dict[str, list[Picture]]) -> None:
    for picture in (*avatars["pale"], *avatars["dark"]):
        red, green, blue = picture[8:24, 8:24].reshape(-1, 3).mean(0)
        assert blue > red + 60
        assert blue > green + 40


def test_the_default_prompt_gives_a_portrait_on_black(studio: Studio) -> None:
    embedding = studio.embed(drawn_reference("pale", PALE_BLOND, seed=6).crop[None])[0]
    (picture,) = studio.draw(embedding, default_caption("woman"), seeds=[11], steps=8)
    assert picture[4:28, 4:28].mean() < 12
    assert picture[100:150, 100:156].mean() > 90


def test_seeds_differ(avatars: dict[str, list[Picture]]) -> None:
    first, second = avatars["pale"]
    assert np.abs(first.astype(int) - second.astype(int)).mean() > 5


def test_one_person_in_two_photos_is_nearer_than_two_persons(studio: Studio) -> None:
    rng = np.random.default_rng(12)
    views = np.stack([np.stack(face_views(person, rng, 2)) for person in held_out(16)])
    embeddings = studio.embed(views.reshape(-1, *views.shape[2:])).reshape(16, 2, -1)
    likeness = embeddings[:, 0] @ embeddings[:, 1].T
    nearer = np.diag(likeness)[:, None] > likeness
    assert nearer[~np.eye(16, dtype=bool)].mean() >= 0.9


def test_real_photos_keep_their_likeness_under_another_crop_and_light(studio: Studio) -> None:
    views = []
    for reference in real_references():
        x0, y0, x1, y1 = reference.box
        shift = 0.06 * (x1 - x0)
        other = crop_face(reference.photo, (x0 + shift, y0 - shift, x1 + shift, y1))
        views.append((reference.crop, np.clip(other * 0.9, 0, 255).astype(np.uint8)))
    first, second = (studio.embed(np.stack(side)) for side in zip(*views, strict=True))
    likeness = first @ second.T
    nearer = np.diag(likeness)[:, None] > likeness
    assert nearer[~np.eye(len(views), dtype=bool)].mean() >= 0.9


def test_embeddings_have_length_one(studio: Studio) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
    np.testing.assert_allclose(np.linalg.norm(studio.embed(crops), axis=1), 1.0, atol=1e-4)


def test_matting_finds_the_figure_that_the_renderer_drew() -> None:
    model = RembgModel(MattingModelConfig())
    scores = []
    for number, person in enumerate(held_out(6)):
        picture, alpha = render(replace(person, background_name="black") if number % 2 else person)
        mask = model.alpha(np.asarray(picture, dtype=np.uint8))
        scores.append(intersection_over_union(mask > 127, np.asarray(alpha) > 127))
    assert np.mean(scores) >= 0.95


def test_the_default_prompt_fits_the_window(studio: Studio) -> None:
    tokenizer = studio.pipeline.tokenizer
    for word in ("man", "woman", "person", "non-binary child"):
        assert len(tokenizer(default_caption(word)).input_ids) <= 77
    assert tokenizer.unk_token_id not in tokenizer("Žluťoučký 猫 \U0001f600", add_special_tokens=False).input_ids


def test_every_word_that_the_app_says_it_knows_is_one_of_its_tokenizer(studio: Studio) -> None:
    vocabulary = Catalog.read(["embedded"])["face-avatar"].vocabulary
    assert vocabulary is not None
    phrases = [phrase for phrases in vocabulary.values() for phrase in phrases]
    assert len(phrases) == len(set(phrases))
    words = [word for phrase in phrases for word in re.findall("[a-z]+", phrase)]
    assert [word for word in words if len(studio.pipeline.tokenizer.tokenize(word)) > 1] == []
    assert set(vocabulary["colours"]) == set(NAMED_COLOURS)


def test_the_weights_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 40e6
