"""The training sets in styles: the persons of `avatars` and `large`, drawn again by the shaders."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.embedded.training.data.dataset import CHUNK, Folder, large_sitting, sittings_of
from deployments.embedded.training.renderer.figure import render_labelled
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.styles import STYLES, Style, restyled
from deployments.embedded.training.renderer.shaders.surface import Surface

SMALL = (64, 64)  # what the latents hold


@dataclass(frozen=True)
class Styled:
    """What a set has of a person: a picture of each portrait in each style."""

    portraits: tuple[Portrait, ...]
    styles: tuple[Style, ...]


def surface_of(portrait: Portrait) -> Surface:
    """Of a cartoon of the decoder's size."""
    return Surface.of(*render_labelled(portrait))


def draw_styled_avatars(job: tuple[int, int]) -> tuple[list[Styled], NDArray[np.uint8]]:
    """As `draw_avatars`, in all styles: (n, AVATARS, styles, 64, 64, 3)."""
    seed, start = job
    persons = [Styled(tuple(sittings_of(seed, index)), STYLES) for index in range(start, start + CHUNK)]
    return persons, np.stack([np.stack([in_styles(each) for each in person.portraits]) for person in persons])


def in_styles(portrait: Portrait) -> NDArray[np.uint8]:
    """(styles, 64, 64, 3): drawn at the decoder's size, of which the latents hold means of 4 x 4 pixels."""
    surface = surface_of(portrait)
    pictures = [restyled(style, surface, portrait)[0] for style in STYLES]
    return np.stack([np.asarray(each.resize(SMALL, Image.Resampling.BOX), dtype=np.uint8) for each in pictures])


def draw_styled_large(job: tuple[int, int]) -> tuple[list[Styled], NDArray[np.uint8]]:
    """As `draw_large`, each person in one style, by turns: (n, 256, 256, 4); the alpha is the style's own."""
    seed, start = job
    persons, pictures = [], []
    for index in range(start, start + CHUNK):
        portrait, style = large_sitting(seed, index), STYLES[index // 2 % len(STYLES)]  # of two, one is on black
        picture, alpha = restyled(style, surface_of(portrait), portrait)
        picture.putalpha(alpha)
        persons.append(Styled((portrait,), (style,)))
        pictures.append(np.asarray(picture, dtype=np.uint8))
    return persons, np.stack(pictures)


def of_style(folder: Folder, style: Style) -> tuple[NDArray[np.uint8], list[list[Portrait]]]:
    """Pictures (persons, AVATARS, 64, 64, 3) of the set `styled-avatars`, and their portraits.

    Raises: FileNotFoundError where there is no such set; ValueError where it was drawn without this style.
    """
    persons: list[Styled] = folder.portraits("styled-avatars")
    place = persons[0].styles.index(style)
    return folder.array("styled-avatars")[:, :, place], [list(person.portraits) for person in persons]


def all_pictures(folder: Folder, name: str, with_styles: bool) -> tuple[NDArray[np.uint8], list[Portrait]]:
    """Of the set `large` or `avatars`, (n, side, side, 3 or 4), and whom each shows; with those in styles, in memory.

    Raises: FileNotFoundError where a set is not drawn.
    """
    plain, shown = folder.array(name), portraits_of(folder.portraits(name))
    flat = plain.reshape(-1, *plain.shape[-3:])
    if not with_styles:
        return flat, shown
    styled = folder.array(f"styled-{name}")
    persons = folder.portraits(f"styled-{name}")
    return np.concatenate([flat, styled.reshape(-1, *styled.shape[-3:])]), shown + portraits_of(persons)


def portraits_of(persons: list[Any]) -> list[Portrait]:
    """Of each picture: those of a person are one or a list, or all of a list in one style after the other."""
    shown: list[Portrait] = []
    for person in persons:
        if isinstance(person, Styled):
            shown += [portrait for portrait in person.portraits for _ in person.styles]
        else:
            shown += person if isinstance(person, list) else [person]
    return shown
