"""`python -m loadtest.gallery OUT`: a contact sheet of reference photos and their avatars."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw

from deployments.config import CascadeFaceModelConfig
from deployments.embedded.training.renderer.photo import plain_photo, stored
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.face.model import open_search
from loadtest.load.own_service import own_service
from serve_app.cli.signals import end_on_signals
from serve_app.client import FaceAvatarClient
from serve_app.photos.sample import sample_photo

CELL = 192  # pixels
SEED = 7
HELD_OUT = 91_000  # seeds from here on are not in the training set


def gallery(
    out: Annotated[Path, typer.Argument(help="The picture to write; its name's end gives the format.")],
    drawn: Annotated[int, typer.Option(min=0, max=12, help="Drawn references below the photo.")] = 5,
) -> None:
    """One row for each reference: its photo, three avatars by the default prompt, one on blue, two cut out."""
    end_on_signals()
    with own_service() as running, FaceAvatarClient(running.url, running.token) as client:
        rows = [row(client, photo, gender) for photo, gender in references(running.data_dir, drawn)]
    sheet(rows).save(out, quality=88)


def references(folder: Path, drawn: int) -> Iterator[tuple[Path, str]]:
    """The astronaut, then rendered portraits in human proportions that are not in the training set."""
    yield sample_photo(), "woman"
    people = (random_portrait(np.random.default_rng(seed)) for seed in itertools.count(HELD_OUT))
    drawings = ((person, before_a_wall(person)) for person in people)
    find = open_search(CascadeFaceModelConfig()).find
    seen = ((person, picture) for person, picture in drawings if find(np.asarray(picture)).faces)
    for number, (person, picture) in enumerate(itertools.islice(seen, drawn)):
        path = folder / f"drawn-{number}.png"
        picture.save(path)
        yield path, person.gender


def before_a_wall(person: Portrait) -> Image.Image:
    """A photo-like picture of 384 pixels a side, on the portrait's background colour."""
    shot = plain_photo(person, np.random.default_rng(person.texture), 384)
    share = shot.cover[..., None]
    return Image.fromarray((stored(shot.light) * share + np.array(person.background) * (1 - share)).astype(np.uint8))


def row(client: FaceAvatarClient, photo: Path, gender: str) -> list[Image.Image]:
    """Seven cells: the photo, three avatars by the default prompt, one on blue, two cut out. Raises: ClientError."""
    plain = client.avatars.create(photo, gender=gender, batch=3, seed=SEED).require_success()
    blue = client.avatars.create(
        photo, prompt=f"portrait of a smiling {gender}, blue background", seed=SEED
    ).require_success()
    cut = client.avatars.create(photo, gender=gender, batch=2, seed=SEED + 3, remove_background=True).require_success()
    urls = [image.url for task in (plain, blue, cut) for image in task.images if image.url]
    pictures = [Image.open(io.BytesIO(client.avatars.download(url))).convert("RGBA") for url in urls]
    with Image.open(photo) as reference:
        return [cell(reference.convert("RGBA")), *(cell(picture) for picture in pictures)]


def cell(picture: Image.Image) -> Image.Image:
    """CELL x CELL; a checkerboard shows through where the picture is transparent."""
    under = Image.new("RGBA", (CELL, CELL), (255, 255, 255, 255))
    draw = ImageDraw.Draw(under)
    for x in range(0, CELL, 16):
        for y in range((x // 16 % 2) * 16, CELL, 32):
            draw.rectangle((x, y, x + 15, y + 15), fill=(222, 222, 226, 255))
    under.alpha_composite(picture.resize((CELL, CELL), Image.Resampling.LANCZOS))
    return under.convert("RGB")


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """One picture of all rows of CELL x CELL cells, from the top; a shorter row ends in white."""
    whole = Image.new("RGB", (CELL * max(len(cells) for cells in rows), CELL * len(rows)), "white")
    for y, cells in enumerate(rows):
        for x, picture in enumerate(cells):
            whole.paste(picture, (x * CELL, y * CELL))
    return whole


if __name__ == "__main__":
    typer.run(gallery)
