"""`face-avatar replay`: generates an image again from its receipt and compares the pixels."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from serve_app.catalog.apps import NO_FALLBACK
from serve_app.catalog.lookup import apps_with
from serve_app.cli.console import console, errors
from serve_app.cli.generate import photos_named
from serve_app.cli.options import (
    AVATARS,
    DEFAULT_URL,
    ConsentOption,
    OutputOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    read_token,
)
from serve_app.cli.results import file_stem, write_file
from serve_app.cli.task_view import TaskView
from serve_app.client import AppInfo, AvatarImage, AvatarParameters, ClientError, FaceAvatarClient, Photo, image_format
from serve_app.schemas.receipts import Receipt
from serve_app.schemas.requests import MAX_SEED

COMPARED = (
    "photos",
    "model",
    "sampler",
    "schedule",
    "drawn_width",
    "drawn_height",
    "lora_scale",
    "lora_scales",
    "precision",
    "device",
)
SAME_DB = 40.0  # pictures of other seeds have 15 to 23 dB; one level of 255 in every pixel is 48 dB


class ReceiptError(ClientError):
    """No valid receipt was found."""


class LackingModelError(ClientError):
    """No app of the service draws with what the receipt was drawn with."""


class OtherPresetError(ClientError):
    """The quality of the receipt is drawn with other values now."""


class OtherPixelsError(ClientError):
    """The new image differs from that of the receipt."""


def replay(
    client: FaceAvatarClient,
    receipt: Receipt,
    photos: Sequence[Photo],
    folder: Path,
    out: Console,
    err: Console,
    *,
    consent: bool,
    original: Path | None = None,
) -> None:
    """Print what differs from the receipt, generate the image, write it, and compare its pixels.

    It is drawn by the app that has the receipt's model now. Where pixels differ, the picture itself is compared with
    `original`: other requests in the same denoising steps change roundings. Raises: ClientError.
    """
    with err.status("asking what the service draws with"):
        apps = client.apps.list()
        served = with_its_app(receipt, apps)
        check_preset(served, apps)
        request = parameters(served, consent=consent)
        if any(app.app_id == served.app_id and app.fallback_app_id for app in apps):
            request["fallback_app_id"] = NO_FALLBACK  # another app would draw another picture
        current = current_receipt(client, request, photos)
    if served.app_id != receipt.app_id:
        out.print(f"app: {receipt.app_id} then, {served.app_id} now has its model", markup=False)
    for line in differences(receipt, current):
        out.print(line, markup=False)
    if receipt.model != current.model and not _drawing_weights(receipt) <= _drawing_weights(current):
        raise LackingModelError(needs(receipt))
    with err.status("sending the photo"):
        task = client.avatars.submit(photos, **request)
    with TaskView(err) as view:
        task = client.avatars.wait(task, progress=view.show).require_success()
    image = task.images[-1]
    data = client.avatars.download(image)
    path = folder / f"{file_stem(photos[0], task)}-{image.seed}-replay.{image_format(data)}"
    write_file(path, data)
    out.print(str(path), markup=False)
    if receipt_of(image).drawn_sha256 == receipt.drawn_sha256:
        out.print("The same pixels as then.")
    elif original is not None and (levels := rounding_levels(original, data)) is not None:
        out.print(f"The same picture as then but for roundings: pixels are at most {levels} of 255 apart.")
    else:
        raise OtherPixelsError("These are not the pixels of the receipt.")


def rounding_levels(original: Path, data: bytes) -> int | None:
    """How many of 255 levels a new file of a picture is from its original at most; None where it shows another."""
    try:
        first, second = (
            np.asarray(Image.open(file).convert("RGBA"), np.float64) for file in (original, io.BytesIO(data))
        )
    except OSError:
        return None
    if first.shape != second.shape:
        return None
    apart = np.abs(first - second)
    psnr_db = 20 * np.log10(255 / max(float(np.sqrt(np.square(apart).mean())), 1e-3))
    return int(apart.max()) if psnr_db >= SAME_DB else None


def current_receipt(client: FaceAvatarClient, request: AvatarParameters, photos: Sequence[Photo]) -> Receipt:
    """The receipt of such an image from the service as it is now, from a run of few steps. Raises: ClientError."""
    one_step = request | AvatarParameters(batch=1)
    if request.get("quality") is None:  # a quality of few steps says how many
        one_step["num_inference_steps"] = 1
    return receipt_of(client.avatars.create(photos, **one_step).require_success().images[0])


def with_its_app(receipt: Receipt, apps: Sequence[AppInfo]) -> Receipt:
    """The receipt with the app that draws with its model now; its own, where none does or the service does not say.

    Raises: LackingModelError where its own is not there either.
    """
    named = {app.app_id: app.model for app in apps}
    if receipt.app_id in named and named[receipt.app_id] in (receipt.model, ""):
        return receipt
    having = [app.app_id for app in apps if app.model == receipt.model]
    if not having and receipt.app_id not in named:
        raise LackingModelError(needs(receipt))
    return receipt.model_copy(update={"app_id": having[0]}) if having else receipt


def check_preset(receipt: Receipt, apps: Sequence[AppInfo]) -> None:
    """Raises: OtherPresetError where the app draws the quality with other values: requests may not say theirs then."""
    app = next((app for app in apps if app.app_id == receipt.app_id), None)
    if receipt.quality == "standard" or app is None:
        return
    if app.fast is None:
        raise OtherPresetError(f"{app.app_id} has no preset for {receipt.quality} here, which the receipt needs")
    changed = [
        f"\n  {name}: {getattr(receipt, name)!r} then, {value!r} now"
        for name, value in app.fast.items()
        if name in Receipt.model_fields and getattr(receipt, name) != value
    ]
    if changed:
        raise OtherPresetError(
            f"{app.app_id} draws {receipt.quality} otherwise now, and takes no other values for it:{''.join(changed)}"
            "\nA service whose catalogue has these values of then, as `fast` of the app, draws it again."
        )


def needs(receipt: Receipt) -> str:
    """What a service needs for the picture of a receipt: apps that this package knows, or the files themselves."""
    lacking = f"no app of this service draws with {receipt.model}, which the receipt needs"
    if known := list(apps_with(_drawing_weights(receipt))):
        apps, licences = " or ".join(map(str, known)), "; ".join(known[0].licences)
        return f"{lacking}: its weights are those of {apps}, which `catalogs` of the service can name ({licences})"
    files = "".join(f"\n  {name} {sha256}" for name, sha256 in sorted(receipt.weights.items()))
    return f"{lacking}, with these files, by their SHA-256:{files}"


def _drawing_weights(receipt: Receipt) -> set[str]:
    """Digests of the files that draw and read the face; the one that cuts out is a setting, whatever the app."""
    return {sha256 for name, sha256 in receipt.weights.items() if not name.startswith("background/")}


def parameters(receipt: Receipt, *, consent: bool = False) -> AvatarParameters:
    """The request whose last image has the receipt's seed: only later images of a batch have seeds above MAX_SEED."""
    seed = min(receipt.seed, MAX_SEED)
    same = receipt.model_dump(include={*AvatarParameters.__annotations__})
    same["quality"] = None if receipt.quality == "standard" else receipt.quality  # older services do not know it
    return cast(AvatarParameters, same | {"batch": receipt.seed - seed + 1, "seed": seed, "consent": consent or None})


def differences(then: Receipt, now: Receipt) -> Iterator[str]:
    """A line for each difference that may change the pixels."""
    for name in sorted(then.weights.keys() | now.weights.keys()):
        if name not in then.weights:
            yield f"{name}: weights that the receipt does not name"
        elif name not in now.weights:
            yield f"{name}: weights that are not used now"
        elif then.weights[name] != now.weights[name]:
            yield f"{name}: other weights than then"
    for name in sorted(then.versions.keys() | now.versions.keys()):
        old, new = then.versions.get(name, "none"), now.versions.get(name, "none")
        if old != new:
            yield f"{name}: {old} then, {new} now"
    for name in COMPARED:
        old, new = getattr(then, name), getattr(now, name)
        if old != new and (name != "lora_scales" or name in then.model_fields_set):  # older receipts do not tell them
            yield f"{name}: {old} then, {new} now"


def receipt_of(image: AvatarImage) -> Receipt:
    """Raises: ReceiptError."""
    try:
        return Receipt.model_validate(image.receipt)
    except ValidationError:
        raise ReceiptError("this service gives no receipts") from None


def read_receipt(path: Path, image: int) -> Receipt:
    """The receipt in a JSON file: on its own, or that of one image of an envelope. Raises: ReceiptError."""
    try:
        data: Any = json.loads(path.read_text())
        return Receipt.model_validate(data["output"]["receipts"][image] if "output" in data else data)
    except OSError as error:
        raise ReceiptError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError):
        raise ReceiptError(f"{path} has no receipt of image {image}") from None


def replay_command(
    receipt: Annotated[Path, typer.Argument(help="A receipt as JSON, or an envelope with receipts.")],
    photo: Annotated[
        list[str], typer.Argument(help="The photo that it was drawn from, or all of them: files, or http(s) URLs.")
    ],
    image: Annotated[int, typer.Option(min=0, help="Which image of the envelope, the first one is 0.")] = 0,
    output: OutputOption = AVATARS,
    consent: ConsentOption = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Draw an avatar again from its receipt, and say what differs; exit code 1 if the pixels do."""
    expected = read_receipt(receipt, image)
    original = receipt.with_suffix(f".{expected.output_format}")
    with FaceAvatarClient(url, read_token(token, token_file)) as client:
        replay(
            client,
            expected,
            photos_named(photo),
            output,
            console,
            errors,
            consent=consent,
            original=original if original.exists() else None,
        )
