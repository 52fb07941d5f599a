"""Receipts: everything except the photo that is needed to generate an image again, for example with `replay`."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.types import OutputFormat
from serve_app.catalog.apps import Quality


class Receipt(BaseModel):
    """`output.receipts[i]`: what image i was drawn with. Nothing in it is of the photo."""

    # An older command line must accept the receipts of a newer service.
    model_config = ConfigDict(extra="ignore", frozen=True)

    app_id: str
    model: str
    weights: dict[str, str] = Field(
        description="SHA-256 of each file of weights, by its name: the generator's, the face model's in `face/`, and "
        "where the background was cut out, that model's in `background/`."
    )
    prompt: str
    style: str | None = Field(None, description="Its words are in the prompt already.")
    quality: Quality = "standard"
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    ip_adapter_scale: float = Field(description="The one that was used, the model's own where none was asked for.")
    lora_scale: float | None = Field(description="Of the LoRA that is part of the model.")
    lora_scales: dict[str, float] = Field(
        default_factory=dict, description="Of each LoRA that the image wore besides, by its name in `weights`."
    )
    sampler: str
    schedule: dict[str, Any] = Field(description="Of the noise levels, what differs from diffusers' defaults.")
    drawn_width: int = Field(description="Pixels, before the result was made of it.")
    drawn_height: int
    drawn_sha256: str = Field(description="Of the bytes of the pixels that were drawn: rows of 8-bit RGB.")
    width: int
    height: int
    remove_background: bool
    bg_color: str | None
    output_format: OutputFormat
    precision: str
    device: str
    fallback_from: str | None = Field(None, description="The app that was asked for, where another one drew.")
    photos: int = Field(1, description="How many photos of the person it was drawn from.")
    versions: dict[str, str] = Field(description="Of this service and of the libraries that draw.")
