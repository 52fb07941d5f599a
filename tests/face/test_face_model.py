import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
from onnx import TensorProto, helper
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from deployments.config import CascadeFaceModelConfig
from deployments.embedded.training.renderer.photo import render_photo
from deployments.embedded.training.renderer.population import random_portrait
from deployments.errors import NoFaceError
from deployments.face.cascade import warmth
from deployments.face.detection import Detection
from deployments.face.model import CascadeFaceModel, open_search, open_session
from deployments.face.similarity import face_similarity
from deployments.types import FaceEmbedding, Photo, Pixels
from tests.support.photos import insightface_images

SKIMAGE = Path(skimage.data.__file__).parent
INSIGHTFACE = insightface_images()

# file -> x0, y0, x1, y1 of the part of the picture where the middle of its one face lies
FACES = {
    SKIMAGE / "astronaut.png": (195, 85, 255, 150),
    INSIGHTFACE / "Tom_Hanks_54745.png": (40, 35, 80, 85),
}
FACELESS = (
    "chelsea",
    "chessboard_RGB",
    "coffee",
    "coins",
    "color",
    "horse",
    "ihc",
    "motorcycle_left",
    "phantom",
    "text",
)


SEARCH = open_search(CascadeFaceModelConfig())


def find_faces(pixels: Pixels) -> list[Detection]:
    return SEARCH.find(pixels).faces


def load(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file)


def scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.resize(
        (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC
    )


def turned(degrees: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.rotate(degrees, Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda picture: picture,
    "half": scaled(0.5),
    "triple": scaled(3.0),
    "dark": lambda picture: ImageEnhance.Brightness(picture).enhance(0.4),
    "bright": lambda picture: ImageEnhance.Brightness(picture).enhance(1.4),
    "pale": lambda picture: ImageEnhance.Contrast(picture).enhance(0.5),
    "grey": lambda picture: picture.convert("L"),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 300)),
    "jpeg": jpeg,
    "turned by 8": turned(8),
    "turned by -15": turned(-15),
    "turned by 15": turned(15),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("path", FACES, ids=lambda path: path.stem)
def test_the_face_of_a_real_photo_is_found_however_the_photo_was_treated(path: Path, change: str) -> None:
    picture = load(path)
    changed = CHANGES[change](picture).convert("RGB")

    faces = find_faces(np.asarray(changed))

    assert len(faces) >= 1
    scale = changed.width / picture.width
    x0, y0, x1, y1 = (value * scale for value in FACES[path])
    x, y = (faces[0].box[0] + faces[0].box[2]) / 2, (faces[0].box[1] + faces[0].box[3]) / 2
    if change.startswith("turned"):  # about the middle of the picture, which takes the face along a little
        shift = 0.13 * changed.width
        x0, y0, x1, y1 = x0 - shift, y0 - shift, x1 + shift, y1 + shift
    assert x0 < x < x1
    assert y0 < y < y1
    assert 0.5 <= faces[0].score <= 1


def test_several_people_are_counted_and_the_largest_comes_first() -> None:
    faces = find_faces(np.asarray(load(INSIGHTFACE / "t1.jpg")))
    assert 3 <= len(faces) <= 6
    assert [face.side for face in faces] == sorted((face.side for face in faces), reverse=True)


def test_a_portrait_that_the_face_fills_is_found() -> None:
    face = load(SKIMAGE / "astronaut.png").crop((165, 55, 285, 185)).resize((720, 780), Image.Resampling.BICUBIC)
    (found, *_) = find_faces(np.asarray(face))
    assert found.side > 400


def test_a_small_face_in_a_large_photo_is_found() -> None:
    photo = Image.new("RGB", (1536, 1536), (90, 110, 120))
    photo.paste(load(SKIMAGE / "astronaut.png"), (900, 300))
    (found, *_) = find_faces(np.asarray(photo))
    assert 1095 < (found.box[0] + found.box[2]) / 2 < 1155
    assert 385 < (found.box[1] + found.box[3]) / 2 < 450


@pytest.mark.parametrize("name", FACELESS)
def test_a_photo_without_a_face_shows_none(name: str) -> None:
    assert find_faces(np.asarray(load(SKIMAGE / f"{name}.png"))) == []


@pytest.mark.parametrize("name", ["retina.jpg", "rocket.jpg"])
def test_a_large_photo_without_a_face_shows_none(name: str) -> None:
    assert find_faces(np.asarray(load(SKIMAGE / name))) == []


def shapes() -> Image.Image:
    picture = Image.new("RGB", (400, 300), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((40, 40, 160, 200), fill="red")
    draw.ellipse((200, 60, 340, 200), fill="blue", outline="black")
    draw.polygon([(100, 280), (200, 150), (300, 280)], fill="green")
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        Image.effect_noise((512, 512), 80).convert("RGB"),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)),
        Image.linear_gradient("L").convert("RGB"),
        Image.radial_gradient("L").convert("RGB"),
        Image.new("RGB", (640, 480), (224, 172, 140)),
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (2000, 3)),
        shapes(),
    ],
    ids=["noise", "colour noise", "gradient", "radial gradient", "one skin colour", "a pixel", "a line", "shapes"],
)
def test_what_is_no_photo_at_all_shows_no_face(picture: Image.Image) -> None:
    assert find_faces(np.asarray(picture)) == []


def test_drawn_portraits_of_every_skin_are_seen() -> None:
    found = []
    for seed in range(16):
        portrait = random_portrait(np.random.default_rng(seed))
        faces = find_faces(np.asarray(render_photo(portrait, np.random.default_rng(seed), 256).picture))
        found.append((sum(portrait.skin) < 330, bool(faces)))
    assert np.mean([seen for _, seen in found]) >= 0.8
    assert np.mean([seen for dark, seen in found if dark]) >= 0.7  # luminance alone sees a third of these


def test_warmth_orders_skin_over_hair_and_whites_for_every_skin() -> None:
    for skin in ((252, 222, 200), (203, 148, 106), (80, 51, 38)):
        pixels = np.array([[skin, (30, 26, 25), (245, 245, 245), (40, 90, 50)]], dtype=np.uint8)
        values = np.asarray(warmth(pixels))[0]
        assert values[0] > 3 * max(values[1:])


def test_the_same_photo_gives_the_same_faces_every_time() -> None:
    pixels = np.asarray(load(INSIGHTFACE / "t1.jpg"))
    assert find_faces(pixels) == find_faces(pixels)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder's form with known contents: the mean of each 28x28 block, spread to 512 numbers and normalised."""
    weight = np.random.default_rng(0).normal(size=(48, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["spread"]),
        helper.make_node("LpNormalization", ["spread"], ["embedding"], axis=1, p=2),
        helper.make_node("Identity", ["flat"], ["attributes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [
            helper.make_tensor_value_info("attributes", TensorProto.FLOAT, ["n", 48]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 512]),
        ],
        [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.ravel())],
    )
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def model(encoder: Path) -> CascadeFaceModel:
    return CascadeFaceModel(CascadeFaceModelConfig(encoder=encoder))


@pytest.fixture(scope="module")
def astronaut() -> Photo:
    return Photo(np.asarray(load(SKIMAGE / "astronaut.png")))


@pytest.fixture(scope="module")
def actor() -> Photo:
    return Photo(np.asarray(load(INSIGHTFACE / "Tom_Hanks_54745.png")))


def test_a_bad_photo_in_a_batch_does_not_fail_its_neighbours_and_all_stay_in_order(
    model: CascadeFaceModel, astronaut: Photo, actor: Photo
) -> None:
    coffee = Photo(np.asarray(load(SKIMAGE / "coffee.png")))
    first, second, third = model.embed([astronaut, coffee, actor])

    assert isinstance(first, FaceEmbedding)
    assert isinstance(second, NoFaceError)
    assert isinstance(third, FaceEmbedding)
    assert first.vector.shape == third.vector.shape == (512,)
    assert first.vector.dtype == np.float32
    assert np.linalg.norm(first.vector) == pytest.approx(1, abs=1e-5)
    for together, photo in ((first, astronaut), (third, actor)):
        (alone,) = model.embed([photo])
        assert isinstance(alone, FaceEmbedding)
        assert np.array_equal(together.vector, alone.vector)
        assert together.box == alone.box


def test_a_face_says_what_it_was_read_with(model: CascadeFaceModel, encoder: Path, astronaut: Photo) -> None:
    (face,) = model.embed([astronaut])
    assert isinstance(face, FaceEmbedding)
    assert face.weights["face/encoder.onnx"] == hashlib.sha256(encoder.read_bytes()).hexdigest()
    assert sorted(face.weights) == [f"face/{name}.onnx" for name in ("encoder", "finder", "likeness", "verifier")]


def test_likeness_is_read_by_a_network_of_its_own_or_by_none(encoder: Path, astronaut: Photo, actor: Photo) -> None:
    model = CascadeFaceModel(CascadeFaceModelConfig(encoder=encoder))
    one, other = model.embed([astronaut, actor])
    assert isinstance(one, FaceEmbedding)
    assert isinstance(other, FaceEmbedding)
    assert one.likeness is not None
    assert other.likeness is not None
    assert np.linalg.norm(one.likeness) == pytest.approx(1, abs=1e-5)
    assert face_similarity(one, other) == pytest.approx(float(one.likeness @ other.likeness))
    (without,) = CascadeFaceModel(CascadeFaceModelConfig(encoder=encoder, likeness=None)).embed([astronaut])
    assert isinstance(without, FaceEmbedding)
    assert without.likeness is None
    assert np.array_equal(without.vector, one.vector)
    assert face_similarity(without, other) == pytest.approx(float(without.vector @ other.vector), abs=1e-6)


def test_no_photos_give_no_results(model: CascadeFaceModel) -> None:
    assert model.embed([]) == []


def test_a_photo_without_a_face_is_told_what_would_be_accepted(model: CascadeFaceModel) -> None:
    (error,) = model.embed([Photo(np.full((300, 300, 3), 128, dtype=np.uint8))])
    assert isinstance(error, NoFaceError)
    assert error.data["message"] == "no face found"
    assert error.data["faces_found"] == 0
    assert error.data["accepted"]["min_face_px"] == 48
    assert error.data["accepted"]["pose"] == "frontal"


def test_a_face_that_is_too_small_says_how_large_it_is(encoder: Path, astronaut: Photo) -> None:
    strict = CascadeFaceModel(CascadeFaceModelConfig(encoder=encoder, min_face_px=200))
    (error,) = strict.embed([astronaut])
    assert isinstance(error, NoFaceError)
    assert error.data["message"] == "face too small"
    assert error.data["faces_found"] == 1
    assert 80 <= error.data["largest_face_px"] <= 130
    assert error.data["accepted"]["min_face_px"] == 200


def test_the_embedding_is_of_the_largest_face_wherever_it_is(model: CascadeFaceModel, astronaut: Photo) -> None:
    two = Image.new("RGB", (900, 512), (90, 110, 120))
    two.paste(Image.fromarray(astronaut.pixels), (388, 0))
    two.paste(Image.fromarray(astronaut.pixels).resize((300, 300)), (0, 100))
    (alone,), (among,) = model.embed([astronaut]), model.embed([Photo(np.asarray(two))])
    assert isinstance(alone, FaceEmbedding)
    assert isinstance(among, FaceEmbedding)
    assert among.box[0] > 388
    assert float(alone.vector @ among.vector) > 0.9


def test_an_avatar_is_read_where_the_app_draws_faces_and_a_photo_is_not(encoder: Path, astronaut: Photo) -> None:
    told = CascadeFaceModel(CascadeFaceModelConfig(encoder=encoder, avatar_face=(0.2, 0.1, 0.8, 0.7)))
    nothing = np.full((200, 200, 3), 128, dtype=np.uint8)
    avatar, without_face, photo = told.embed([Photo(nothing, is_generated=True), Photo(nothing), astronaut])
    assert isinstance(avatar, FaceEmbedding)
    assert avatar.box == pytest.approx((40, 20, 160, 140))
    assert isinstance(without_face, NoFaceError)
    assert isinstance(photo, FaceEmbedding)
    assert photo.box[0] > 100


def test_the_face_of_an_avatar_that_is_not_square_is_looked_for(encoder: Path) -> None:
    told = CascadeFaceModel(CascadeFaceModelConfig(encoder=encoder, avatar_face=(0.2, 0.1, 0.8, 0.7)))
    (wide,) = told.embed([Photo(np.full((200, 300, 3), 128, dtype=np.uint8), is_generated=True)])
    assert isinstance(wide, NoFaceError)


def test_similarity_is_the_cosine() -> None:
    def face(*values: float) -> FaceEmbedding:
        vector = np.zeros(512, dtype=np.float32)
        vector[: len(values)] = values
        return FaceEmbedding(vector, (0, 0, 1, 1), 1.0)

    assert face_similarity(face(1), face(1)) == 1
    assert face_similarity(face(1), face(-1)) == -1
    assert face_similarity(face(1), face(0, 1)) == 0
    assert face_similarity(face(1), face(0.6, 0.8)) == pytest.approx(0.6)


def test_the_same_person_is_more_similar_to_herself_than_to_another(
    model: CascadeFaceModel, astronaut: Photo, actor: Photo
) -> None:
    darker = Photo(np.asarray(ImageEnhance.Brightness(Image.fromarray(astronaut.pixels)).enhance(0.8)))
    a, b, c = model.embed([astronaut, darker, actor])
    assert isinstance(a, FaceEmbedding)
    assert isinstance(b, FaceEmbedding)
    assert isinstance(c, FaceEmbedding)
    assert face_similarity(a, b) > face_similarity(a, c)


def test_threads_and_provider_are_those_of_the_config(encoder: Path) -> None:
    session = open_session(CascadeFaceModelConfig(threads=2), encoder)
    assert session.get_session_options().intra_op_num_threads == 2
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.filterwarnings("ignore:.*CUDAExecutionProvider")
def test_a_gpu_that_is_not_there_is_an_error_and_not_a_slow_session(encoder: Path) -> None:
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        open_session(CascadeFaceModelConfig(providers=("CUDAExecutionProvider", "CPUExecutionProvider")), encoder)
