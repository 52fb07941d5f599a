import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from deployments.background.model import RembgModel, open_session
from deployments.config import MattingModelConfig

U2NET_SIDE = 320


def write_u2net(path: Path, threshold: float) -> Path:
    """A file of U2-Net's form, input (1, 3, 320, 320) and first output (1, 1, 320, 320): bright is figure."""
    side = [1, 3, U2NET_SIDE, U2NET_SIDE]
    nodes = [
        helper.make_node("ReduceMean", ["input.1"], ["brightness"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["brightness", "threshold"], ["difference"]),
        helper.make_node("Mul", ["difference", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["mask"]),
    ]
    graph = helper.make_graph(
        nodes,
        "u2net",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, side)],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, U2NET_SIDE, U2NET_SIDE])],
        [
            helper.make_tensor("threshold", TensorProto.FLOAT, [], [threshold]),
            helper.make_tensor("slope", TensorProto.FLOAT, [], [20.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_u2net(tmp_path_factory.mktemp("weights") / "matting.onnx", threshold=0.0)


@pytest.fixture(scope="module")
def model(weights: Path) -> RembgModel:
    return RembgModel(MattingModelConfig(model_path=weights))


@pytest.mark.parametrize(("height", "width"), [(320, 320), (512, 384), (200, 900)])
def test_the_alpha_has_the_size_of_the_picture_and_marks_its_figure(model: RembgModel, height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 20, dtype=np.uint8)
    figure = (slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4))
    pixels[figure] = 240

    alpha = model.alpha(pixels)

    assert alpha.shape == (height, width)
    assert alpha.dtype == np.uint8
    expected = np.zeros((height, width), dtype=bool)
    expected[figure] = True
    assert ((alpha > 127) == expected).mean() > 0.97
    assert alpha[height // 2, width // 2] > 250
    assert alpha[2, 2] < 5


def test_a_picture_of_one_colour_is_all_background_and_raises_no_warning(
    model: RembgModel, recwarn: pytest.WarningsRecorder
) -> None:
    for value in (0, 90, 255):
        assert not model.alpha(np.full((300, 200, 3), value, dtype=np.uint8)).any()
    assert not recwarn.list


def test_the_same_picture_gives_the_same_alpha_with_any_number_of_threads(weights: Path, model: RembgModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    threaded = RembgModel(MattingModelConfig(model_path=weights, threads=2))
    assert np.array_equal(model.alpha(pixels), threaded.alpha(pixels))


@pytest.mark.parametrize("session", ["u2net", "u2netp", "u2net_human_seg", "silueta", "u2net_custom"])
def test_a_session_of_any_name_reads_our_own_file_and_downloads_nothing(
    session: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("pooch.retrieve", refuse)
    opened = RembgModel(MattingModelConfig(session=session, model_path=weights))
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:32] = 255
    alpha = opened.alpha(pixels)
    assert alpha[:28].min() > 200
    assert alpha[36:].max() < 60


def test_the_threads_are_those_of_the_config_whatever_the_environment_says(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    session = open_session(MattingModelConfig(model_path=weights, threads=2))
    assert session.inner_session.get_session_options().intra_op_num_threads == 2
    assert session.inner_session.get_session_options().inter_op_num_threads == 1


@pytest.mark.filterwarnings("ignore:.*CUDAExecutionProvider")
def test_a_provider_that_is_not_to_be_had_is_an_error_and_not_a_slow_session(weights: Path) -> None:
    config = MattingModelConfig(model_path=weights, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        open_session(config)


def test_an_unknown_session_and_a_missing_file_are_named(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ValueError, match=r"no session 'u3net'.*u2net_custom"):
        open_session(MattingModelConfig(session="u3net", model_path=weights))
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        open_session(MattingModelConfig(model_path=tmp_path / "nothing.onnx"))
    with pytest.raises(ValueError, match="model_path"):
        open_session(MattingModelConfig())


def test_importing_the_model_keeps_numba_from_compiling() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    code = "import deployments.background.model, numba; assert numba.config.DISABLE_JIT"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
