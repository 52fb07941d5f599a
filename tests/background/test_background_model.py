import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from deployments.background.deployment import BackgroundRemover
from deployments.background.model import ARCHITECTURES, RembgModel, open_session
from deployments.config import BackgroundRemoverConfig, MattingModelConfig
from deployments.types import Alpha, GeneratedImage, GenerationMetadata, Pixels, PostprocessSpec
from tests.support.matting_models import write_model
from tests.support.polling import eventually
from tests.support.tolerance import ONE_LEVEL

U2NETS = ["u2net", "u2netp", "u2net_human_seg", "silueta", "u2net_custom"]
ISNETS = ["isnet-general-use", "isnet-anime", "dis_custom"]
BIREFNETS = ["birefnet-general-lite", "birefnet-general", "birefnet-portrait"]


@pytest.fixture(scope="module")
def u2net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("u2net") / "net.onnx", side=320, outputs=7, sigmoid=True)


@pytest.fixture(scope="module")
def isnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("isnet") / "net.onnx", side=1024, outputs=6, sigmoid=True)


@pytest.fixture(scope="module")
def birefnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("birefnet") / "net.onnx", side=1024, outputs=1, sigmoid=False)


@pytest.fixture(params=[*U2NETS, *ISNETS, *BIREFNETS])
def config(request: pytest.FixtureRequest) -> MattingModelConfig:
    """A session of rembg's on a file of its net's form."""
    name = request.param
    net = "u2net" if name in U2NETS else "isnet" if name in ISNETS else "birefnet"
    return MattingModelConfig(session=name, model_path=request.getfixturevalue(net))


@pytest.fixture(scope="module")
def model(u2net: Path) -> RembgModel:
    return RembgModel(MattingModelConfig(model_path=u2net))


def picture(height: int, width: int) -> Pixels:
    """(height, width, 3): a bright figure in the middle of a dark background, both uneven."""
    pixels = np.random.default_rng(0).integers(0, 40, (height, width, 3), dtype=np.uint8)
    pixels[figure(height, width)] += 200
    return pixels


def figure(height: int, width: int) -> tuple[slice, slice]:
    return slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4)


@pytest.mark.parametrize(("height", "width"), [(320, 320), (512, 384), (200, 900)])
def test_the_alpha_has_the_size_of_the_picture_and_marks_its_figure(model: RembgModel, height: int, width: int) -> None:
    alpha = model.alpha(picture(height, width))

    assert alpha.shape == (height, width)
    assert alpha.dtype == np.uint8
    expected = np.zeros((height, width), dtype=bool)
    expected[figure(height, width)] = True
    assert ((alpha > 127) == expected).mean() > 0.97
    assert alpha[height // 2, width // 2] > 240
    assert alpha[2, 2] < 15


def test_each_session_gives_what_rembg_itself_gives_and_downloads_nothing(
    config: MattingModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rembg  # not above: it has to come after the module that keeps numba from compiling

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("pooch.retrieve", refuse)
    pixels = picture(300, 200)
    alpha = RembgModel(config).alpha(pixels)

    # rembg's own way to a file: by name in its home, or by a path within that.
    home = tmp_path / "home"
    home.mkdir()
    file = home / f"{config.session}.onnx"
    file.write_bytes(config.model_path.read_bytes())
    monkeypatch.setenv("U2NET_HOME", str(home))
    session = rembg.new_session(config.session, providers=["CPUExecutionProvider"], model_path=str(file))
    assert np.array_equal(alpha, np.asarray(rembg.remove(Image.fromarray(pixels), session=session, only_mask=True)))
    assert alpha[150, 100] > 200
    assert alpha[5, 5] < 100


def test_a_picture_of_one_colour_is_all_background_and_raises_no_warning(
    config: MattingModelConfig, recwarn: pytest.WarningsRecorder
) -> None:
    model = RembgModel(config)
    for value in (0, 90, 255):
        assert not model.alpha(np.full((30, 20, 3), value, dtype=np.uint8)).any()
    assert not recwarn.list


def test_a_net_that_is_sure_beyond_what_an_exponential_holds_raises_no_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = write_model(tmp_path / "sure.onnx", side=1024, outputs=1, sigmoid=False, slope=1000.0)
    alpha = RembgModel(MattingModelConfig(session="birefnet-general-lite", model_path=path)).alpha(picture(64, 64))
    assert (alpha[2, 2], alpha[32, 32]) == (0, 255)
    assert not recwarn.list


def test_the_same_picture_gives_the_same_alpha_with_any_number_of_threads(u2net: Path, model: RembgModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    threaded = RembgModel(MattingModelConfig(model_path=u2net, threads=2))
    # Threads may share a sum, and a value may lie on the edge between two levels.
    assert np.abs(model.alpha(pixels).astype(int) - threaded.alpha(pixels)).max() <= ONE_LEVEL


def test_the_threads_are_those_of_the_config_whatever_the_environment_says(
    u2net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    session = open_session(MattingModelConfig(model_path=u2net, threads=2))
    assert session.inner_session.get_session_options().intra_op_num_threads == 2
    assert session.inner_session.get_session_options().inter_op_num_threads == 1


@pytest.mark.filterwarnings("ignore:.*CUDAExecutionProvider")
def test_a_provider_that_is_not_to_be_had_is_an_error_and_not_a_slow_session(config: MattingModelConfig) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    wanted = config.model_copy(update={"providers": ("CUDAExecutionProvider", "CPUExecutionProvider")})
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        open_session(wanted)


@pytest.mark.parametrize("session", ["u3net", "sam", "u2net_cloth_seg", "withoutbg", "atlascloud"])
def test_a_session_that_is_unknown_or_gives_no_mask_of_one_picture_here_is_refused(session: str, u2net: Path) -> None:
    with pytest.raises(ValueError, match=rf"no session '{session}'.*u2net_custom"):
        open_session(MattingModelConfig(session=session, model_path=u2net))


def test_the_sessions_of_the_catalogues_files_are_there() -> None:
    assert {"birefnet-general-lite", "isnet-general-use", "u2net"} <= ARCHITECTURES.keys()


def test_a_file_that_is_missing_or_not_whole_is_named(tmp_path: Path, u2net: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        open_session(MattingModelConfig(model_path=tmp_path / "nothing.onnx"))
    split = tmp_path / "split.onnx"
    onnx.save(onnx.load(u2net), split, save_as_external_data=True, size_threshold=0, location="weights")
    with pytest.raises(ValueError, match=r"split\.onnx keeps weights in another file"):
        open_session(MattingModelConfig(model_path=split))


def test_importing_the_model_keeps_numba_from_compiling() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    code = "import deployments.background.model, numba; assert numba.config.DISABLE_JIT"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("cuts_out", [True, False])
def test_a_file_with_another_background_says_which_weights_found_it(u2net: Path, cuts_out: bool) -> None:
    remover = BackgroundRemover(BackgroundRemoverConfig(model=MattingModelConfig(model_path=u2net)))
    drawn_with = GenerationMetadata("m", {"unet": "ab"}, "Euler", {}, 1.0, None, "float32", "cpu", {})
    image = GeneratedImage(picture(64, 64), runtime_s=1, startup_s=0, drawn_with=drawn_with)
    avatar = asyncio.run(remover.postprocess(image, PostprocessSpec(64, 64, remove_background=cuts_out)))
    assert avatar.drawn_with is not None
    named = {f"background/{u2net.name}": hashlib.sha256(u2net.read_bytes()).hexdigest()} if cuts_out else {}
    assert avatar.drawn_with.weights == {"unet": "ab"} | named


class CountedModel:
    """A model that notes how many runs it has at once; each waits until it is let go."""

    def __init__(self, model: RembgModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._at_once = 0
        self.go = threading.Event()
        self.runs = self.most_at_once = 0

    def alpha(self, pixels: Pixels) -> Alpha:
        with self._lock:
            self.runs += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.go.wait(30)
        try:
            return self._model.alpha(pixels)
        finally:
            with self._lock:
                self._at_once -= 1


@pytest.mark.parametrize("max_runs", [1, 2])
def test_however_many_wait_the_model_has_few_runs_at_once_and_none_for_those_that_left(
    u2net: Path, model: RembgModel, monkeypatch: pytest.MonkeyPatch, max_runs: int
) -> None:
    remover = BackgroundRemover(BackgroundRemoverConfig(model=MattingModelConfig(model_path=u2net), max_runs=max_runs))
    counted = CountedModel(model)
    monkeypatch.setattr(remover, "_model", counted)
    image = GeneratedImage(picture(64, 64), runtime_s=1, startup_s=0)
    cut, whole = (PostprocessSpec(64, 64, remove_background=removed) for removed in (True, False))

    async def all_runs_taken() -> bool:
        return counted.runs == max_runs

    async def scenario() -> None:
        waiting = [asyncio.create_task(remover.postprocess(image, cut)) for _ in range(8)]
        await asyncio.wait_for(eventually(all_runs_taken), 30)
        await remover.postprocess(image, whole)  # overtakes those that wait for the model
        waiting.pop().cancel()
        counted.go.set()
        avatars = await asyncio.gather(*waiting)
        assert all(avatar.finish_s > 0 for avatar in avatars)

    asyncio.run(scenario())
    assert counted.most_at_once == max_runs
    assert counted.runs == 7
