"""Tiny ONNX models in the formats of InsightFace's packs, made by hand: they know drawn markers, not faces.

A marker is a red square whose shades are its identity. `write_insightface_pack` makes a folder that insightface loads
as one of its own packs; its detector puts a box around each marker, and its recogniser tells shades apart.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from deployments.types import Pixels

DETECTOR, RECOGNISER = "det_10g.onnx", "w600k_r50.onnx"  # as in buffalo_l

STRIDES = (8, 16, 32)
ANCHORS = 2  # a place and stride
KINDS = (("score", 1), ("box", 4), ("landmarks", 10))  # of outputs, and their numbers a row
REACH = 200  # pixels of the input: no larger marker is seen, as SCRFD sees no face that fills its input
RED_MARGIN = 0.5  # how much redder than green and blue a marker's pixel is, 0..1; it is also the score

# Where insightface wants eyes, nose and corners of the mouth in its aligned crop, in parts of the crop's side: so a
# marker's aligned crop is the marker itself.
LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
) / np.float32(112)

SHADES = 4  # a side of a marker; blocks of one colour each
MAX_SHADE = 40  # of 255, in green and blue

# One-dimensional kernels that count marked pixels: to the left and above without the pixel itself, to the right and
# below with it, so that the sums lead exactly to the marker's edges.
COUNTERS: dict[str, npt.NDArray[np.float32]] = {
    "left": np.append(np.ones(REACH), 0).astype(np.float32).reshape(1, 1, 1, -1),
    "top": np.append(np.ones(REACH), 0).astype(np.float32).reshape(1, 1, -1, 1),
    "right": np.ones((1, 1, 1, REACH + 1), dtype=np.float32),
    "bottom": np.ones((1, 1, REACH + 1, 1), dtype=np.float32),
    "one": np.ones((1, 1, 1, 1), dtype=np.float32),
}
PADS = {"left": [0, REACH, 0, 0], "top": [REACH, 0, 0, 0], "right": [0, 0, 0, REACH], "bottom": [0, 0, REACH, 0]}


def marker(side: int, identity: int, red: int = 255) -> Pixels:
    """(side, side, 3) RGB: a face as far as these models know; a smaller `red` gives a lower score."""
    shades = np.random.default_rng(identity).integers(0, MAX_SHADE, (SHADES, SHADES, 3), dtype=np.uint8)
    shades[..., 0] = red
    return np.asarray(Image.fromarray(shades).resize((side, side), Image.Resampling.NEAREST))


def photo_of(*faces: tuple[Pixels, int, int], width: int = 640, height: int = 640) -> Pixels:
    """(h, w, 3): markers, each with its left and top, on grey. They are to share no rows and no columns."""
    pixels = np.full((height, width, 3), 110, dtype=np.uint8)
    for face, left, top in faces:
        pixels[top : top + face.shape[0], left : left + face.shape[1]] = face
    return pixels


def write_insightface_pack(folder: Path) -> None:
    """A folder that `insightface.app.FaceAnalysis(str(folder))` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(detector(), folder / DETECTOR)
    onnx.save(recogniser(), folder / RECOGNISER)


def detector(size: int | None = None) -> onnx.ModelProto:
    """SCRFD's layout: scores, boxes and landmarks of 3 strides, 9 outputs; `size` fixes the input's sides.

    From every place on a marker the red pixels to each side are counted, which gives box and landmarks.
    """
    nodes = [
        helper.make_node("Split", ["input.1"], ["red", "green", "blue"], axis=1),
        helper.make_node("Max", ["green", "blue"], ["other"]),
        helper.make_node("Sub", ["red", "other"], ["excess"], name="excess"),
        helper.make_node("Mul", ["excess", "half"], ["redness"], name="redness"),
        helper.make_node("Greater", ["redness", "margin"], ["is_marker"]),
        helper.make_node("Cast", ["is_marker"], ["marked"], to=TensorProto.FLOAT),
    ]
    constants: dict[str, Any] = {"half": np.float32(0.5), "margin": np.float32(RED_MARGIN), "reach": np.float32(REACH)}
    constants |= COUNTERS | {f"rows_of_{width}": np.array([-1, width]) for _, width in KINDS}
    for stride in STRIDES:
        stride_nodes, stride_constants = _head(stride)
        nodes += stride_nodes
        constants |= stride_constants
    outputs: list[tuple[str, list[int | str]]] = [
        (f"{kind}{stride}", ["n", width]) for kind, width in KINDS for stride in STRIDES
    ]
    shape: list[int | str] = [1, 3, size or "height", size or "width"]
    return graph_model("detector", nodes, ("input.1", shape), outputs, constants)


def _head(stride: int) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """The nodes from the marked pixels to one stride's three outputs, and their constants."""
    counts = [f"{side}{stride}" for side in PADS]
    nodes = [
        helper.make_node("Conv", ["marked", side], [count], pads=pads, strides=[stride, stride])
        for (side, pads), count in zip(PADS.items(), counts, strict=True)
    ]
    nodes += [
        helper.make_node("Conv", ["redness", "one"], [f"here{stride}"], strides=[stride, stride]),
        helper.make_node("Conv", ["marked", "one"], [f"on{stride}"], strides=[stride, stride]),
        helper.make_node("Max", counts, [f"farthest{stride}"]),
        helper.make_node("Less", [f"farthest{stride}", "reach"], [f"seen{stride}"]),
        helper.make_node("Cast", [f"seen{stride}"], [f"whole{stride}"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"here{stride}", f"on{stride}"], [f"certain{stride}"]),
        helper.make_node("Mul", [f"certain{stride}", f"whole{stride}"], [f"scores{stride}"]),
        helper.make_node("Concat", counts, [f"sides{stride}"], axis=1),
        helper.make_node("Conv", [f"sides{stride}", f"to_boxes{stride}"], [f"boxes{stride}"]),
        helper.make_node("Conv", [f"sides{stride}", f"to_points{stride}"], [f"points{stride}"]),
    ]
    for maps, (output, width) in zip(("scores", "boxes", "points"), KINDS, strict=True):
        nodes += _rows(f"{maps}{stride}", f"{output}{stride}", width)
    weights = {f"to_boxes{stride}": np.eye(4), f"to_points{stride}": landmark_weights()}
    # insightface takes all distances in strides
    return nodes, {key: (weight / stride).astype(np.float32)[..., None, None] for key, weight in weights.items()}


def landmark_weights() -> npt.NDArray[np.float64]:
    """(10, 4): x and y of each landmark from the place, by its distances to left, top, right and bottom."""
    weights = np.zeros((10, 4))
    for point, (x, y) in enumerate(LANDMARKS):
        weights[2 * point, [0, 2]] = x - 1, x
        weights[2 * point + 1, [1, 3]] = y - 1, y
    return weights


def _rows(maps: str, output: str, width: int) -> Sequence[onnx.NodeProto]:
    """(1, width, h, w) -> (h * w * anchors, width), the anchors of a place beside one another."""
    return [
        helper.make_node("Concat", [maps] * ANCHORS, [f"{maps}_anchors"], axis=1),
        helper.make_node("Transpose", [f"{maps}_anchors"], [f"{maps}_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{maps}_last", f"rows_of_{width}"], [output]),
    ]


def recogniser(length: int = 512, batch: int | str = "n") -> onnx.ModelProto:
    """ArcFace's layout, (n, 3, 112, 112) -> (n, 512): the mean shade of each block, spread over all numbers."""
    weight = np.random.default_rng(0).normal(size=(3 * SHADES**2, length)).astype(np.float32)
    middle = np.repeat([1.0, MAX_SHADE / 255 - 1, MAX_SHADE / 255 - 1], SHADES**2).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["blocks"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["683"]),
    ]
    constants = {"weight": weight, "bias": -middle @ weight}
    outputs = [("683", [1, length])]  # as the packs have it, though they take any number
    return graph_model("recogniser", nodes, ("input.1", [batch, 3, 112, 112]), outputs, constants)


def graph_model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    source: tuple[str, Sequence[int | str]],
    outputs: Iterable[tuple[str, Sequence[int | str]]],
    constants: dict[str, Any],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, source[1])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape) for output, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model
