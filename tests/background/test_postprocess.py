import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deployments.background.framing import frame_of, head_of
from deployments.background.postprocess import decided, fit, needs_alpha, postprocess
from deployments.types import Alpha, Box, OutputFormat, Pixels, PostprocessSpec

RED, GREEN, BLUE = (220, 20, 30), (10, 230, 40), (20, 30, 240)
SIDES = st.integers(min_value=256, max_value=1536)


def decode(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def red_disc_on_green(side: int = 256, softness: float = 6.0) -> tuple[Pixels, Alpha]:
    """The picture is a true mixture at the soft edge: that is where a halo comes from."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    coverage = np.clip((side * 0.3 - np.hypot(x, y)) / softness + 0.5, 0, 1)[..., None]
    pixels = (coverage * np.array(RED) + (1 - coverage) * np.array(GREEN)).round().astype(np.uint8)
    return pixels, (coverage[..., 0] * 255).round().astype(np.uint8)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(width=SIDES, height=SIDES)
def test_any_allowed_size_comes_out_exactly_with_the_top_kept_and_the_middle_in_the_middle(
    width: int, height: int
) -> None:
    native = 512
    ramp = np.arange(native) * 255 / (native - 1)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    source = np.dstack([rows, columns, np.zeros_like(rows)]).round().astype(np.uint8)

    result = np.asarray(
        fit(Image.fromarray(source), frame_of((native, native), width, height, None), width, height)
    ).astype(float)

    assert result.shape == (height, width, 3)
    longer = max(width, height)
    assert result[0, :, 0].max() <= 2  # the first row of the source is the first row of the result
    assert abs(result[-1, :, 0].mean() - 255 * height / longer) <= 2  # cropping took from below only
    assert abs(result[:, width // 2, 1].mean() - 127.5) <= 2
    assert abs((result[:, 0, 1].mean() + result[:, -1, 1].mean()) - 255) <= 3  # as much from the left as from the right


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize(("width", "height"), [(256, 256), (300, 512), (640, 360)])
def test_a_file_has_the_format_and_the_size_that_were_asked_for(
    output_format: OutputFormat, width: int, height: int
) -> None:
    data, thumb = postprocess(noise(256, 256), PostprocessSpec(width, height, output_format=output_format), None)

    picture, small = decode(data), decode(thumb)
    assert (picture.format, picture.mode, picture.size) == (output_format.upper(), "RGB", (width, height))
    assert small.format == "WEBP"
    assert max(small.size) == 256
    assert small.width / small.height == pytest.approx(width / height, rel=0.01)


def test_a_png_at_the_native_size_is_the_generated_picture_bit_for_bit() -> None:
    pixels = noise(256, 320)
    data, _ = postprocess(pixels, PostprocessSpec(320, 256), None)
    assert np.array_equal(np.asarray(decode(data)), pixels)


@pytest.mark.parametrize(("output_format", "tolerance"), [("webp", 4), ("jpeg", 2)])
def test_a_lossy_format_stays_close_to_the_picture(output_format: OutputFormat, tolerance: float) -> None:
    pixels, _ = red_disc_on_green()
    data, _ = postprocess(pixels, PostprocessSpec(256, 256, output_format=output_format), None)
    assert np.abs(np.asarray(decode(data)).astype(float) - pixels).mean() < tolerance


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_a_removed_background_is_transparent_and_the_figure_is_not(output_format: OutputFormat) -> None:
    pixels, alpha = red_disc_on_green()
    data, thumb = postprocess(
        pixels, PostprocessSpec(256, 256, remove_background=True, output_format=output_format), alpha
    )

    for picture in (decode(data), decode(thumb)):
        assert picture.mode == "RGBA"
        assert picture.getpixel((2, 2))[3] == 0
        r, g, b, a = picture.getpixel((picture.width // 2, picture.height // 2))
        assert a == 255
        assert np.abs(np.subtract((r, g, b), RED)).max() <= 6


def test_the_alpha_in_a_png_is_the_one_that_was_given() -> None:
    pixels, alpha = red_disc_on_green()
    data, _ = postprocess(pixels, PostprocessSpec(256, 256, remove_background=True), alpha)
    assert np.array_equal(np.asarray(decode(data))[..., 3], alpha)


@pytest.mark.parametrize("remove_background", [False, True])
@pytest.mark.parametrize("width", [256, 400])
def test_a_background_colour_fills_the_corner_exactly_and_wins_over_transparency(
    width: int, remove_background: bool
) -> None:
    pixels, alpha = red_disc_on_green()
    spec = PostprocessSpec(width, 400, remove_background=remove_background, bg_color=(1, 128, 254))
    picture = decode(postprocess(pixels, spec, alpha)[0])
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (1, 128, 254)


@pytest.mark.parametrize("side", [256, 512, 1024])
@pytest.mark.parametrize("softness", [1.0, 4.0, 10.0])
def test_no_halo_of_the_old_background_is_left_at_a_soft_edge(side: int, softness: float) -> None:
    pixels, alpha = red_disc_on_green(softness=softness)
    picture = np.asarray(decode(postprocess(pixels, PostprocessSpec(side, side, bg_color=BLUE), alpha)[0])).astype(int)
    assert picture[..., 1].max() <= max(RED[1], BLUE[1]) + 12  # neither red nor blue holds more green than 30

    cut = np.asarray(decode(postprocess(pixels, PostprocessSpec(side, side, remove_background=True), alpha)[0])).astype(
        int
    )
    assert cut[cut[..., 3] > 0][:, 1].max() <= RED[1] + 12


def test_an_edge_takes_the_colour_of_the_nearest_part_of_the_figure() -> None:
    pixels, alpha = red_disc_on_green()
    pixels[:, :128][alpha[:, :128] >= 250] = (240, 240, 20)  # the left half of the disc is yellow
    cut = np.asarray(decode(postprocess(pixels, PostprocessSpec(256, 256, remove_background=True), alpha)[0])).astype(
        int
    )
    edge = (cut[128, :, 3] > 20) & (cut[128, :, 3] < 200)
    left, right = cut[128, :128][edge[:128]], cut[128, 128:][edge[128:]]
    assert left[:, 1].min() > 220
    assert right[:, 1].max() < 40


@pytest.mark.parametrize("value", [0, 255, 120])
def test_an_alpha_of_one_value_is_no_special_case(value: int) -> None:
    pixels, _ = red_disc_on_green()
    alpha = np.full((256, 256), value, dtype=np.uint8)
    picture = decode(postprocess(pixels, PostprocessSpec(256, 256, remove_background=True), alpha)[0])
    assert np.unique(np.asarray(picture)[..., 3]).tolist() == [value]


def test_a_nearly_clear_alpha_is_cleared_and_a_nearly_solid_one_made_solid() -> None:
    alpha = decided(np.arange(256, dtype=np.uint8)[None])[0].astype(int)
    assert (alpha[:21].max(), alpha[236:].min()) == (0, 255)
    assert alpha[128] == 128
    assert np.all(np.diff(alpha) >= 0)


def test_a_cut_out_without_an_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        postprocess(noise(256, 256), PostprocessSpec(256, 256, remove_background=True), None)


def test_files_carry_no_metadata_of_ours() -> None:
    for output_format in ("png", "webp", "jpeg"):
        picture = decode(postprocess(noise(256, 256), PostprocessSpec(256, 256, output_format=output_format), None)[0])
        assert not picture.getexif()
        assert "icc_profile" not in picture.info


# The face is whole

FACE: Box = (52, 46, 205, 199)  # as the embedded app draws it, on 256 x 256
SHAPES = [(1536, 256), (256, 1536), (1024, 256), (256, 1024), (768, 512), (512, 768), (640, 360), (512, 512)]


def portrait() -> tuple[Pixels, Alpha]:
    """A red head and shoulders, which the edges cut below, on green that gets darker to the right."""
    y, x = np.mgrid[:256, :256]
    head = np.hypot((x - 128.5) / 80, (y - 115) / 90) <= 1
    shoulders = (y > 200) & (np.abs(x - 128) < 60 + (y - 200) * 2)
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[..., 1] = 240 - x // 4
    pixels[head | shoulders] = RED
    return pixels, ((head | shoulders) * 255).astype(np.uint8)


def is_red(picture: Pixels) -> npt.NDArray[np.bool_]:
    return (picture[..., 0] > 180) & (picture[..., 1] < 80)


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("bg_color", [None, BLUE])
def test_the_head_is_whole_on_a_file_of_any_shape(width: int, height: int, bg_color: Any) -> None:
    pixels, alpha = portrait()
    spec = PostprocessSpec(width, height, bg_color=bg_color)
    given = alpha if needs_alpha((256, 256), spec, FACE) else None
    picture = np.asarray(decode(postprocess(pixels, spec, given, FACE)[0]))
    assert picture.shape == (height, width, 3)
    rows = is_red(picture).nonzero()[0]
    columns = is_red(picture[: rows.min() + (height - rows.min()) // 3]).nonzero()[1]  # of the head, not the shoulders
    assert rows.min() > 0
    assert 0 < columns.min() < columns.max() < width - 1
    assert abs((columns.min() + columns.max()) / 2 - width / 2) < 0.02 * width + 2


@pytest.mark.parametrize(("width", "height"), [(1536, 256), (256, 1536)])
def test_what_is_beside_an_extended_picture_is_its_background_and_nothing_of_the_figure(
    width: int, height: int
) -> None:
    pixels, alpha = portrait()
    picture = np.asarray(decode(postprocess(pixels, PostprocessSpec(width, height), alpha, FACE)[0])).astype(int)
    if width > height:
        left, right = picture[:, :300], picture[:, -300:]
        assert np.abs(left - [0, 240, 0]).max() < 12
        assert np.abs(right - [0, 240 - 255 // 4, 0]).max() < 12
    else:
        assert not is_red(picture[:900]).any()
        assert is_red(picture[-1]).all()  # the shoulders end at the edge, not above it


def test_a_crop_moves_only_as_far_as_the_head_needs_it() -> None:
    assert frame_of((256, 256), 512, 440, FACE) == frame_of((256, 256), 512, 440, None)
    low = (90.0, 150.0, 170.0, 240.0)
    frame = frame_of((256, 256), 512, 300, low)
    assert frame.top + frame.height == pytest.approx(head_of(low, (256, 256))[3])
    aside = (10.0, 60.0, 90.0, 140.0)
    frame = frame_of((256, 256), 300, 512, aside)
    assert (frame.left, frame.top) == (pytest.approx(head_of(aside, (256, 256))[0]), 0)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.tuples(*[st.floats(-50, 300)] * 4))
def test_a_frame_has_the_head_in_it_and_the_shape_that_was_asked_for(width: int, height: int, corners: Any) -> None:
    x0, y0, x1, y1 = corners
    face = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    frame = frame_of((256, 256), width, height, face)
    left, top, right, bottom = head_of(face, (256, 256))
    assert frame.width / frame.height == pytest.approx(width / height)
    assert frame.left - 1e-6 <= left <= right <= frame.left + frame.width + 1e-6
    assert frame.top - 1e-6 <= top <= bottom <= frame.top + frame.height + 1e-6


def test_the_same_picture_gives_the_same_file() -> None:
    pixels, alpha = portrait()
    spec = PostprocessSpec(1536, 256)
    assert postprocess(pixels, spec, alpha, FACE) == postprocess(pixels, spec, alpha, FACE)
