"""Which words of a prompt the embedded models follow.

    python -m loadtest.bench.vocabulary --json vocabulary.json

Each phrase is asked of held-out rendered persons whose photo does not show it; the benchmark's judge reads whether the
avatar does. Beside it stands how often the same persons and seeds show it unasked. About 10 minutes on one core.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deployments.config import WEIGHTS, DiffusionModelConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.embedded.training.data import captions
from deployments.embedded.training.evaluate.figures import HELD_OUT, held_out
from deployments.embedded.training.evaluate.inference import GUIDANCE, STEPS
from deployments.embedded.training.evaluate.judge import HEADS, Judge, Readings
from deployments.embedded.training.renderer.portrait import HAIR_COLOURS, Gender, Portrait
from deployments.embedded.training.train.export import ADAPTER_FILE
from deployments.face.alignment import encoder_input
from deployments.types import AvatarSpec, FaceEmbedding
from loadtest.bench.avatars.drawn import reference_crop
from loadtest.bench.avatars.scores import JUDGE, Array, differences, lab_of, share

FIRST_PERSON = HELD_OUT + 9000
PERSONS = 48  # of whom a phrase is asked of the first that do not show it
DRAWINGS = 4  # of each phrase
BATCH = 8  # images that share their steps
KNOWN = 0.75  # of a phrase's drawings: then the phrase counts as known
GLASSES = {
    "none": captions.NO_GLASSES,
    "round": ("glasses", "wearing glasses", "round glasses"),
    "square": ("glasses", "wearing glasses", "square glasses"),
    "sun": ("sunglasses", "dark glasses"),
}
FORMS = ("portrait of {who}, {what}", "{what}, cartoon portrait of {who}", "avatar of {who}, highly detailed, {what}")

Value = TypeVar("Value", bound=str)


@dataclass(frozen=True, slots=True)
class Phrase:
    """What to ask, in words that describe the person or follow it, and which values of a trait then count."""

    kind: str
    text: str
    trait: str
    values: frozenset[str]
    gender: Gender | None = None  # of whom alone it is asked

    def prompt(self, number: int, gender: Gender) -> str:
        """In one of several forms, each in its turn."""
        noun = self.text if self.kind == "people" else f"{self.text} {gender}" if self.kind == "ages" else gender
        what = "" if self.kind in ("people", "ages") else self.text
        article = "an" if noun[0] in "aeiou" else "a"
        return FORMS[number % len(FORMS)].format(who=f"{article} {noun}", what=what).strip(", ")


@dataclass(frozen=True, slots=True)
class Result:
    """Shares of a phrase's drawings that show it, and of those of the same persons and seeds without it."""

    kind: str
    phrase: str
    followed: float
    unasked: float
    drawings: int


def naming(
    kind: str, trait: str, table: Mapping[Value, Sequence[str]], gender: Gender | None = None
) -> Iterator[Phrase]:
    """A phrase for each that `table` has for its values; one that several values share is followed by any of them."""
    for text in dict.fromkeys(text for texts in table.values() for text in texts):
        yield Phrase(kind, text, trait, frozenset(value for value, texts in table.items() if text in texts), gender)


def phrases() -> Iterator[Phrase]:
    """What the training's captions name, but colours of backgrounds and clothes, stripes and earrings."""
    colours = {name: [f"{word} hair" for word in words] for name, words in captions.HAIR_WORDS.items()}
    yield from naming("hats", "hat", captions.HATS)
    yield from naming("glasses", "glasses", GLASSES)
    yield from naming("beards", "beard", captions.BEARDS, "man")
    yield from naming("hair", "hair_style", captions.STYLE_WORDS)
    yield from naming("hair colours", "hair colour", colours)
    yield from naming("ages", "age_name", captions.AGES)
    for gender, table in captions.GENDERED.items():
        aged = {age: [word for word in words if word in captions.AGED] for age, words in table.items() if age}
        yield from naming("people", "age_name", aged, gender)
    yield from naming("expressions", "expression", captions.EXPRESSIONS)
    yield from naming("expressions", "winking", {"True": captions.WINKS})
    yield from naming("clothes", "clothes", captions.CLOTHES)
    yield from naming("scenes", "scene", captions.SCENES)
    yield from naming("scenes", "scene", {"gradient": ("blue to pink gradient background",)})


def hair_colour(lab: Array) -> str:
    """The named colour that is nearest to CIE Lab (3,)."""
    return list(HAIR_COLOURS)[int(differences(lab_of(list(HAIR_COLOURS.values())), lab).argmin())]


def value_of(person: Portrait, trait: str) -> str:
    """What the person's photo shows."""
    return hair_colour(lab_of([person.hair])[0]) if trait == "hair colour" else str(getattr(person, trait))


def values_seen(seen: Readings, trait: str) -> list[str]:
    """What the judge sees in each picture."""
    if trait == "hair colour":
        return [hair_colour(lab) for lab in seen.hair]
    return [str(HEADS[trait][best]) for best in seen.likelihoods[trait].argmax(1)]


def fits(phrase: Phrase, person: Portrait) -> bool:
    """Whether the phrase asks of the person for something new that can be seen; children grow no beards."""
    bare = person.hat == "none" and person.hair_style != "bald"
    return (
        value_of(person, phrase.trait) not in phrase.values
        and phrase.gender in (None, person.gender)
        and (bare or not phrase.kind.startswith("hair"))
        and (phrase.kind != "beards" or person.age_name != "child")
    )


class Sitters:
    """Held-out persons as the service reads their photos, and draws them."""

    def __init__(self, weights: Path, judge: Judge, count: int, threads: int) -> None:
        folder = weights / "diffusion"
        self._model = FaceDiffusionModel.load(
            DiffusionModelConfig(path=folder, ip_adapter=folder / ADAPTER_FILE, threads=threads)
        )
        self._judge, self._persons = judge, held_out(count, FIRST_PERSON)
        encoder = onnxruntime.InferenceSession(
            str(weights / "face" / "encoder.onnx"), providers=["CPUExecutionProvider"]
        )
        crops = [reference_crop(one, np.random.default_rng(FIRST_PERSON + i)) for i, one in enumerate(self._persons)]
        vectors = [encoder.run(["embedding"], {"input": encoder_input(crop[None])})[0][0] for crop in crops]
        self._faces = [FaceEmbedding(np.asarray(vector, np.float32), (0, 0, 1, 1), 1.0) for vector in vectors]
        self._unasked = self.drawn([*range(count)], Phrase("", "", "", frozenset()))

    def result(self, phrase: Phrase, drawings: int) -> Result | None:
        """Of the first persons whom the phrase fits; None where there are none."""
        chosen = [i for i, person in enumerate(self._persons) if fits(phrase, person)][:drawings]
        if not chosen:
            return None
        unasked = values_seen(self._unasked, phrase.trait)
        return Result(
            phrase.kind,
            phrase.text,
            share([value in phrase.values for value in values_seen(self.drawn(chosen, phrase), phrase.trait)]),
            share([unasked[i] in phrase.values for i in chosen]),
            len(chosen),
        )

    def drawn(self, chosen: Sequence[int], phrase: Phrase) -> Readings:
        """What the judge reads in an avatar of each of them by a prompt with the phrase."""
        samples = [self._model.start(self._spec(i, phrase), self._faces[i]) for i in chosen]
        for batch in (samples[i : i + BATCH] for i in range(0, len(samples), BATCH)):
            for _ in batch[0].plan.steps:
                self._model.step(batch)
        return self._judge.read([self._model.decode(sample) for sample in samples])

    def _spec(self, index: int, phrase: Phrase) -> AvatarSpec:
        return AvatarSpec(
            model="embedded", seed=FIRST_PERSON + index, prompt=phrase.prompt(index, self._persons[index].gender),
            negative_prompt="", width=256, height=256, num_inference_steps=STEPS, guidance_scale=GUIDANCE, task_id="",
            image_index=index, submitted_at=0.0, deadline=0.0,
        )  # fmt: skip


def table(results: Sequence[Result]) -> Table:
    """A row for each phrase."""
    shown = Table("kind", "phrase", "followed", "unasked", "drawings", title="Phrases of prompts, and who shows them")
    for one in results:
        style = None if one.followed >= KNOWN else "dim"
        shown.add_row(one.kind, one.phrase, f"{one.followed:.2f}", f"{one.unasked:.2f}", str(one.drawings), style=style)
    return shown


def main() -> None:
    """Prints the table, and of each kind the share of phrases that count as known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--kind", action="append", help="only phrases of this kind; may be given several times")
    parser.add_argument("--drawings", type=int, default=DRAWINGS, help="of each phrase")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asked = [phrase for phrase in phrases() if options.kind is None or phrase.kind in options.kind]
    if not asked:
        parser.error(f"no phrases of these kinds; known are {', '.join(dict.fromkeys(one.kind for one in phrases()))}")
    sitters = Sitters(options.weights, Judge.load(options.judge), PERSONS, options.threads)
    told = (sitters.result(phrase, options.drawings) for phrase in tqdm(asked, "phrases", mininterval=5))
    results = [result for result in told if result is not None]
    console = Console(width=110)
    console.print(table(results))
    for kind in dict.fromkeys(result.kind for result in results):
        known = [result.followed >= KNOWN for result in results if result.kind == kind]
        console.print(f"{kind}: {sum(known)} of {len(known)} phrases followed in at least {KNOWN:.0%} of drawings")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
