"""Avatars of held-out rendered persons, whose skin, hair, beard and glasses are known exactly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.embedded.training.data.captions import default_caption
from deployments.embedded.training.data.dataset import person_avatar
from deployments.embedded.training.evaluate.figures import HELD_OUT, held_out
from deployments.embedded.training.evaluate.inference import Studio
from deployments.embedded.training.evaluate.judge import GROUPS, Judge, Readings, shows_age, shows_beard, shows_hair
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.photo import jittered_box, plain_photo, stored
from deployments.embedded.training.renderer.portrait import NAMED_COLOURS, Gender, Portrait, another_sitting, as_gender
from deployments.embedded.training.train.likeness import Band, band_of
from deployments.face.alignment import crop_face
from deployments.face.model import FaceModel
from deployments.types import FaceEmbedding, Photo
from loadtest.bench.avatars.scores import (
    Array,
    Mask,
    Picture,
    Score,
    auc,
    differences,
    lab_of,
    majority_share,
    rank_of_own,
    share,
)

FIRST_PERSON, FIRST_STRANGER = HELD_OUT + 2000, HELD_OUT + 12_000
BATCH = 4  # images of every fourth reference; the others get a pair
SEEDS_APART = 3.0  # bytes: mean difference of two seeds' pictures
CORNER = 16  # pixels
TRAITS = (("glasses", "glasses", 0.95), ("beard", "beard", 0.95), ("gender", "gender word", 0.95),
          ("age_name", "child, grown or old", None))  # fmt: skip
PHOTO_SIDE = 256
COLD = ("blue", "green", "teal", "purple", "light blue")  # far from any skin, hair or white shirt


@dataclass(frozen=True, slots=True)
class Case:
    """A reference, the person with the gender of the prompt, and the avatars."""

    wanted: Portrait
    photographed: Portrait
    crop: Picture
    embedding: NDArray[np.float32]
    likeness: NDArray[np.float32]  # of the crop
    on_black: list[Picture]  # by the default prompt, seeds of one batch
    colour: str
    on_colour: Picture

    @property
    def avatars(self) -> list[Picture]:
        """Those of the default prompt first, then the one on colour."""
        return [*self.on_black, self.on_colour]


def wanted_portrait(person: Portrait, number: int) -> Portrait:
    """Every fifth prompt names a gender other than the face's."""
    genders: tuple[Gender, Gender] = ("man", "woman")
    word = genders[genders.index(person.gender) - 1] if number % 5 == 4 else person.gender
    return as_gender(person, word, np.random.default_rng(number))


def asked_colour(number: int) -> str:
    """All colours of prompts in turn; every second one is far from any colour of the figure."""
    names = list(NAMED_COLOURS)
    return COLD[number // 2 % len(COLD)] if number % 2 else names[number // 2 % len(names)]


def coloured_prompt(word: str, colour: str) -> str:
    """With a white shirt, or a black one where the background is white too."""
    shirt = "black" if colour == "white" else "white"
    return f"portrait of a {word}, {colour} background, {shirt} t-shirt"


def reference_crop(person: Portrait, rng: np.random.Generator) -> Picture:
    """(CROP_SIZE, CROP_SIZE, 3): the encoder's crop of a plain photo of the person on another day, in front of a wall.

    Without the augmentations of the training (odd light, occlusions), which would hide the traits.
    """
    shot = plain_photo(another_sitting(person, rng), rng, PHOTO_SIDE)
    wall = Image.fromarray(rng.integers(40, 220, (2, 2, 3), dtype=np.uint8)).resize((PHOTO_SIDE, PHOTO_SIDE))
    share = shot.cover[..., None]
    photo = stored(shot.light) * share + np.asarray(wall) * (1 - share)
    box = jittered_box(shot.box, rng, side_share=0.06, shift=0.04)
    return crop_face(photo.astype(np.uint8), box)


def draw_cases(studio: Studio, count: int) -> Iterator[Case]:
    """The same cases each time. Every fourth has `BATCH` avatars on black, the others two."""
    for number, person in enumerate(held_out(count, FIRST_PERSON)):
        wanted, colour = wanted_portrait(person, number), asked_colour(number)
        crop = reference_crop(person, np.random.default_rng(FIRST_PERSON + number))
        embedding = studio.embed(crop[None])[0]
        seeds = [1000 * number + i for i in range(BATCH if number % 4 == 0 else 2)]
        on_black = studio.draw(embedding, default_caption(wanted.gender), seeds)
        (on_colour,) = studio.draw(embedding, coloured_prompt(wanted.gender, colour), [1000 * number + 900])
        yield Case(wanted, person, crop, embedding, studio.liken(crop[None])[0], on_black, colour, on_colour)


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody whose photo the avatars are held against: nobody draws them."""

    band: Band
    likeness: NDArray[np.float32]


def strangers(studio: Studio, count: int) -> Iterator[Stranger]:
    """The same ones each time."""
    for number, person in enumerate(held_out(count, FIRST_STRANGER)):
        crop = reference_crop(person, np.random.default_rng(FIRST_STRANGER + number))
        yield Stranger(band_of(person), studio.liken(crop[None])[0])


def plainly(person: Portrait) -> Portrait:
    """The pose and background of the default prompt."""
    return replace(
        person, expression="smiling", background_name="black", yaw=0.0, tilt=0.0, shift=(0.0, 0.0), scale=1.0
    )


def right(seen: Readings, people: Sequence[Portrait], head: str) -> dict[str, Mask]:
    """For every group of values, whether its members were recognised; without beards and ages that nobody could see."""
    shown = {"beard": shows_beard, "age_name": shows_age}.get(head, lambda person: True)
    counted = np.array([shown(person) for person in people])
    wanted = np.array([GROUPS[head](getattr(person, head)) for person in people])
    agree = np.array(seen.groups(head)) == wanted
    return {str(group): agree[(wanted == group) & counted] for group in np.unique(wanted)}


def apart(seen: Readings, people: Sequence[Portrait]) -> tuple[Array, Array]:
    """CIEDE2000 of skin, and of hair where it is visible."""
    skin = differences(seen.skin, lab_of([person.skin for person in people]))
    hair = differences(seen.hair, lab_of([person.hair for person in people]))
    return skin, hair[[shows_hair(person) for person in people]]


class Drawn:
    """The scores of all cases. Arrays run over all avatars, case by case."""

    def __init__(self, cases: Sequence[Case], judge: Judge) -> None:
        self._cases = cases
        self._owner = np.repeat(np.arange(len(cases)), [len(case.avatars) for case in cases])
        self._wanted = [cases[int(owner)].wanted for owner in self._owner]
        self._seen = judge.read([picture for case in cases for picture in case.avatars])
        self._references = judge.read([np.asarray(render(plainly(case.wanted))[0]) for case in cases])

    def scores(self) -> Iterator[Score]:
        """Traits first, then backgrounds, identity, agreement within a batch, and how far two seeds are apart."""
        skin, hair = apart(self._seen, self._wanted)
        yield Score("skin within dE 8", share(skin < 8), 0.95, note=f"median {np.median(skin):.1f}")
        yield Score("hair within dE 12", share(hair < 12), 0.9, note=f"median {np.median(hair):.1f}")
        for head, name, bar in TRAITS:
            agree = right(self._seen, self._wanted, head)
            note = ", ".join(f"{group} {share(members):.0%}" for group, members in agree.items())
            yield Score(f"{name} right", share(np.concatenate([*agree.values()])), bar, note=note)
        yield from background_scores(self._cases)
        yield self._identity()
        yield from self._agreement()
        yield seeds_score(self._cases)

    def _identity(self) -> Score:
        """Whether the avatar's own reference is found among three others of the prompted gender."""
        rng, traits, seen = np.random.default_rng(0), self._references.traits(), self._seen.traits()
        genders = np.array([case.wanted.gender for case in self._cases])
        first = []
        for picture, owner in enumerate(self._owner):
            others = np.flatnonzero((genders == genders[owner]) & (np.arange(len(genders)) != owner))
            chosen = rng.choice(others, min(3, len(others)), replace=False)
            first.append(rank_of_own(traits[owner], traits[chosen], seen[picture]) == 0)
        return Score("own reference found among 4", share(first), 0.8)

    def _agreement(self) -> Iterator[Score]:
        batches = [number for number, case in enumerate(self._cases) if len(case.on_black) == BATCH]
        for head, name in (("glasses",) * 2, ("beard",) * 2, ("hair_style", "hair length"), ("gender",) * 2):
            groups = np.array(self._seen.groups(head))
            shares = [majority_share(list(groups[self._owner == number][:BATCH])) for number in batches]
            yield Score(f"a batch agrees: {name}", float(np.mean(shares)), 0.95)


def background_scores(cases: Sequence[Case]) -> Iterator[Score]:
    """Shares of avatars whose upper corners have the colour that was asked for, within CIEDE2000 6."""
    named = lab_of([NAMED_COLOURS[case.colour] for case in cases])
    off = differences(np.stack([corners(case.on_colour) for case in cases]), named)
    missed = sorted({case.colour for case, far in zip(cases, off, strict=True) if far >= 6})
    note = f"median {np.median(off):.1f}" + (f"; missed: {', '.join(missed)}" if missed else "")
    yield Score("named background within dE 6", share(off < 6), 0.95, note=note)
    black = np.stack([corners(picture) for case in cases for picture in case.on_black])
    yield Score("default background, black within dE 6", share(differences(black, np.zeros(3)) < 6), 0.95)


def seeds_score(cases: Sequence[Case]) -> Score:
    """From the mean difference (levels of 255) of two seeds of one person: its 5th percentile over the persons."""
    differ = [float(np.abs(case.on_black[0].astype(int) - case.on_black[1].astype(int)).mean()) for case in cases]
    note = f"mean of bytes, 5th percentile; median {np.median(differ):.1f}"
    return Score("two seeds differ by", float(np.percentile(differ, 5)), SEEDS_APART, note=note)


def corners(picture: Picture) -> Array:
    """(3,): CIE Lab of the background, the median of the upper corners."""
    cut = np.concatenate([picture[:CORNER, :CORNER].reshape(-1, 3), picture[:CORNER, -CORNER:].reshape(-1, 3)])
    r, g, b = (int(level) for level in np.median(cut, axis=0))
    return lab_of([(r, g, b)])[0, :]


def similarity_scores(cases: Sequence[Case], others: Sequence[Stranger], faces: FaceModel) -> Iterator[Score]:
    """`face_similarity` as in the service: to the own photo, to those of all others, and of those who are alike."""
    found = faces.embed([Photo(case.on_black[0], is_generated=True) for case in cases])
    seen = [(case, face.likeness) for case, face in zip(cases, found, strict=True) if isinstance(face, FaceEmbedding)]
    yield Score("avatars with a face found", len(seen) / len(cases))
    # A prompt for another gender than the photo's asks for somebody else.
    of_same = [
        (case, likeness)
        for case, likeness in seen
        if likeness is not None and case.wanted.gender == case.photographed.gender
    ]
    if not of_same:
        return
    vectors = np.stack([likeness for _, likeness in of_same])
    wanted = [case.wanted for case, _ in of_same]
    own = (vectors * np.stack([case.likeness for case, _ in of_same])).sum(1).astype(np.float64)
    likeness = (vectors @ np.stack([other.likeness for other in others]).T).astype(np.float64)
    alike = np.array([[band_of(person) == other.band for other in others] for person in wanted])
    note = f"own median {np.median(own):.2f}, others {np.median(likeness):.2f}"
    yield Score("face_similarity, AUC", auc(own, likeness.ravel()), 0.9, note=note)
    note = f"own median {np.median(own):.2f}, others {np.median(likeness[alike]):.2f}, {alike.sum()} pairs"
    yield Score("the same, others of one gender, age and skin", auc(own, likeness[alike]), 0.95, note=note)
    yield Score("own above theirs by, on the average", float(own.mean() - likeness[alike].mean()), 0.2)


def judge_scores(judge: Judge, count: int) -> Iterator[Score]:
    """The judge's accuracy on held-out renders."""
    rng = np.random.default_rng(HELD_OUT)
    people = [person_avatar(person, rng, default=False) for person in held_out(count, HELD_OUT + 5000)]
    seen = judge.read([np.asarray(render(person, 128)[0]) for person in people])
    for head, bar in (("glasses", 0.99), ("beard", 0.99), ("gender", 0.99), ("age_name", None)):
        agree = np.concatenate([*right(seen, people, head).values()])
        yield Score(f"judge on renders: {head}", share(agree), bar)
    for name, off in zip(("skin", "hair"), apart(seen, people), strict=True):
        note = f"95% {np.percentile(off, 95):.1f}"
        yield Score(f"judge on renders: {name}, median dE", float(np.median(off)), note=note)
