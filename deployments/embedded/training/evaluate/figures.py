"""Evaluation results: numbers, a contact sheet, and the model card."""

import json
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from deployments.config import SAME_TRAITS
from deployments.embedded.training.data.captions import default_caption
from deployments.embedded.training.evaluate.inference import (
    GUIDANCE,
    STEPS,
    Reference,
    Studio,
    contact_sheet,
    drawn_reference,
    real_references,
)
from deployments.embedded.training.renderer.appearance import read_embedding
from deployments.embedded.training.renderer.photo import face_views
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.export import sha256_of, weight_files
from deployments.embedded.training.train.face import triples_right

HELD_OUT = 90_000  # seeds from here on are never trained on

PALE_BLOND = replace(
    random_portrait(np.random.default_rng(HELD_OUT)),
    gender="woman", skin=(248, 214, 188), hair=(228, 198, 136), hair_style="bob",
    beard="none", glasses="none", hat="none", jaw=0.4,
)  # fmt: skip
DARK_BLACK = replace(
    random_portrait(np.random.default_rng(HELD_OUT + 1)),
    gender="woman", skin=(108, 69, 48), hair=(28, 24, 24), hair_style="bob",
    beard="none", glasses="none", hat="none", jaw=0.4,
)  # fmt: skip


def held_out(count: int, start: int = HELD_OUT + 100) -> list[Portrait]:
    """Persons of the seeds `start`, `start + 1`, ..., on whom nothing was trained."""
    return [random_portrait(np.random.default_rng(start + i)) for i in range(count)]


def triples_figure(studio: Studio, count: int = 40) -> float:
    """`triples_right` of two photo-like views each of `count` held-out persons, 0..1."""
    rng = np.random.default_rng(HELD_OUT + 7)
    views = np.stack([np.stack(face_views(person, rng, 2)) for person in held_out(count)])
    embeddings = studio.embed(views.reshape(-1, *views.shape[2:])).reshape(count, 2, -1)
    return triples_right(embeddings)


def same_person_figures(studio: Studio, count: int = 40) -> tuple[float, float]:
    """The share of pairs of photos whose cosine is below SAME_TRAITS: those of one held-out person, and of two."""
    rng = np.random.default_rng(HELD_OUT + 7)
    views = np.stack([np.stack(face_views(person, rng, 4)) for person in held_out(count)])
    embeddings = studio.embed(views.reshape(-1, *views.shape[2:])).reshape(count, 4, -1)
    of_one = np.einsum("pvw,pvw->vp", embeddings[:, ::2], embeddings[:, 1::2])
    of_two = embeddings[:, 0] @ embeddings[:, 1].T
    others = ~np.eye(count, dtype=bool)
    return float((of_one < SAME_TRAITS).mean()), float((of_two[others] < SAME_TRAITS).mean())


def measure(weights: Path) -> dict[str, str]:
    """Of the face encoder alone; the avatars are measured by a benchmark."""
    studio = Studio(weights)
    figures = {"face triples right, held-out persons": f"{triples_figure(studio):.3f}"}
    of_one, of_two = same_person_figures(studio)
    figures["pairs of photos said to be of different people"] = f"of one person {of_one:.3f}, of two {of_two:.3f}"
    for reference in real_references():
        told = read_embedding(studio.embed(reference.crop[None])[0])
        shown = (f"{name} {told[name]}" for name in ("skin", "hair", "hair style", "beard", "glasses", "gender"))
        figures[f"read from {reference.name}"] = ", ".join(shown)
    return figures


def benchmark_figures(path: Path) -> dict[str, str]:
    """What `python -m loadtest.bench.avatars --json PATH` found, with the bars."""
    return {
        score["name"]: f"{score['value']:.3f}" + ("" if score["bar"] is None else f" ({score['limit']})")
        for score in json.loads(path.read_text())
    }


def light_figures(path: Path) -> dict[str, str]:
    """What `python -m loadtest.bench.exposure --json PATH` found: a figure a light, with all tones of skin."""
    told: dict[str, list[str]] = {}
    for row in json.loads(path.read_text()):
        before_after = f"{row['tone']} {row['before']:.1f} to {row['after']:.1f}"
        told.setdefault(row["light"], []).append(f"{before_after}, warned {row['warned']:.0%}")
    return {f"skin's dE without and with correction: {light}": "; ".join(tones) for light, tones in told.items()}


def sheet_references() -> list[Reference]:
    """The rows of the contact sheet: six real photos, a pale and a dark person, six held-out persons."""
    drawn = [drawn_reference(f"drawn {i}", person, i) for i, person in enumerate(held_out(6, HELD_OUT + 900))]
    pair = [drawn_reference("pale blond", PALE_BLOND, 1), drawn_reference("dark black", DARK_BLACK, 2)]
    return [*real_references(), *pair, *drawn]


def draw_sheet(weights: Path, path: Path) -> None:
    """A row a reference: its crop, three seeds of the default prompt, two on blue."""
    studio = Studio(weights)
    rows = []
    for reference in sheet_references():
        embedding = studio.embed(reference.crop[None])[0]
        default = studio.draw(embedding, default_caption("person"), [1, 2, 3])
        blue = studio.draw(embedding, "portrait of a person, blue background, red shirt", [1, 2])
        rows.append([reference.crop, *default, *blue])
    half = (len(rows) + 1) // 2
    both = [left + right for left, right in zip(rows[:half], rows[half:], strict=True)]
    contact_sheet(both, cell=160).save(path)


CARD = """# Weights of the embedded profile

Small models that let the whole service run without a GPU and without a network. They were trained from
scratch by this project on portraits that it draws itself (`deployments/embedded/training`): no
photograph of anyone and no foreign weights took part. The face finder and verifier also learnt what is no
face, from pictures without people: those that installed packages ship (`training/data/scenes.py`) and
Debian's wallpapers of gnome, lomiri, mate, sway and ukui (CC0, CC-BY, CC-BY-SA, GPL-2+), none of which is
in this repository. Licence: Apache-2.0.

| file | what it is |
|---|---|
| `diffusion/` | a `StableDiffusionPipeline`: latents 12x32x32 (64x64 pixels, unshuffled), native 256x256 |
| `diffusion/ip-adapter-faceid.safetensors` | IP-Adapter FaceID: a 512-d face embedding to 4 tokens |
| `face/encoder.onnx` | a crop by `face/alignment.py`, (n, 3, 192, 192) RGB in -1..1 -> (n, 512), of length 1 |
| `face/likeness.onnx` | the same crop -> (n, 128), of length 1: for `face_similarity`, and never drawn from |
| `face/finder.onnx` | (n, 3, h, w) RGB in -1..1, sides multiples of 32 -> (n, 16, h / 8, w / 8): where faces may be |
| `face/verifier.onnx` | (n, 3, 64, 64) of mean 0 and deviation 1 -> (n, 16): whether an upright face is there, where |
| `matting/u2net.onnx` | for rembg's `u2net_custom`: 320x320 in, mask out |

Trained on: {trained}. Written {day:%Y-%m-%d}.
Good settings: {steps} steps, guidance {guidance}, the scheduler of the folder.

The avatars are cartoons. Encoder and judge of likeness read appearance (skin, hair, beard, glasses), not
identity, and must not be used to recognise people.

## Figures

| measure | value |
|---|---|
{figures}

## Files ({megabytes:.1f} MB)

| file | bytes | sha256 |
|---|---|---|
{files}
"""


def write_card(weights: Path, trained: str, measured: dict[str, str]) -> None:
    """Replaces README.md of the weights, atomically; its table has size and SHA-256 of every other file."""
    files = [(path.relative_to(weights), path.stat().st_size, sha256_of(path)) for path in weight_files(weights)]
    card = CARD.format(
        trained=trained,
        day=datetime.now(UTC),
        steps=STEPS,
        guidance=GUIDANCE,
        figures="\n".join(f"| {name} | {value} |" for name, value in measured.items()),
        megabytes=sum(size for _, size, _ in files) / 1e6,
        files="\n".join(f"| `{name}` | {size} | `{digest}` |" for name, size, digest in files),
    )
    with tempfile.NamedTemporaryFile("w", dir=weights, delete=False) as draft:
        draft.write(card)
    os.chmod(draft.name, 0o644)
    os.replace(draft.name, weights / "README.md")
