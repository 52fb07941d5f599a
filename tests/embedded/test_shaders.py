"""Styles: the same persons drawn again, so that anybody tells one style from another, and who it is."""

import pickle
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from deployments.embedded.training.data import dataset, styled
from deployments.embedded.training.data.styled import in_styles, surface_of
from deployments.embedded.training.evaluate.figures import DARK_BLACK, PALE_BLOND
from deployments.embedded.training.renderer.figure import render_labelled
from deployments.embedded.training.renderer.parts import FRAME, HAIR, HAT, SKIN
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.pixel_art import ACROSS
from deployments.embedded.training.renderer.shaders.styles import STYLES, Style, restyled
from deployments.embedded.training.renderer.shaders.surface import Surface

PERSONS: tuple[Portrait, ...] = (
    replace(PALE_BLOND, background_name="black", glasses="round"),
    replace(DARK_BLACK, background_name="orange", gender="man", beard="full", hat="cap", hat_name="red"),
    replace(PALE_BLOND, scene="beach"),
)
COLOURED: tuple[Style, ...] = ("flat", "comic", "pixel-art", "clay")
Pixels = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Redrawn:
    """A person, what the shaders see of it, and by style what they make of it: pixels, and alpha in 0..1."""

    person: Portrait
    surface: Surface
    styles: dict[Style, tuple[Pixels, Pixels]]


def redrawn(person: Portrait) -> Redrawn:
    surface = surface_of(person)
    return Redrawn(person, surface, {style: drawn(style, surface, person) for style in STYLES})


def drawn(style: Style, surface: Surface, person: Portrait) -> tuple[Pixels, Pixels]:
    picture, alpha = restyled(style, surface, person)
    return np.asarray(picture, dtype=np.float64), np.asarray(alpha, dtype=np.float64) / 255


@pytest.fixture(scope="module")
def persons() -> list[Redrawn]:
    return [redrawn(person) for person in PERSONS]


def small(picture: Pixels) -> Pixels:
    """As the latents hold it."""
    return np.asarray(picture.reshape(64, 4, 64, 4, -1).mean((1, 3)))


def test_at_64_pixels_styles_differ_from_each_other_and_from_the_plain_picture(persons: list[Redrawn]) -> None:
    for each in persons:
        of_person = small(each.surface.alpha)[..., 0] > 0.5
        looks: list[Pixels] = [each.surface.colours * 255, *(picture for picture, _ in each.styles.values())]
        for one, other in combinations([small(look) for look in looks], 2):
            assert np.abs(one - other)[of_person].mean() > 8


def test_the_training_set_has_what_the_latents_hold_of_the_same_pictures(persons: list[Redrawn]) -> None:
    expected = [small(picture) for picture, _ in persons[1].styles.values()]
    assert np.abs(in_styles(persons[1].person) - np.stack(expected)).max() <= 1  # rounded twice


@pytest.mark.parametrize("style", STYLES)
def test_the_alpha_is_the_persons_but_for_edges_and_coarse_pixels(style: Style, persons: list[Redrawn]) -> None:
    for each in persons:
        _, alpha = each.styles[style]
        assert alpha.shape == (256, 256)
        assert np.abs(alpha - each.surface.alpha).mean() < 0.06
        assert alpha[each.surface.alpha > 0.99].mean() > 0.97


@pytest.mark.parametrize("style", STYLES)
def test_the_background_of_the_default_prompt_is_black_and_bare_paper_in_pencil(
    style: Style, persons: list[Redrawn]
) -> None:
    picture, alpha = persons[0].styles[style]
    behind = picture[ndimage.binary_erosion(alpha == 0, iterations=4)]  # away from outlines
    assert len(behind) > 20_000
    assert behind.min() > 215 if style == "sketch" else behind.max() < 8


@pytest.mark.parametrize("style", COLOURED)
def test_skin_hair_hat_and_frames_keep_their_colours(style: Style, persons: list[Redrawn]) -> None:
    for each in persons[:2]:
        for part in (SKIN, HAIR, HAT, FRAME):
            inside = each.surface.part(part)
            if inside.sum() > 300:
                plain = np.median(each.surface.colours[inside] * 255, 0)
                assert np.abs(np.median(each.styles[style][0][inside], 0) - plain).max() < 52


def test_pencil_has_hardly_any_colour(persons: list[Redrawn]) -> None:
    for each in persons:
        picture, alpha = each.styles["sketch"]
        ranges = [np.ptp(pixels[alpha > 0.5], axis=1).mean() for pixels in (picture, each.surface.colours * 255)]
        assert ranges[0] < 0.35 * ranges[1]


def test_flat_art_has_few_tones_and_pixel_art_coarse_pixels(persons: list[Redrawn]) -> None:
    side = 256 // ACROSS
    for each in persons:
        coarse, alpha = each.styles["pixel-art"]
        for pixels in (coarse, alpha):
            cells = pixels.reshape(ACROSS, side, ACROSS, side, -1)
            assert (cells == cells[:, :1, :, :1]).all()
        assert len(np.unique(coarse.reshape(-1, 3), axis=0)) < 48
        assert (np.abs(np.diff(each.styles["flat"][0], axis=1)).sum(2) == 0).mean() > 0.75


@pytest.mark.parametrize("size", [64, 128])
def test_styles_are_drawn_at_other_sizes_too(size: int) -> None:
    person = PERSONS[1]
    surface = Surface.of(*render_labelled(person, size))
    for style in STYLES:
        picture, alpha = drawn(style, surface, person)
        assert picture.shape == (size, size, 3)
        assert 0.2 < alpha.mean() < 0.8


def test_sets_in_styles_show_the_persons_of_the_plain_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (dataset, styled):
        monkeypatch.setattr(module, "CHUNK", 2)
    folder = dataset.Folder(tmp_path)
    draws = {"avatars": dataset.draw_avatars, "styled-avatars": styled.draw_styled_avatars,
             "large": dataset.draw_large, "styled-large": styled.draw_styled_large}  # fmt: skip
    for name, draw in draws.items():
        portraits, pictures = draw((1, 0))
        np.save(tmp_path / f"{name}.npy", pictures)
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(portraits))
    pictures, portraits = styled.of_style(folder, "clay")
    assert pictures.shape == folder.array("avatars").shape == (2, dataset.AVATARS, 64, 64, 3)
    assert portraits == folder.portraits("avatars")
    assert (pictures[1, 1] == in_styles(portraits[1][1])[STYLES.index("clay")]).all()
    for name, count in (("avatars", 4 * (1 + len(STYLES))), ("large", 4)):
        shown, whom = styled.all_pictures(folder, name, with_styles=True)
        assert len(shown) == len(whom) == count
        plain, _ = styled.all_pictures(folder, name, with_styles=False)
        assert (shown[: len(plain)] == plain).all()
    assert whom[:2] == whom[2:]  # of the large ones
