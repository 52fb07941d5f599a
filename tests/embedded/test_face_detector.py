"""How the face detector's training pictures are made, and what its networks learn from them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.embedded.training.data import faces, heads
from deployments.embedded.training.data.faces import BOX_PX, CANVAS, FaceSet, canvas_of, hidden_by, paste, placed_points
from deployments.embedded.training.data.heads import HEAD_SIDE, MIDDLE, Heads, cut_out
from deployments.embedded.training.data.scenes import HELD_BACK, PICTURES, drawn_scene, installed, scene
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.train.detector import (
    STRIDE,
    UNIT,
    Length,
    finder_loss,
    targets,
    train_finder,
    turned,
)
from deployments.embedded.training.train.verifier import mistakes, numbers_of, train_verifier
from deployments.face.detection import Candidate
from deployments.face.finder import LOOK_REACH, peaks, read_look
from deployments.face.upright import turn_of, wrapped

TURNS = st.floats(-3.1, 3.1)


@pytest.fixture(scope="module")
def some() -> Heads:
    drawn = [cut_out(random_portrait(np.random.default_rng(seed)), np.random.default_rng(seed)) for seed in range(2)]
    return Heads(np.stack([head for head, _ in drawn]), np.stack([points for _, points in drawn]))


def face_at(x: float, y: float, side: float, turn: float, some: Heads) -> np.ndarray:
    points = placed_points(some.points[0], (x, y), side, turn)[:5]
    return np.float32([x, y, side, turn_of(points), *points.ravel()])


def test_a_head_is_pasted_where_its_points_say(some: Heads) -> None:
    for turn in (0.0, 0.7, 2.0, -2.5):
        canvas = Image.new("RGB", (CANVAS, CANVAS))
        cover = np.asarray(paste(canvas, some.pictures[0], some.points[0], (128, 128), 60, turn))
        for x, y in placed_points(some.points[0], (128, 128), 60, turn)[:5]:
            assert cover[int(y), int(x)] > 200
        # The colour at the nose is that of the cut-out's nose.
        (x, y), (u, v) = placed_points(some.points[0], (128, 128), 60, turn)[2], some.points[0, 2]
        around = some.pictures[0][int(v) - 3 : int(v) + 4, int(u) - 3 : int(u) + 4, :3].mean((0, 1))
        shown = np.asarray(canvas)[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].mean((0, 1))
        assert np.abs(around - shown).max() < 30


def test_the_middle_of_a_face_lies_between_its_eyes_and_mouth(some: Heads) -> None:
    for points in some.points:
        eyes, mouth = points[:2].mean(0), points[3:5].mean(0)
        assert eyes[1] < points[MIDDLE, 1] < mouth[1]
        assert 0.25 < np.hypot(*(points[1] - points[0])) / BOX_PX < 0.5
        assert abs(turn_of(points[:5])) < math.radians(35)


def test_a_face_under_a_later_person_is_no_face_any_more(some: Heads) -> None:
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    there = np.stack([face_at(60, 60, 40, 0, some), face_at(200, 200, 40, 0, some), np.full(14, np.nan, np.float32)])
    cover = paste(canvas, some.pictures[1], some.points[1], (60, 60), 60, 0.0)
    assert hidden_by(cover, there).tolist() == [True, False, False]


def test_a_canvas_is_the_same_every_time_and_tells_of_its_faces(some: Heads) -> None:
    told = []
    for seed in range(6):
        picture, there = canvas_of(some, [], np.random.default_rng(seed))
        again, _ = canvas_of(some, [], np.random.default_rng(seed))
        assert np.array_equal(picture, again)
        assert picture.shape == (CANVAS, CANVAS, 3)
        told += [face for face in there if not np.isnan(face[0])]
    assert told
    for face in told:
        assert abs(wrapped(turn_of(face[4:].reshape(5, 2)) - face[3])) < 1e-4


def test_scenes_are_drawn_and_measurements_have_pictures_that_training_never_sees() -> None:
    assert not {(name, file) for name in PICTURES for file in PICTURES[name]} & {
        (name, file) for name in HELD_BACK for file in HELD_BACK[name]
    }
    assert len(installed(HELD_BACK)) >= 8
    for seed in range(8):
        rng = np.random.default_rng(seed)
        assert scene(96, rng, []).shape == drawn_scene(96, rng).shape == (96, 96, 3)


@given(st.integers(0, 3), st.booleans(), TURNS)
def test_faces_follow_the_turns_of_their_picture(quarters: int, mirror: bool, turn: float) -> None:
    points = np.float32([[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]])
    cos, sin = math.cos(turn), math.sin(turn)
    points = (points - 60) @ np.float32([[cos, sin], [-sin, cos]]) + (100, 90)
    face = torch.from_numpy(np.float32([100, 90, 50, turn_of(points), *points.ravel()])).reshape(1, 1, 14)
    spots = np.zeros((256, 256), bool)
    spots[int(points[0, 1]), int(points[0, 0])] = True  # the left eye
    spots = np.rot90(spots, quarters)
    spots = spots[:, ::-1] if mirror else spots
    moved = turned(face, 256, quarters, mirror)[0, 0].numpy()
    ((y, x),) = np.argwhere(spots)
    eye = moved[4:].reshape(5, 2)[1 if mirror else 0]
    assert abs(eye - (x + 0.5, y + 0.5)).max() <= 0.51
    assert abs(wrapped(turn_of(moved[4:].reshape(5, 2)) - float(moved[3]))) < 1e-3


@given(st.floats(60, 200), st.floats(60, 200), st.floats(20, 150), TURNS)
def test_maps_that_are_as_the_targets_say_are_read_as_the_face(x: float, y: float, side: float, turn: float) -> None:
    face = np.float32([x, y, side, turn, *(np.arange(10) + 50)])
    told = torch.from_numpy(face).reshape(1, 1, 14)
    heat, maps, weight = targets(told, CANVAS // STRIDE)
    assert heat.max() == 1
    assert weight.sum() >= 1
    (found, *_) = peaks(torch.cat([heat[:, None], maps], 1)[0].numpy(), 0.99)
    assert (found.x, found.y) == pytest.approx((x, y), abs=0.1)
    assert found.side == pytest.approx(side, rel=1e-3)
    assert abs(wrapped(found.turn - turn)) < 1e-3
    assert math.log(UNIT) < 4


def test_the_loss_is_least_where_the_maps_are_right() -> None:
    told = torch.full((2, 4, 14), float("nan"))
    told[0, 0] = torch.tensor([100, 90, 60, 0.3, *range(80, 90)])
    heat, maps, _ = targets(told, CANVAS // STRIDE)
    right = torch.cat([torch.logit(heat.clamp(1e-4, 1 - 1e-4))[:, None], maps], 1)
    found, place = finder_loss(right, told)
    assert place == 0
    wrong_found, wrong_place = finder_loss(right.roll(4, 3), told)
    assert wrong_found > 5 * found
    assert wrong_place > 0.1


@given(TURNS, TURNS, st.floats(0.7, 1.4), st.floats(-0.2, 0.2))
def test_a_second_look_reads_what_it_was_taught(turn: float, off: float, grown: float, shift: float) -> None:
    points = np.float32([[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]]) + 40
    face = np.float32([100, 110, 60, wrapped(turn + off), *points.ravel()])
    square = Candidate(100 + shift * 60, 110 - shift * 60, 60 * grown, turn, 0.5)
    look = read_look(np.concatenate([[2.0], numbers_of(face, square)]).astype(np.float32), square)
    assert (look.face.x, look.face.y, look.face.side) == pytest.approx((100, 110, 60), abs=1e-2)
    assert abs(wrapped(look.face.turn - turn - off)) < 1e-4
    assert look.landmarks == pytest.approx(points, abs=1e-2)
    assert look.logit == 2.0
    assert LOOK_REACH > 1.0


def test_networks_learn_from_a_folder_of_drawn_pictures_and_go_on_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CHUNK", 1)
    monkeypatch.setattr(faces, "CHUNK", 4)
    heads.draw_heads(tmp_path, 1, 0)
    faces.draw_canvases(tmp_path, None, 1, 0)
    data = FaceSet.load(tmp_path)
    assert len(data) == 4
    checkpoint = tmp_path / "finder.pt"
    finder = train_finder(tmp_path, Length(1), 0, checkpoint, batch=2)
    assert torch.load(checkpoint)["step"] == 1
    train_finder(tmp_path, Length(2), 0, checkpoint, batch=2)
    assert torch.load(checkpoint)["step"] == 2
    wrong = mistakes(finder, data, 2, np.random.default_rng(0))
    assert wrong.shape[1] == 5
    verifier = train_verifier(finder, tmp_path, Length(1), 0, tmp_path / "verifier.pt", batch=4)
    with torch.no_grad():
        assert verifier(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    assert HEAD_SIDE > BOX_PX
