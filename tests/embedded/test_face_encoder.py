"""The face encoder: its parts and colours, the code that it writes, and its training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from skimage.color import rgb2lab

from deployments.embedded.training.renderer.appearance import TRAITS, Choice, basis, code_of
from deployments.embedded.training.renderer.flat.view import flat_view
from deployments.embedded.training.renderer.parts import BEARD, HAIR, PARTS, SKIN, UNTOLD
from deployments.embedded.training.renderer.photo import avatar_view, labelled_views
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.augment import jittered, mirrored, smudged, surrounded
from deployments.embedded.training.train.certainty import Reading, code, embedded
from deployments.embedded.training.train.checkpoint import Length
from deployments.embedded.training.train.colours import believed, lab, part_colours
from deployments.embedded.training.train.export import export_onnx
from deployments.embedded.training.train.face import (
    UNKNOWN,
    as_parts,
    embed,
    targets_of,
    train_face_encoder,
    triples_right,
    view_targets,
)
from deployments.embedded.training.train.face_encoder import FaceEncoder, roughness
from deployments.embedded.training.train.parsers import CELLS, SIDE
from deployments.face.alignment import encoder_input
from tests.support import tolerance


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def person(seed: int = 3) -> Portrait:
    plain = random_portrait(np.random.default_rng(seed))
    return replace(
        plain, gender="man", age=0.5, hair_style="parted", beard="none", glasses="none", hat="none", tilt=0.0, yaw=0.0
    )


def certain_reading(portrait: Portrait) -> Reading:
    found = {}
    for (name, trait), told in zip(TRAITS.items(), targets_of(portrait), strict=True):
        if isinstance(trait, Choice):
            found[name] = 40 * torch.eye(trait.width)[[max(0, int(told))]]
        else:
            found[name] = torch.tensor([[max(float(told), 0.0), -9.0]])
    return found


def part_of(told: Reading, name: str) -> torch.Tensor:
    widths = [trait.width for trait in TRAITS.values()]
    return dict(zip(TRAITS, torch.split_with_sizes(code(told)[0], widths), strict=True))[name]


def test_parts_are_shares_of_cells_and_what_is_untold_has_none() -> None:
    labels = torch.full((2, SIDE, SIDE), SKIN, dtype=torch.uint8)
    labels[0, : SIDE // 2] = HAIR
    labels[1] = UNTOLD
    parts = as_parts(labels, CELLS, CELLS)
    assert parts.shape == (2, PARTS, CELLS, CELLS)
    assert parts[0, HAIR, : CELLS // 2].min() == 1
    assert parts[0, SKIN, CELLS // 2 :].min() == 1
    assert float(parts[1].sum()) == 0


def test_the_colour_of_a_part_is_that_of_its_pixels_alone() -> None:
    x = torch.zeros(1, 3, SIDE, SIDE)
    x[:, :, : SIDE // 2] = torch.tensor([0.5, -0.2, 0.1])[None, :, None, None]
    x[:, :, SIDE // 2 :] = -0.9
    parts = torch.zeros(1, PARTS - 1, CELLS, CELLS)
    parts[:, 0, : CELLS // 2] = 1.0
    told = part_colours(x, parts)[0]
    assert told[0, :3].numpy() == pytest.approx([0.5, -0.2, 0.1], abs=0.01)
    assert told[0, 3:6].numpy() == pytest.approx([0.5, -0.2, 0.1], abs=0.01)
    assert told[1].abs().max() == 0, "what is not there has no colour and no share"


def test_gloss_and_what_a_mask_takes_along_do_not_change_the_colour_of_a_part() -> None:
    x = torch.zeros(1, 3, SIDE, SIDE) + torch.tensor([0.5, 0.1, -0.1])[None, :, None, None]
    x[:, :, : SIDE // 8] = -0.8  # an eighth is hair
    x[:, :, SIDE - SIDE // 8 :] = 0.95  # as much is gloss
    parts = torch.zeros(1, PARTS - 1, CELLS, CELLS)
    parts[:, SKIN - 1] = 1.0
    told = part_colours(x, parts)[0, SKIN - 1, 3:6]
    assert told.numpy() == pytest.approx([0.5, 0.1, -0.1], abs=0.02)


def test_a_beard_of_the_skins_colour_is_skin() -> None:
    skin, hair, quarter = torch.tensor([0.7, 0.4, 0.2]), torch.tensor([-0.6, -0.7, -0.8]), SIDE // 4
    x = skin[None, :, None, None].expand(2, 3, SIDE, SIDE).clone()
    x[:, :, :quarter] = hair[:, None, None]
    x[1, :, 3 * quarter :] = hair[:, None, None]
    parts, rows = torch.zeros(2, PARTS - 1, CELLS, CELLS), CELLS // 4
    parts[:, HAIR - 1, :rows], parts[:, SKIN - 1, rows : 3 * rows], parts[:, BEARD - 1, 3 * rows :] = 1.0, 1.0, 1.0
    smooth, bearded = believed(x, parts)
    assert smooth[BEARD - 1].max() < 0.02
    assert smooth[SKIN - 1, 3 * rows :].min() > 0.98
    assert bearded[BEARD - 1, 3 * rows :].min() > 0.98


def test_lab_is_that_of_skimage() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 3))
    expected = rgb2lab(colours[None] / 255.0)[0]
    assert lab(torch.from_numpy(colours / 127.5 - 1).float()).numpy() == pytest.approx(expected, abs=0.1)


def test_lines_across_the_skin_are_rough_and_lines_beside_it_are_not() -> None:
    x, skin = torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, CELLS, CELLS)
    x[:, :, ::12] = -0.5
    skin[:, :, : CELLS // 2] = 1.0
    fine, across, down = roughness(x, skin).reshape(3, 8, 8)
    assert across[:, :4].min() > 5 * down[:, :4].max()
    assert fine[:, 4:].max() == 0


def test_smudges_stay_on_the_skin() -> None:
    x, skin = torch.zeros(8, 3, SIDE, SIDE), torch.zeros(8, SIDE, SIDE, dtype=torch.bool)
    skin[:, 70:120, 70:120] = True
    changed = (smudged(x, skin, torch.Generator().manual_seed(1)) != 0).any(1)
    assert changed.any()
    assert not (changed & ~skin).any()


def test_a_wall_in_the_colour_of_the_hair_covers_what_lies_behind_alone() -> None:
    brown = torch.tensor([-0.3, -0.5, -0.6])
    labels = torch.zeros(24, SIDE, SIDE, dtype=torch.uint8)
    labels[:, 40:80, 60:140], labels[:, 80:150, 60:140] = HAIR, SKIN
    x = torch.full((24, 3, SIDE, SIDE), 0.9)
    x = torch.where((labels == HAIR)[:, None], brown[:, None, None], x)
    other = surrounded(x, labels, torch.Generator().manual_seed(2))
    changed = (other != x).any(1)
    assert 2 <= int(changed.any((1, 2)).sum()) <= 14
    assert not changed[:, 42:148, 62:138].any()  # the edge to what lies behind is soft
    nearest = (other[changed.any((1, 2)), :, :20] - brown[:, None, None]).abs().mean((1, 2, 3)).min()
    assert nearest < 0.2


def test_nothing_is_put_behind_nobody() -> None:
    x, labels = torch.rand(8, 3, SIDE, SIDE), torch.zeros(8, SIDE, SIDE, dtype=torch.uint8)
    assert torch.equal(surrounded(x, labels, torch.Generator().manual_seed(0)), x)


def test_a_mirrored_picture_keeps_its_labels_where_they_belong() -> None:
    labels = (torch.arange(SIDE) < 50).to(torch.uint8).expand(16, SIDE, SIDE)
    x, told = mirrored(labels[:, None].expand(-1, 3, -1, -1).float(), labels, torch.Generator().manual_seed(0))
    assert torch.equal(x[:, 0], told.float())
    assert 0 < int((told[:, 0, 0] == 0).sum()) < 16


def test_a_jittered_picture_stays_one() -> None:
    x = 2 * torch.rand(4, 3, SIDE, SIDE) - 1
    other = jittered(x, torch.Generator().manual_seed(0))
    assert other.abs().max() <= 1
    assert (other - x).abs().mean() > 0.01


@pytest.mark.parametrize(
    "changes", [{}, {"hair_style": "bald"}, {"glasses": "sun"}, {"hat": "headscarf"}, {"beard": "full"}]
)
def test_an_encoder_sure_of_all_traits_writes_the_code_of_the_person(changes: dict[str, str]) -> None:
    portrait = replace(person(), **changes)  # type: ignore[arg-type]
    assert code(certain_reading(portrait))[0].numpy() == pytest.approx(code_of(portrait), abs=2e-3)


def test_the_less_sure_a_scale_the_shorter_its_part_of_the_code() -> None:
    told = certain_reading(person())
    lengths = []
    for deviation in (-9.0, -2.0, -1.0):
        told["jaw"] = torch.tensor([[0.3, deviation]])
        lengths.append(float(part_of(told, "jaw").norm()))
    assert lengths[0] == pytest.approx(TRAITS["jaw"].weight, abs=1e-4)
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_a_faint_beard_is_one_on_a_man_and_none_on_a_woman_or_a_child() -> None:
    kinds = TRAITS["beard"].options  # type: ignore[union-attr]
    faint = torch.tensor([[1.5 * (kind == "full") for kind in kinds]])
    women = replace(person(), gender="woman", beard="none")
    for portrait, expected in ((person(), "full"), (women, "none"), (replace(person(), age=0.0), "none")):
        told = certain_reading(portrait) | {"beard": faint}
        assert kinds[int(part_of(told, "beard").argmax())] == expected
    strong = certain_reading(women) | {"beard": 10 * faint}
    assert kinds[int(part_of(strong, "beard").argmax())] == "full"


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


def test_a_flat_drawing_is_read_as_the_nearest_that_it_can_show_and_an_avatar_as_the_person() -> None:
    place, styles = list(TRAITS).index("hair style"), TRAITS["hair style"].options  # type: ignore[union-attr]
    photo, flat, avatar = view_targets([replace(person(), hair_style="locs")], 3)[0]
    assert [styles[int(view[place])] for view in (photo, flat, avatar)] == ["locs", "braids", "locs"]


def test_triples_are_all_right_where_faces_lie_apart_and_half_right_by_chance() -> None:
    rng = np.random.default_rng(0)
    apart = np.repeat(np.eye(6, 512, dtype=np.float32)[:, None], 3, axis=1)
    chance = rng.normal(size=(12, 5, 512)).astype(np.float32)
    assert triples_right(apart) == 1.0
    assert triples_right(chance) == pytest.approx(0.5, abs=0.06)


def test_embeddings_of_one_reading_are_the_same_and_have_length_one() -> None:
    told = certain_reading(person())
    both = embedded({name: value.repeat(2, 1) for name, value in told.items()}, torch.from_numpy(basis()))
    assert torch.equal(both[0], both[1])
    assert float(both[0].norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based:DeprecationWarning")
def test_a_training_goes_on_and_its_encoder_is_the_same_in_onnx(tmp_path: Path) -> None:
    persons, rng = [person(seed) for seed in range(3)], np.random.default_rng(9)
    photos = np.stack(
        [np.stack([*labelled_views(one, rng, 1), flat_view(one, rng), avatar_view(one, rng)]) for one in persons]
    )
    checkpoint = tmp_path / "face.pt"
    train_face_encoder(photos, persons, Length(1), seed=0, checkpoint=checkpoint, batch=3)
    before = torch.load(checkpoint, weights_only=True)
    encoder = train_face_encoder(photos, persons, Length(2), seed=0, checkpoint=checkpoint, batch=3)
    after = torch.load(checkpoint, weights_only=True)
    assert (before["step"], after["step"]) == (1, 2)
    crops = photos[:, 0, :, :, :3]
    export_onnx(encoder, torch.zeros(1, 3, SIDE, SIDE), ("input", "embedding"), tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": encoder_input(crops)})
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-3)
    assert found == pytest.approx(embed(encoder, crops), abs=5e-3)
    assert np.linalg.norm(found @ basis().T, axis=1) == pytest.approx(np.ones(3), abs=1e-3)
