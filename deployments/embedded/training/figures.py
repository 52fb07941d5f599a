"""What the models achieve, as numbers, a sheet of pictures, and the model card."""

import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab

from deployments.embedded.training.captions import default_caption
from deployments.embedded.training.export import sha256_of, weight_files
from deployments.embedded.training.face_training import Reader, triples_right
from deployments.embedded.training.figure import render
from deployments.embedded.training.inference import (
    GUIDANCE,
    STEPS,
    Reference,
    Studio,
    contact_sheet,
    drawn_reference,
    real_references,
)
from deployments.embedded.training.photo import face_views
from deployments.embedded.training.portrait import Portrait, random_portrait

HELD_OUT = 90_000  # seeds from here on are never trained on
CHEEKS = ((100, 126), (152, 126))  # of an avatar of 256 pixels
CROWN = (128, 50)
CORNERS = ((12, 12), (244, 12))

PALE_BLOND = replace(
    random_portrait(np.random.default_rng(HELD_OUT)),
    gender="woman", skin=(248, 214, 188), hair=(228, 198, 136), hair_style="bob", beard="none", glasses="none", jaw=0.4,
)  # fmt: skip
DARK_BLACK = replace(
    random_portrait(np.random.default_rng(HELD_OUT + 1)),
    gender="woman", skin=(108, 69, 48), hair=(28, 24, 24), hair_style="bob", beard="none", glasses="none", jaw=0.4,
)  # fmt: skip


def patch_lab(picture: NDArray[np.uint8], places: tuple[tuple[int, int], ...], reach: int = 5) -> NDArray[np.float64]:
    """The median colour around some places, in CIE Lab."""
    cuts = [picture[y - reach : y + reach + 1, x - reach : x + reach + 1].reshape(-1, 3) for x, y in places]
    median = np.median(np.concatenate(cuts), axis=0)
    return np.asarray(rgb2lab(median[None, None] / 255)[0, 0], dtype=np.float64)


def skin_lab(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return patch_lab(picture, CHEEKS)


def hair_lab(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return patch_lab(picture, (CROWN,), reach=7)


def colour_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(deltaE_ciede2000(first, second))


def held_out(count: int, start: int = HELD_OUT + 100) -> list[Portrait]:
    return [random_portrait(np.random.default_rng(start + i)) for i in range(count)]


def intersection_over_union(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    first, second = mask > 127, truth > 127
    return float((first & second).sum() / max(1, (first | second).sum()))


def matting_session(model: Path) -> Any:
    """rembg's own session for a custom U2-Net; it takes models from its home folder only."""
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    os.environ["U2NET_HOME"] = str(model.parent)
    import rembg

    return rembg.new_session("u2net_custom", model_path=str(model))


def matting_figure(weights: Path, count: int = 40) -> float:
    session = matting_session(weights / "matting" / "u2net.onnx")
    scores = []
    for person in held_out(count):
        picture, alpha = render(person)
        (mask,) = session.predict(picture)
        scores.append(intersection_over_union(np.asarray(mask), np.asarray(alpha)))
    return float(np.mean(scores))


def triples_figure(studio: Studio, count: int = 60) -> float:
    rng = np.random.default_rng(HELD_OUT + 7)
    views = np.stack([np.stack(face_views(person, rng, 2)) for person in held_out(count)])
    embeddings = studio.embed(views.reshape(-1, *views.shape[2:])).reshape(count, 2, -1)
    return triples_right(embeddings)


def avatar_figures(studio: Studio, count: int = 16) -> dict[str, str]:
    """Against the renderer's own drawing of the person, measured at the same places."""
    skin, hair, background, apart = [], [], [], []
    for number, person in enumerate(held_out(count, HELD_OUT + 500)):
        reference = drawn_reference("drawn", person, HELD_OUT + number)
        embedding = studio.embed(reference.crop[None])[0]
        truth = np.asarray(render(replace(person, yaw=0.0, tilt=0.0, shift=(0.0, 0.0), scale=1.0))[0])
        first, second = studio.draw(embedding, default_caption(person.gender), [number, number + 1000])
        for picture in (first, second):
            skin.append(colour_difference(skin_lab(picture), skin_lab(truth)))
            if person.hair_style != "bald":
                hair.append(colour_difference(hair_lab(picture), hair_lab(truth)))
            background.append(colour_difference(patch_lab(picture, CORNERS), np.zeros(3)))
        apart.append(float(np.abs(first.astype(int) - second.astype(int)).mean()))
    return {
        "avatar skin, median dE2000": f"{np.median(skin):.1f} (within 8: {np.mean(np.array(skin) < 8):.0%})",
        "avatar hair, median dE2000": f"{np.median(hair):.1f} (within 12: {np.mean(np.array(hair) < 12):.0%})",
        "black background, within dE 6": f"{np.mean(np.array(background) < 6):.0%}",
        "mean difference between two seeds, bytes": f"{np.mean(apart):.1f}",
    }


def read_colours(studio: Studio, reader: Reader, crop: NDArray[np.uint8]) -> dict[str, Any]:
    """What the encoder sees in a crop: skin and hair as RGB, then the facts of `face_training.attributes`."""
    with torch.no_grad():
        read = reader(torch.from_numpy(studio.embed(crop[None])))[0].numpy()
    lab = (read[:6].reshape(2, 3) + np.array([2.0, 0.0, 0.0])) * (25.0, 12.0, 14.0)
    skin, hair = (lab2rgb(lab[None])[0] * 255).round().astype(int).tolist()
    names = ("hair length", "beard", "glasses", "man", "bald")
    return {"skin": skin, "hair": hair} | {n: round(float(v), 2) for n, v in zip(names, read[6:], strict=True)}


def measure(weights: Path, reader: Reader) -> dict[str, str]:
    studio = Studio(weights)
    figures = {
        "matting IoU on held-out renders": f"{matting_figure(weights):.3f}",
        "face triples right, held-out persons": f"{triples_figure(studio):.3f}",
        **avatar_figures(studio),
    }
    for reference in real_references():
        figures[f"read from {reference.name}"] = str(read_colours(studio, reader, reference.crop))
    return figures


def sheet_references() -> list[Reference]:
    drawn = [drawn_reference(f"drawn {i}", person, i) for i, person in enumerate(held_out(6, HELD_OUT + 900))]
    pair = [drawn_reference("pale blond", PALE_BLOND, 1), drawn_reference("dark black", DARK_BLACK, 2)]
    return [*real_references(), *pair, *drawn]


def draw_sheet(weights: Path, path: Path, steps: int = STEPS, guidance: float = GUIDANCE) -> None:
    """A row a reference: its crop, three seeds of the default prompt, two on blue."""
    studio = Studio(weights)
    rows = []
    for reference in sheet_references():
        embedding = studio.embed(reference.crop[None])[0]
        default = studio.draw(embedding, default_caption("person"), [1, 2, 3], steps, guidance)
        blue = studio.draw(embedding, "portrait of a person, blue background, red shirt", [1, 2], steps, guidance)
        rows.append([reference.crop, *default, *blue])
    half = (len(rows) + 1) // 2
    both = [left + right for left, right in zip(rows[:half], rows[half:], strict=True)]
    contact_sheet(both, cell=160).save(path)


def write_card(weights: Path, trained: str, measured: dict[str, str]) -> None:
    files = weight_files(weights)
    total = sum(path.stat().st_size for path in files) / 1e6
    lines = [
        "# Weights of the embedded profile",
        "",
        "Small models that let the whole service run without a GPU and without a network. They were trained from",
        "scratch by this project, only on portraits that it draws itself (`deployments/embedded/training`): no",
        "photograph of anyone, no foreign weights and no foreign data took part. Licence: Apache-2.0.",
        "",
        "| file | what it is |",
        "|---|---|",
        "| `diffusion/` | a `StableDiffusionPipeline`: latents 12x32x32 (64x64 pixels, unshuffled), native 256x256 |",
        "| `diffusion/ip-adapter-faceid.safetensors` | IP-Adapter FaceID: a 512-d face embedding to 4 tokens |",
        "| `face/encoder.onnx` | a crop by `face_crop.py`, (n, 3, 112, 112) RGB in -1..1 -> (n, 512), of length 1 |",
        "| `matting/u2net.onnx` | for rembg's `u2net_custom`: 320x320 in, mask out |",
        "",
        f"Trained on: {trained}. Written {datetime.now(UTC):%Y-%m-%d}.",
        f"Good settings: {STEPS} steps, guidance {GUIDANCE}, the scheduler of the folder.",
        "",
        "The avatars are cartoons. The encoder reads appearance (skin, hair, beard, glasses), not identity, and must",
        "not be used to recognise people.",
        "",
        "## Figures",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in measured.items()),
        "",
        f"## Files ({total:.1f} MB)",
        "",
        "| file | bytes | sha256 |",
        "|---|---|---|",
        *(f"| `{path.relative_to(weights)}` | {path.stat().st_size} | `{sha256_of(path)}` |" for path in files),
        "",
    ]
    with tempfile.NamedTemporaryFile("w", dir=weights, delete=False) as draft:
        draft.write("\n".join(lines))
    os.chmod(draft.name, 0o644)
    os.replace(draft.name, weights / "README.md")
