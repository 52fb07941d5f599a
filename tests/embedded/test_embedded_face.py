"""The embedded face encoder and the drawn photos that it learns from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from skimage.color import rgb2lab

from deployments.embedded.training.renderer.appearance import TRAITS, Choice, basis, code_of
from deployments.embedded.training.renderer.drawing import Look
from deployments.embedded.training.renderer.photo import (
    augmented_crops,
    avatar_view,
    face_frame,
    label_picture,
    labelled_views,
    render_photo,
)
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.relief import height, normals, shaded
from deployments.embedded.training.renderer.relight import BEARD, CLASSES, GLASSES, HAIR, LIT, SKIN, FaceFrame
from deployments.embedded.training.train.export import export_onnx
from deployments.embedded.training.train.face import (
    UNKNOWN,
    as_parts,
    embed,
    smudged,
    targets_of,
    train_face_encoder,
    triples_right,
)
from deployments.embedded.training.train.face_encoder import PARSED, FaceEncoder, believed, code, lab, part_colours
from deployments.face.alignment import encoder_input
from tests.support import tolerance


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def person(seed: int = 3) -> Portrait:
    plain = random_portrait(np.random.default_rng(seed))
    return replace(
        plain, gender="man", hair_style="parted", beard="none", glasses="none", hat="none", tilt=0.0, yaw=0.0
    )


def label_shares(sitting: Portrait) -> np.ndarray:
    labels = label_picture(sitting, 128, Look())
    return np.bincount(labels.ravel(), minlength=CLASSES) / labels.size


def certain_reading(portrait: Portrait) -> dict[str, torch.Tensor]:
    found = {}
    for (name, trait), told in zip(TRAITS.items(), targets_of(portrait), strict=True):
        if isinstance(trait, Choice):
            found[name] = 40 * torch.eye(trait.width)[[max(0, int(told))]]
        else:
            found[name] = torch.tensor([[max(float(told), 0.0)]])
    return found


def test_only_who_wears_glasses_or_a_beard_has_their_labels() -> None:
    bare = label_shares(person())
    dressed = label_shares(replace(person(), glasses="round", beard="full"))
    assert bare[SKIN] > 0.05
    assert bare[HAIR] > 0.03
    assert bare[GLASSES] == 0
    assert bare[BEARD] == 0
    assert dressed[GLASSES] > 0.005
    assert dressed[BEARD] > 0.01


def test_a_bald_head_has_no_hair_whatever_the_brows() -> None:
    assert label_shares(replace(person(), hair_style="bald", brows=1.0))[HAIR] < 0.004


def test_brows_eyes_and_mouth_belong_to_the_skin() -> None:
    sitting = replace(person(), hair_style="bald", expression="laughing", brows=1.0)
    u, v = face_frame(sitting, 128).fields(128)
    inside = label_picture(sitting, 128, Look())[(u / 0.7) ** 2 + ((v - 0.4) / 0.7) ** 2 < 1]
    assert (inside == SKIN).mean() > 0.98


def test_on_the_whole_light_and_shade_leave_the_lit_skin_its_brightness() -> None:
    ratios = []
    for seed in range(12):
        view = render_photo(person(seed), np.random.default_rng(seed))
        skin = np.asarray(view.picture)[view.labels == SKIN]
        ratios.append(np.quantile(skin, LIT, axis=0).sum() / sum(person(seed).skin))
    assert np.median(ratios) == pytest.approx(1.0, abs=0.08)


def test_the_side_of_a_face_that_is_away_from_the_lamp_is_darker_and_redder() -> None:
    u, v = FaceFrame(64, 64, 30, 0.0).fields(128)
    rng = np.random.default_rng(2)
    lit = shaded(normals(height(u, v, rng), 30), np.array([-1.0, 0.0, 1.0]) / np.sqrt(2), rng)
    towards, away = (lit[60, 64 + side * 20] for side in (-1, 1))
    assert away.mean() < towards.mean()
    assert away[0] / away[2] > towards[0] / towards[2]


def test_views_carry_their_labels_and_avatars_tell_none() -> None:
    (view,) = labelled_views(person(), np.random.default_rng(1), 1)
    avatar = avatar_view(person(), np.random.default_rng(1))
    parts = as_parts(np.stack([view, avatar]))
    assert parts.shape == (2, CLASSES, PARSED, PARSED)
    assert torch.allclose(parts[0].sum(0), torch.ones(PARSED, PARSED))
    assert float(parts[0, SKIN].sum()) > 20
    assert float(parts[1].sum()) == 0


def test_the_colour_of_a_part_is_that_of_its_pixels_alone() -> None:
    x = torch.zeros(1, 3, 112, 112)
    x[:, :, :56] = torch.tensor([0.5, -0.2, 0.1])[None, :, None, None]
    x[:, :, 56:] = -0.9
    parts = torch.zeros(1, CLASSES - 1, PARSED, PARSED)
    parts[:, 0, : PARSED // 2] = 1.0
    told = part_colours(x, parts)[0]
    assert told[0, :3].numpy() == pytest.approx([0.5, -0.2, 0.1], abs=0.01)
    assert told[0, 3:6].numpy() == pytest.approx([0.5, -0.2, 0.1], abs=0.01)
    assert told[1].abs().max() == 0, "what is not there has no colour and no share"


def test_gloss_and_what_a_mask_takes_along_do_not_change_the_colour_of_a_part() -> None:
    x = torch.zeros(1, 3, 112, 112) + torch.tensor([0.5, 0.1, -0.1])[None, :, None, None]
    x[:, :, :12] = -0.8  # a tenth is hair
    x[:, :, 100:] = 0.95  # as much is gloss
    parts = torch.zeros(1, CLASSES - 1, PARSED, PARSED)
    parts[:, SKIN - 1] = 1.0
    told = part_colours(x, parts)[0, SKIN - 1, 3:6]
    assert told.numpy() == pytest.approx([0.5, 0.1, -0.1], abs=0.02)


def test_a_beard_of_the_skins_colour_is_skin() -> None:
    skin, hair = torch.tensor([0.7, 0.4, 0.2]), torch.tensor([-0.6, -0.7, -0.8])
    x = skin[None, :, None, None].expand(2, 3, 112, 112).clone()
    x[:, :, :28] = hair[:, None, None]
    x[1, :, 84:] = hair[:, None, None]
    parts = torch.zeros(2, CLASSES - 1, PARSED, PARSED)
    parts[:, HAIR - 1, :7], parts[:, SKIN - 1, 7:21], parts[:, BEARD - 1, 21:] = 1.0, 1.0, 1.0
    smooth, bearded = believed(x, parts)
    assert smooth[BEARD - 1].max() < 0.02
    assert smooth[SKIN - 1, 21:].min() > 0.98
    assert bearded[BEARD - 1, 21:].min() > 0.98


def test_lab_is_that_of_skimage() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 3))
    expected = rgb2lab(colours[None] / 255.0)[0]
    assert lab(torch.from_numpy(colours / 127.5 - 1).float()).numpy() == pytest.approx(expected, abs=0.1)


def test_smudges_stay_on_the_skin() -> None:
    x, skin = torch.zeros(8, 3, 112, 112), torch.zeros(8, 112, 112, dtype=torch.bool)
    skin[:, 40:70, 40:70] = True
    changed = (smudged(x, skin, torch.Generator().manual_seed(1)) != 0).any(1)
    assert changed.any()
    assert not (changed & ~skin).any()


@pytest.mark.parametrize("changes", [{}, {"hair_style": "bald"}, {"glasses": "square"}, {"hat": "cap"}])
def test_an_encoder_sure_of_all_traits_writes_the_code_of_the_person(changes: dict[str, str]) -> None:
    portrait = replace(person(), **changes)  # type: ignore[arg-type]
    assert code(certain_reading(portrait))[0].numpy() == pytest.approx(code_of(portrait), abs=2e-3)


def test_a_face_and_its_mirror_image_have_one_embedding() -> None:
    crops = np.stack([view[..., :3] for view in labelled_views(person(), np.random.default_rng(4), 2)])
    torch.manual_seed(0)
    encoder = FaceEncoder().eval()
    within = tolerance.through(encoder)
    assert embed(encoder, crops[:, :, ::-1]) == pytest.approx(embed(encoder, crops), rel=0, abs=within)


def test_a_bald_head_has_no_target_for_the_colour_of_its_hair() -> None:
    names = list(TRAITS)
    targets = targets_of(replace(person(), hair_style="bald"))
    assert targets[names.index("hair L")] == UNKNOWN
    assert targets[names.index("skin L")] != UNKNOWN


def test_triples_are_all_right_where_faces_lie_apart_and_half_right_by_chance() -> None:
    rng = np.random.default_rng(0)
    apart = np.repeat(np.eye(6, 512, dtype=np.float32)[:, None], 3, axis=1)
    chance = rng.normal(size=(12, 5, 512)).astype(np.float32)
    assert triples_right(apart) == 1.0
    assert triples_right(chance) == pytest.approx(0.5, abs=0.06)


def test_views_of_a_true_photo_differ_but_show_the_same() -> None:
    photo = np.asarray(render_photo(person(), np.random.default_rng(2), 256).picture)
    first, second = augmented_crops(photo, (90.0, 60.0, 190.0, 160.0), np.random.default_rng(5), 2)
    assert first.shape == second.shape == (112, 112, 3)
    assert 1 < np.abs(first.astype(float) - second).mean() < 60


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based:DeprecationWarning")
def test_a_trained_encoder_is_the_same_in_onnx_and_stays_in_the_space_of_codes(tmp_path: Path) -> None:
    persons = [person(seed) for seed in range(4)]
    photos = np.stack([labelled_views(one, np.random.default_rng(9), 2) for one in persons])
    encoder = train_face_encoder(photos, persons, steps=2, seed=0, batch=4)
    crops = photos[:, 0, :, :, :3]
    expected = embed(encoder, crops)
    export_onnx(encoder, torch.zeros(1, 3, 112, 112), ("input", "embedding"), tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": encoder_input(crops)})
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4), abs=1e-3)
    assert found == pytest.approx(expected, abs=5e-3)
    assert np.linalg.norm(found @ basis().T, axis=1) == pytest.approx(np.ones(4), abs=1e-3)
