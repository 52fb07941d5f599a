import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deployments.common.onnx_session import (
    lost_provider_errors,
    provider_list,
    require_provider,
    require_self_contained,
    responds,
    session_options,
)
from deployments.errors import DeviceLostError
from tests.support.lost_devices import LostOnnxDevice

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
AZURE = "AzureExecutionProvider"  # needs no device, and lets the CPU do everything


ORT_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def graph(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], output: str = "y") -> onnx.GraphProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])]
    return helper.make_graph(
        nodes, "graph", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, [4])], weights
    )


def saved(contents: onnx.GraphProto, path: Path) -> Path:
    """Written as it is: `onnx.save` would look for the other files."""
    model = helper.make_model(contents, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def in_another_file(weight: onnx.TensorProto) -> onnx.TensorProto:
    onnx.external_data_helper.set_external_data(weight, "weights.bin")
    weight.ClearField("raw_data")
    return weight


@pytest.fixture
def weight() -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(4, dtype=np.float32), "w")


def test_a_model_that_is_one_file_passes(tmp_path: Path, weight: onnx.TensorProto) -> None:
    path = saved(graph([helper.make_node("Add", ["x", "w"], ["y"])], [weight]), tmp_path / "model.onnx")
    require_self_contained(path)
    session = onnxruntime.InferenceSession(str(path), session_options(1), providers=provider_list([CPU]))
    require_provider(session, [CPU])


@pytest.mark.parametrize("content", ["<html>Not found</html>", "version https://git-lfs.github.com/spec/v1"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.onnx").write_text(content)
    with pytest.raises(ValueError, match=r"model\.onnx is not an ONNX file"):
        require_self_contained(tmp_path / "model.onnx")


def test_weights_in_another_file_are_refused(tmp_path: Path, weight: onnx.TensorProto) -> None:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    path = saved(graph([add], [in_another_file(weight)]), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model\.onnx keeps weights in another file"):
        require_self_contained(path)


def test_a_constant_in_another_file_is_refused_however_deep_it_lies(tmp_path: Path, weight: onnx.TensorProto) -> None:
    inner = graph([helper.make_node("Constant", [], ["z"], value=in_another_file(weight))], [], "z")
    del inner.input[:]
    condition = numpy_helper.from_array(np.array(True), "condition")
    branches = {"then_branch": inner, "else_branch": inner}
    path = saved(graph([helper.make_node("If", ["condition"], ["y"], **branches)], [condition]), tmp_path / "if.onnx")
    with pytest.raises(ValueError, match="another file"):
        require_self_contained(path)


def test_a_session_on_another_provider_than_the_first_is_an_error(tmp_path: Path, weight: onnx.TensorProto) -> None:
    path = saved(graph([helper.make_node("Add", ["x", "w"], ["y"])], [weight]), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=[CPU])
    with pytest.raises(RuntimeError, match=f"{CUDA} was asked for, but onnxruntime runs on {CPU}"):
        require_provider(session, [CUDA, CPU])


def test_a_session_runs_one_operator_at_a_time_on_so_many_threads() -> None:
    options = session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_gpu_memory_is_limited_in_bytes_and_only_on_cuda() -> None:
    assert provider_list([CUDA, CPU]) == [CUDA, CPU]
    assert provider_list([CPU], gpu_memory_mb=512) == [CPU]
    cuda, cpu = provider_list([CUDA, CPU], gpu_memory_mb=512)
    assert cpu == CPU
    assert isinstance(cuda, tuple)
    name, options = cuda
    assert name == CUDA
    assert options["gpu_mem_limit"] == str(512 * 1024 * 1024)


@pytest.fixture
def session(tmp_path: Path, weight: onnx.TensorProto) -> onnxruntime.InferenceSession:
    path = saved(graph([helper.make_node("Add", ["x", "w"], ["y"])], [weight]), tmp_path / "model.onnx")
    return onnxruntime.InferenceSession(str(path), providers=[AZURE, CPU])


def add(session: onnxruntime.InferenceSession) -> None:
    with lost_provider_errors([session], [AZURE, CPU]):
        session.run(["y"], {"x": np.zeros(4, np.float32)})


def test_a_session_that_onnxruntime_moved_to_the_cpu_has_lost_its_device(
    session: onnxruntime.InferenceSession,
) -> None:
    add(session)
    session._sess = LostOnnxDevice(session._sess)  # onnxruntime answers by opening the session again on the CPU
    with pytest.raises(DeviceLostError, match=f"left {AZURE} for {CPU}"):
        add(session)
    session.run(["y"], {"x": np.zeros(4, np.float32)})  # as it would have gone on


def test_an_error_of_a_device_that_still_computes_is_not_a_loss(session: onnxruntime.InferenceSession) -> None:
    session.disable_fallback()
    session._sess = LostOnnxDevice(session._sess)
    with pytest.raises(Exception, match="CUDA failure 700") as caught:
        add(session)
    assert not isinstance(caught.value, DeviceLostError)


def test_an_error_of_a_device_that_computes_no_more_is_a_loss(
    session: onnxruntime.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.disable_fallback()
    session._sess = LostOnnxDevice(session._sess)

    def dead(*_arguments: object, **_named: object) -> None:
        raise RuntimeError("CUDA failure 999: unknown error")

    monkeypatch.setattr(onnxruntime, "InferenceSession", dead)
    with pytest.raises(DeviceLostError, match="does not respond"):
        add(session)


def test_a_mistake_in_the_input_is_not_a_loss(session: onnxruntime.InferenceSession) -> None:
    with pytest.raises(Exception, match="Unexpected input data type"), lost_provider_errors([session], [AZURE]):
        session.run(["y"], {"x": np.zeros(4, np.int64)})


def test_a_provider_responds_where_it_computes() -> None:
    assert responds(CPU)
    assert responds(AZURE)
    assert not responds(CUDA)  # which this onnxruntime does not have


def test_onnxruntime_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    """It keeps its reports, and an id of the machine, in the home until they are sent."""
    program = """
from deployments.config import CascadeFaceModelConfig
from deployments.face.model import open_session

open_session(CascadeFaceModelConfig(), CascadeFaceModelConfig().encoder)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", ORT_TELEMETRY)}

    def files_of(home: str, **more: str) -> list[Path]:
        folder = tmp_path / home
        folder.mkdir()
        subprocess.run([sys.executable, "-c", program], env={**environment, "HOME": str(folder), **more}, check=True)
        return [path for path in folder.rglob("*") if "onnxruntime" in path.name]

    assert files_of("usual") == []
    assert files_of("reporting", **{ORT_TELEMETRY: "0"})
