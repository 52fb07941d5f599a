"""The apps that requests name: the model that draws, default parameters, styles and presets."""

import re
from math import log
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deployments.types import SamplerName
from serve_app.catalog.model_files import Entry, InnerPath, Licence

Size = tuple[int, int]
"""width, height"""

Quality = Literal["standard", "fast"]
"""How long an image may take: as an app draws it by itself, or by its preset of few steps."""

DEFAULT_PROMPT = (
    "SFW Content, black plain background, joyous dating profile, VECTOR CARTOON ILLUSTRATION, half-body shot portrait "
    "enjoyable pleasing pleasurable nice {gender_word}, looking at camera, Relaxed, Charming, Cordial, Gracious, "
    "5 o clock shadow, 3d bitmoji avatar render, pixar, high def textures 8k, highly detailed, 3d render, "
    "award winning, no background elements"
)
NO_FALLBACK = "none"  # what a request says in place of a fallback app
GENDER_PLACE, PROMPT_PLACE = "{gender_word}", "{prompt}"
STYLED_SUBJECT = "half-body portrait of a nice {gender_word}, looking at the camera, relaxed and charming"

KnownWord = Annotated[str, Field(pattern=r"^[a-z][a-z -]{0,31}$")]
StyleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class AppDefaults(Entry):
    """The values of fields that a request to the app leaves out; `width` and `height` are pixels."""

    width: int = Field(ge=256, le=1536)
    height: int = Field(ge=256, le=1536)
    num_inference_steps: int = Field(ge=1, le=50)
    guidance_scale: float = Field(ge=1, le=30)
    negative_prompt: str = ""
    min_similarity: float | None = Field(None, ge=0, le=1)  # by the app's own face model; None: no redraws


FAST_LORA = "quality=fast"  # among the LoRAs of an app, whose others have names of styles


def lora_name(app_id: str, name: str) -> str:
    """The name of an app's LoRA among those of a model, with which several apps may draw."""
    return f"{app_id}/{name}"


class AppLora(Entry):
    """A LoRA of an app: `file` is of one of its downloads, by its path under the models folder."""

    file: InnerPath
    scale: float = Field(1.0, ge=-2, le=2)


class Style(Entry):
    """A look that an app can draw. `prompt` has `{gender_word}` and, where the client's prompt goes, `{prompt}`."""

    title: str
    prompt: str
    subject: str = STYLED_SUBJECT  # in the place of the client's prompt where there is none
    negative_prompt: str | None = None  # in the place of the app's
    lora: AppLora | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.prompt.count(PROMPT_PLACE) > 1:
            raise ValueError(f"a style has one {PROMPT_PLACE} at most")
        return self

    def filled(self, own_prompt: str | None, gender_word: str) -> str:
        """The prompt. One of the client's own replaces all of a style that has no place for it.

        One that has the style's words around it already, as those of receipts have, stays as it is.
        """
        prompt, subject = (text.replace(GENDER_PLACE, gender_word) for text in (self.prompt, self.subject))
        before, place, after = prompt.partition(PROMPT_PLACE)
        if not place:
            return prompt if own_prompt is None else own_prompt
        if own_prompt is not None and own_prompt.startswith(before) and own_prompt.endswith(after):
            return own_prompt
        return before + (subject if own_prompt is None else own_prompt) + after


class FastPreset(Entry):
    """How an app draws a request of the quality `fast`, which may say nothing else of the fields here."""

    num_inference_steps: int = Field(ge=1, le=50)
    guidance_scale: float = Field(1.0, ge=1, le=30)
    negative_prompt: str = ""
    sampler: SamplerName | None = Field(None, exclude=True)  # None: the model's own
    lora: AppLora | None = Field(None, exclude=True)  # beside that of a style
    decoder: InnerPath | None = Field(None, exclude=True)  # a tiny VAE, of one of the app's downloads; None: its own

    @property
    def fields(self) -> dict[str, Any]:
        """Of a request, by name."""
        return self.model_dump()


class App(Entry):
    """One app. `model` names a model of the generator's settings, `downloads` its files in the models folder.

    `face_model` names one of the face settings that finds and compares its faces, `fallback_app_id` the app that draws
    where this one would miss a deadline.
    """

    title: str
    description: str
    licence: str
    safety: str = "none"  # the safety checker
    model: str
    face_model: str | None = Field(None, exclude=True)  # of the face settings' `models`; None: their `model`
    native_sizes: tuple[Size, ...] = Field(min_length=1)
    defaults: AppDefaults
    prompt: str = DEFAULT_PROMPT
    styles: dict[StyleName, Style] = Field({})
    vocabulary: dict[KnownWord, tuple[KnownWord, ...]] | None = None  # by kind; None: the model reads any text
    fast: FastPreset | None = None  # None: requests of the quality `fast` are refused
    fallback_app_id: str | None = None
    has_guidance: bool = True  # false: the model ignores `guidance_scale` and `negative_prompt`, as distilled ones do
    instruction: str = Field(
        PROMPT_PLACE, pattern=re.escape(PROMPT_PLACE), exclude=True
    )  # what the model is told of a prompt
    downloads: tuple[str, ...] = Field((), exclude=True)  # for operators, not shown to clients
    weights: tuple[Licence, ...] = Field((), exclude=True)  # of weights that are not downloads

    @property
    def loras(self) -> dict[str, AppLora]:
        """Those of its styles by the names of the styles, and FAST_LORA."""
        loras = {name: style.lora for name, style in self.styles.items() if style.lora is not None}
        return loras if self.fast is None or self.fast.lora is None else loras | {FAST_LORA: self.fast.lora}

    @property
    def named_files(self) -> set[str]:
        """Those of its downloads that it names by their paths."""
        decoder = None if self.fast is None else self.fast.decoder
        return {lora.file for lora in self.loras.values()} | ({decoder} if decoder is not None else set())

    @property
    def qualities(self) -> tuple[Quality, ...]:
        """Those that a request may name."""
        return ("standard",) if self.fast is None else ("standard", "fast")

    def preset(self, quality: Quality) -> FastPreset | None:
        """That of the quality `fast`, where the app has one."""
        return self.fast if quality == "fast" else None

    def defaults_of(self, style: str | None, quality: Quality = "standard") -> dict[str, Any]:
        """The values of fields that a request leaves out. Raises: KeyError for an unknown style."""
        defaults = self.defaults.model_dump()
        if (preset := self.preset(quality)) is not None:
            return defaults | preset.fields
        negative = self.styles[style].negative_prompt if style is not None and self.has_guidance else None
        return defaults if negative is None else {**defaults, "negative_prompt": negative}

    def filled_prompt(self, own_prompt: str | None, gender_word: str, style: str | None) -> str:
        """The prompt of a request. Raises: KeyError for an unknown style."""
        if style is not None:
            return self.styles[style].filled(own_prompt, gender_word)
        return self.prompt.replace(GENDER_PLACE, gender_word) if own_prompt is None else own_prompt

    def ignores(self, guidance_scale: float, negative_prompt: str) -> bool:
        """Whether a request asks for guidance, of which the model has none."""
        defaults = self.defaults
        asked = (guidance_scale, negative_prompt) != (defaults.guidance_scale, defaults.negative_prompt)
        return asked and not self.has_guidance

    def native_size(self, width: int, height: int) -> Size:
        """The native size nearest in aspect ratio; among equal ratios, the nearest in area."""

        def distance(size: Size) -> tuple[float, float]:
            ratio = abs(log(size[0] / size[1]) - log(width / height))
            area = abs(log(size[0] * size[1]) - log(width * height))
            return round(ratio, 3), area

        return min(self.native_sizes, key=distance)
