from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.catalog.apps import App
from serve_app.catalog.catalog import Catalog
from serve_app.errors import ImageUrlError, UnknownAppError
from serve_app.schemas.errors import invalid_fields
from serve_app.schemas.gender import WORDS, gender_word
from serve_app.schemas.requests import MAX_BATCH, MAX_SEED, AvatarRequest, EffectiveRequest, rgb

MINIMAL = {"app_id": "face-avatar", "file_url": "https://example.org/me.jpg"}


def request(**fields: Any) -> AvatarRequest:
    return AvatarRequest.model_validate(MINIMAL | fields)


@pytest.fixture(scope="module")
def app() -> App:
    return Catalog.read(["embedded"])["face-avatar"]


@pytest.mark.parametrize("name", ["prompt", "gender", "negative_prompt", "bg_color", "ref_id", "output_format"])
def test_an_empty_optional_string_means_the_default(name: str) -> None:
    assert request(**{name: ""}) == request()


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert request(batch=4.0).batch == 4


@pytest.mark.parametrize("alias", ["ref_id", "refID", "reference_id"])
def test_the_clients_reference_has_three_names(alias: str) -> None:
    assert request(**{alias: "mine"}).ref_id == "mine"


def test_an_alias_may_repeat_its_name_but_not_contradict_it() -> None:
    assert request(image=MINIMAL["file_url"]).file_url.url == MINIMAL["file_url"]
    with pytest.raises(ValidationError) as caught:
        request(image="https://example.org/other.jpg", batch=0)
    entries = {entry["field"]: entry["message"] for entry in invalid_fields(caught.value, AvatarRequest).data["fields"]}
    assert entries.keys() == {"image", "batch"}
    assert entries["image"].startswith("differs from file_url")


@pytest.mark.parametrize(
    ("given_word", "word"),
    [
        (None, "person"),
        ("Male", "man"),
        ("BOY", "man"),
        ("girl", "woman"),
        ("female", "woman"),
        ("f", "woman"),
        ("F", "woman"),
        (" M ", "man"),
        (" ", "person"),
        ("女", "woman"),
        ("男性", "man"),
        ("महिला", "woman"),
        ("ल\u0921\u093cका", "man"),
        ("ल\u095cका", "man"),
        ("Mujer", "woman"),
        ("NIÑO", "man"),
        ("Femme", "woman"),
        ("garçon", "man"),
        ("garc\u0327on", "man"),
        ("امرأة", "woman"),
        ("ذكر", "man"),
        ("নারী", "woman"),
        ("মেয়ে", "woman"),
        ("homem", "man"),
        ("Женщина", "woman"),
        ("МУЖ", "man"),
        ("عورت", "woman"),
        ("elf", "elf"),
        ("ninja 忍者", "ninja 忍者"),
    ],
)
def test_gender_words(given_word: str | None, word: str) -> None:
    given = request(gender=given_word).gender
    assert gender_word(given) == word


def test_no_word_is_of_both_genders() -> None:
    words = [word for words in WORDS.values() for word in words]
    assert len(words) == len(set(words))


OPTIONAL = [
    name for name, field in AvatarRequest.model_fields.items() if not field.is_required() and name != "file_url"
]


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_is_not_given(name: str) -> None:
    assert request(**{name: None}) == request()
    jsonschema.validate({**MINIMAL, name: None}, AvatarRequest.model_json_schema())


@pytest.mark.parametrize(
    ("values", "ref_id"),
    [
        ({"ref_id": None, "refID": "a"}, "a"),
        ({"ref_id": "", "refID": "a"}, "a"),
        ({"ref_id": "a", "refID": None}, "a"),
        ({"refID": "", "reference_id": None}, None),
        ({"image": None}, None),
    ],
)
def test_an_alias_that_is_not_given_contradicts_nothing(values: dict[str, Any], ref_id: str | None) -> None:
    assert request(**values).ref_id == ref_id


def test_null_for_an_unknown_field_is_refused_like_any_value() -> None:
    with pytest.raises(ValidationError):
        request(sharpen=None)


@pytest.mark.parametrize("name", ["app_id", "file_url"])
def test_null_is_not_enough_for_what_is_required(name: str) -> None:
    with pytest.raises(ValidationError):
        request(**{name: None})


SEVERAL = ["https://example.org/a.jpg", "https://example.org/b.jpg?token=1"]


def test_several_photos_come_in_place_of_one(app: App) -> None:
    asked = request(file_url=None, file_urls=SEVERAL)
    assert [photo.url for photo in asked.photos] == SEVERAL
    effective = EffectiveRequest.fill(asked, app, seed=7, deadline_s=60)
    assert effective.file_urls == tuple(url.partition("?")[0] for url in SEVERAL)
    assert (effective.file_url, effective.photo_count) == (SEVERAL[0], 2)  # which older workers ask for
    assert EffectiveRequest.model_validate_json(effective.model_dump_json()) == effective


def test_one_photo_is_one_of_several(app: App) -> None:
    assert [photo.url for photo in request().photos] == [MINIMAL["file_url"]]
    effective = EffectiveRequest.fill(request(), app, seed=7, deadline_s=60)
    assert (effective.file_urls, effective.photo_count) == (None, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file_url": None}, "Field required"),
        ({"file_urls": SEVERAL}, "comes beside a file_url: send one of them"),
        ({"file_url": None, "file_urls": []}, "Tuple should have at least 1 item after validation, not 0"),
        ({"file_url": None, "file_urls": SEVERAL * 3}, "Tuple should have at most 4 items after validation, not 6"),
        ({"file_url": None, "file_urls": SEVERAL[0]}, "Input should be a valid tuple"),
        ({"file_url": None, "file_urls": [SEVERAL[0], 7]}, "Input should be a valid string"),
    ],
)
def test_photos_are_given_in_one_way_and_not_too_many(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        request(**fields, batch=0)
    entries = {entry["field"]: entry["message"] for entry in invalid_fields(caught.value, AvatarRequest).data["fields"]}
    assert entries.pop("batch")
    assert list(entries.values()) == [message]
    assert entries.keys() <= {"file_url", "file_urls"}


def test_an_error_of_a_url_says_which_photo_it_is_about() -> None:
    with pytest.raises(ImageUrlError) as caught:
        request(file_url=None, file_urls=[SEVERAL[0], f"https://{'x' * 100_000}"])
    assert caught.value.data["photo"] == 1


@pytest.mark.parametrize("word", ["man-at-arms", "Frau", "человек", "old man"])
def test_a_gender_may_be_any_word(word: str) -> None:
    assert request(gender=word).gender == word


@pytest.mark.parametrize("word", ["-man", "man1", "a_b", "a\nb"])
def test_a_gender_is_letters_spaces_and_hyphens(word: str) -> None:
    with pytest.raises(ValidationError):
        request(gender=word)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_survives_its_hex_form(colour: tuple[int, int, int]) -> None:
    assert rgb("#" + bytes(colour).hex()) == colour


def test_a_short_colour_doubles_its_digits() -> None:
    assert rgb("#1cF") == (0x11, 0xCC, 0xFF)


def test_what_was_given_is_kept_and_the_rest_filled(app: App) -> None:
    effective = EffectiveRequest.fill(request(height=300, seed=0, guidance_scale=1), app, seed=9, deadline_s=60)
    assert (effective.height, effective.seed, effective.guidance_scale) == (300, 0, 1.0)
    assert (effective.width, effective.deadline_s) == (app.defaults.width, 60)


def test_the_largest_seed_leaves_room_for_a_batch() -> None:
    assert request(seed=MAX_SEED, batch=8).seed == MAX_SEED
    assert MAX_SEED + 7 == 2**32 - 2
    with pytest.raises(ValidationError):
        request(seed=MAX_SEED + 1)


def test_the_native_size_is_nearest_in_shape_then_in_area(app: App) -> None:
    sizes = ((512, 512), (1024, 1024), (832, 1216), (1216, 832))
    app = app.model_copy(update={"native_sizes": sizes})
    assert app.native_size(1536, 1536) == (1024, 1024)
    assert app.native_size(300, 300) == (512, 512)
    assert app.native_size(256, 1536) == (832, 1216)
    assert app.native_size(1200, 800) == (1216, 832)


def test_an_app_needs_a_model_that_the_generator_has() -> None:
    catalog = Catalog.read(["embedded"])
    catalog.check_models({"embedded"})
    with pytest.raises(ValueError, match="face-avatar"):
        catalog.check_models({"another"})


def test_an_unknown_app_names_the_known_ones() -> None:
    with pytest.raises(UnknownAppError) as caught:
        Catalog.read(["embedded"])["nobody"]
    assert caught.value.data["accepted"] == ["face-avatar"]


def test_two_catalogues_may_not_name_the_same_app() -> None:
    with pytest.raises(ValueError, match="face-avatar"):
        Catalog.read(["embedded", "embedded"])


def test_what_a_newer_version_accepted_is_read_as_it_is_stored() -> None:
    app = Catalog.read(["embedded"])["face-avatar"]
    stored = EffectiveRequest.fill(request(), app, seed=7, deadline_s=60).model_dump()
    newer = stored | {"batch": MAX_BATCH + 1, "prompt": "x" * 3000, "negative_prompt": "", "sharpness": 0.5}
    read = EffectiveRequest.model_validate(newer)
    assert (read.batch, len(read.prompt), read.negative_prompt) == (MAX_BATCH + 1, 3000, "")
    assert EffectiveRequest.model_validate(stored).model_dump() == stored
