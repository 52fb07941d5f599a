"""`face-avatar replay` against the small service: what it asks for, what it says, how it ends."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.api.examples import RECEIPT
from serve_app.cli.replay import ReceiptError, differences, needs, parameters, read_receipt, rounding_levels
from serve_app.cli.root import main
from serve_app.schemas.receipts import Receipt
from serve_app.schemas.requests import MAX_SEED, AvatarRequest
from tests.support import fake_service
from tests.support.fake_service import TOKEN, FakeService, picture
from tests.support.photos import png

Replay = Callable[..., tuple[object, str, str]]
FAST = RECEIPT.model_copy(update={"quality": "fast", "num_inference_steps": 4})
PRESET = FAST.model_dump(include={"num_inference_steps", "guidance_scale", "negative_prompt"})


@pytest.fixture
def fake() -> Iterator[FakeService]:
    with fake_service.serving() as service:
        service.receipt = RECEIPT.model_dump(mode="json")
        service.looks = 0
        yield service


@pytest.fixture
def replay(
    fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Replay:
    """The command in this process, with a receipt and the photo: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACE_AVATAR_TOKEN", TOKEN)
    monkeypatch.setenv("FACE_AVATAR_URL", fake.url)
    Path("me.png").write_bytes(picture(1))
    Path("receipt.json").write_text(RECEIPT.model_dump_json())

    def replay(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["face-avatar", "replay", *(arguments or ("receipt.json", "me.png"))])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return replay


def test_what_the_receipt_says_is_asked_for_again(replay: Replay, fake: FakeService) -> None:
    code, out, _ = replay()
    assert (code, out.splitlines()) == (0, ["avatars/me-7-replay.webp", "The same pixels as then."])
    probe, asked = (seen.fields for seen in fake.seen if seen.method == "POST")
    assert (probe["num_inference_steps"], asked["num_inference_steps"]) == (1, 12)
    same = RECEIPT.model_dump(include=AvatarRequest.model_fields.keys(), exclude_none=True)
    del same["quality"]  # the usual one, which older services do not know
    for name, value in same.items():
        assert asked[name] == value
    assert "quality" not in asked
    assert Path("avatars/me-7-replay.webp").read_bytes() == picture(7, "webp")


def test_of_a_fast_image_the_steps_of_its_preset_are_asked_for(replay: Replay, fake: FakeService) -> None:
    Path("receipt.json").write_text(FAST.model_dump_json())
    fake.fast = PRESET
    assert replay()[0] == 0
    probe, asked = (seen.fields for seen in fake.seen if seen.method == "POST")
    assert (probe["quality"], probe["num_inference_steps"]) == ("fast", 4)
    assert (asked["quality"], asked["num_inference_steps"]) == ("fast", 4)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            PRESET | {"num_inference_steps": 8, "negative_prompt": "hats"},
            ["num_inference_steps: 4 then, 8 now", "'hats'"],
        ),
        (None, ["face-avatar has no preset for fast here"]),
    ],
)
def test_a_preset_that_has_changed_is_named_and_nothing_is_asked_for(
    replay: Replay, fake: FakeService, now: dict[str, Any] | None, said: list[str]
) -> None:
    Path("receipt.json").write_text(FAST.model_dump_json())
    fake.fast = now
    code, _, err = replay()
    assert code == 1
    assert all(words in err for words in said)
    assert "guidance_scale" not in err
    assert not [seen for seen in fake.seen if seen.method == "POST"]


@pytest.mark.parametrize(("fallback", "asked"), [(None, None), ("quick", "none")])
def test_no_other_app_draws_a_receipt_again(
    replay: Replay, fake: FakeService, fallback: str | None, asked: str | None
) -> None:
    fake.fallback_app_id = fallback
    assert replay()[0] == 0
    sent = [seen.fields.get("fallback_app_id") for seen in fake.seen if seen.method == "POST"]
    assert sent == [asked, asked]


def test_an_image_of_several_photos_is_drawn_from_all_of_them(replay: Replay, fake: FakeService) -> None:
    code, out, _ = replay("receipt.json", "me.png", "https://example.org/me-too.jpg")
    assert code == 0, out
    for seen in (seen for seen in fake.seen if seen.method == "POST"):
        assert seen.fields["file_urls"][1] == "https://example.org/me-too.jpg"


def test_what_differs_is_said_before_anything_is_drawn_and_other_pixels_after(
    replay: Replay, fake: FakeService
) -> None:
    weights = RECEIPT.weights | {"unet/diffusion_pytorch_model.safetensors": "new", "adapter.safetensors": "f1"}
    changed = RECEIPT.model_copy(
        update={"weights": weights, "versions": RECEIPT.versions | {"torch": "3"}, "drawn_sha256": "e" * 64}
    )
    fake.receipt = changed.model_dump(mode="json")
    code, out, err = replay()
    assert code == 1
    assert out.splitlines()[:-1] == [
        "adapter.safetensors: weights that the receipt does not name",
        "unet/diffusion_pytorch_model.safetensors: other weights than then",
        "torch: 2.13.0 then, 3 now",
    ]
    assert "not the pixels of the receipt" in err


def test_other_pixels_of_the_same_picture_are_told_from_another_picture(replay: Replay, fake: FakeService) -> None:
    fake.receipt = RECEIPT.model_copy(update={"drawn_sha256": "e" * 64}).model_dump(mode="json")
    for shown, code in ((7, 0), (200, 1)):  # the service sends the picture of seed 7
        Path("receipt.webp").write_bytes(picture(shown, "webp"))
        assert replay()[0] == code
    Path("receipt.webp").write_bytes(b"no picture")
    assert replay()[0] == 1


def test_roundings_are_levels_and_another_picture_is_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 250, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "then.png")
    assert rounding_levels(tmp_path / "then.png", png(pixels)) == 0
    assert rounding_levels(tmp_path / "then.png", png(pixels + rng.integers(0, 2, pixels.shape, np.uint8))) == 1
    assert rounding_levels(tmp_path / "then.png", png(pixels + np.uint8(5))) is None
    assert rounding_levels(tmp_path / "then.png", png(pixels[:32])) is None


def test_a_service_without_receipts_is_told(replay: Replay, fake: FakeService) -> None:
    fake.receipt = {}
    assert "no receipts" in replay()[2]


@pytest.fixture
def faceid() -> Receipt:
    """A receipt as it was written when the FaceID app was `face-avatar`; no field of later versions is in it."""
    return read_receipt(Path(__file__).with_name("faceid-receipt.json"), 0)


def asked_apps(fake: FakeService) -> list[str]:
    return [seen.fields["app_id"] for seen in fake.seen if seen.method == "POST"]


@pytest.mark.parametrize("then", ["face-avatar", "face-avatar-sdxl-of-before"])
def test_an_old_receipt_is_drawn_by_the_app_that_has_its_model_now(
    replay: Replay, fake: FakeService, faceid: Receipt, then: str
) -> None:
    Path("receipt.json").write_text(faceid.model_copy(update={"app_id": then}).model_dump_json())
    fake.models = {"face-avatar": "flux2-klein", "face-avatar-faceid": "sdxl-faceid"}
    fake.receipt = faceid.model_dump(mode="json")
    code, out, _ = replay()
    assert code == 0
    assert asked_apps(fake) == ["face-avatar-faceid"] * 2
    assert f"app: {then} then, face-avatar-faceid now has its model" in out
    assert "The same pixels as then." in out


@pytest.mark.parametrize(("then", "asked"), [("face-avatar", ["face-avatar"]), ("face-avatar-of-before", [])])
def test_where_no_app_has_its_model_an_old_receipt_says_what_it_needs_and_nothing_is_drawn(
    replay: Replay, fake: FakeService, faceid: Receipt, then: str, asked: list[str]
) -> None:
    Path("receipt.json").write_text(faceid.model_copy(update={"app_id": then}).model_dump_json())
    fake.models = {"face-avatar": "flux2-klein"}
    klein = {"model": "flux2-klein", "weights": {"transformer/diffusion_pytorch_model.safetensors": "9f" * 32}}
    fake.receipt = faceid.model_dump(mode="json") | klein
    code, _, err = replay()
    assert code == 1
    assert asked_apps(fake) == asked  # at most for one step, which says what the app has
    words = " ".join(err.split())
    assert "no app of this service draws with sdxl-faceid" in words
    assert "face-avatar-faceid of the catalogue research" in words
    assert "research only, non-commercial" in words


def test_weights_that_no_catalogue_of_the_package_has_are_named_by_their_digests(faceid: Receipt) -> None:
    weights = {"unet/own.safetensors": "ab" * 32}
    assert f"unet/own.safetensors {'ab' * 32}" in needs(faceid.model_copy(update={"weights": weights}))


def test_a_model_that_has_another_name_now_but_the_same_files_is_drawn_with(
    replay: Replay, fake: FakeService, faceid: Receipt
) -> None:
    Path("receipt.json").write_text(faceid.model_dump_json())
    fake.models = {"face-avatar": "renamed"}
    fake.receipt = faceid.model_dump(mode="json") | {"model": "renamed"}
    code, out, _ = replay()
    assert (code, "model: sdxl-faceid then, renamed now" in out) == (0, True)


def test_nothing_differs_from_itself() -> None:
    assert list(differences(RECEIPT, RECEIPT)) == []
    assert list(differences(RECEIPT, RECEIPT.model_copy(update={"device": "H200"}))) == ["device: cpu then, H200 now"]
    fainter, stronger = (RECEIPT.model_copy(update={"lora_scales": {"lora/ink": scale}}) for scale in (0.5, 0.9))
    assert list(differences(fainter, stronger)) == ["lora_scales: {'lora/ink': 0.5} then, {'lora/ink': 0.9} now"]
    older = Receipt.model_validate(fainter.model_dump(exclude={"lora_scales"}))
    assert list(differences(older, stronger)) == []
    bare = RECEIPT.model_copy(update={"weights": {}})
    assert list(differences(RECEIPT, bare)) == [
        f"{name}: weights that are not used now" for name in sorted(RECEIPT.weights)
    ]


@pytest.mark.parametrize("beyond", [0, 3, 7])
def test_the_seed_of_a_later_image_is_reached_through_the_batch(beyond: int) -> None:
    asked = parameters(RECEIPT.model_copy(update={"seed": MAX_SEED + beyond}))
    assert (asked["seed"], asked["batch"]) == (MAX_SEED, beyond + 1)


def test_a_receipt_is_read_by_itself_or_out_of_an_envelope(tmp_path: Path) -> None:
    file = tmp_path / "receipts.json"
    second = RECEIPT.model_copy(update={"seed": 8})
    file.write_text(json.dumps({"output": {"receipts": [RECEIPT.model_dump(), second.model_dump()]}}))
    assert read_receipt(file, 1) == second
    newer = RECEIPT.model_dump() | {"field_of_a_newer_version": 1}
    file.write_text(json.dumps(newer))
    assert read_receipt(file, 0) == Receipt.model_validate(RECEIPT)


@pytest.mark.parametrize("text", [None, "", "[]", "1", "{}", '{"output": {}}', '{"output": {"receipts": [null]}}'])
def test_a_file_without_a_receipt_is_told(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "receipt.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ReceiptError, match=r"receipt\.json"):
        read_receipt(file, 0)
