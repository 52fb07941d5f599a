"""Files of matting nets' form."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(path: Path, *, side: int, outputs: int, sigmoid: bool, slope: float = 20.0) -> Path:
    """A file of a matting net's form, (1, 3, side, side) -> `outputs` of (1, 1, side, side): bright is figure.

    The first output is the mask; the others, which the nets have from their training, are the opposite of it.
    """
    names = ["mask", *(f"side{index}" for index in range(1, outputs))]
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["brightness"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["brightness", "slope"], ["logit"]),
        helper.make_node("Sigmoid" if sigmoid else "Identity", ["logit"], ["mask"]),
        *(helper.make_node("Neg", ["mask"], [name]) for name in names[1:]),
    ]
    graph = helper.make_graph(
        nodes,
        "matting",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side]) for name in names],
        [numpy_helper.from_array(np.float32(slope), "slope")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
