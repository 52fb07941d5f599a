import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deployments.background.postprocess import Alpha, decided, fit, postprocess
from deployments.types import OutputFormat, Pixels, PostprocessSpec

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

    result = np.asarray(fit(Image.fromarray(source), width, height)).astype(float)

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
