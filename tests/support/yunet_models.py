"""Tiny ONNX models in the formats of YuNet, AuraFace and SFace, which know the markers of `onnx_models`, not faces."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.onnx_models import (
    COUNTERS,
    MAX_SHADE,
    PADS,
    REACH,
    RED_MARGIN,
    SHADES,
    STRIDES,
    graph_model,
    landmark_weights,
    recogniser,
)

DETECTOR, AURAFACE, SFACE = "face_detection_yunet_2023mar.onnx", "glintr100.onnx", "face_recognition_sface_2021dec.onnx"
SIDE = 640
KINDS = (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))  # of outputs, and their numbers a place
OBJECTNESS = 0.9  # of every whole marker


def write_open_face(folder: Path) -> None:
    """A detector and both recognisers, under their published names."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(yunet(), folder / DETECTOR)
    onnx.save(recogniser(), folder / AURAFACE)
    onnx.save(sface(), folder / SFACE)


def yunet(size: int | str = SIDE) -> onnx.ModelProto:
    """YuNet's layout, BGR from 0 to 255: for each stride a map of classes, of objectness, of boxes, of landmarks.

    From every place on a marker the red pixels to each side are counted, which gives box and landmarks.
    """
    nodes = [
        helper.make_node("Split", ["input"], ["blue", "green", "red"], axis=1),
        helper.make_node("Max", ["green", "blue"], ["other"]),
        helper.make_node("Sub", ["red", "other"], ["excess"]),
        helper.make_node("Mul", ["excess", "byte"], ["redness"]),
        helper.make_node("Greater", ["redness", "margin"], ["is_marker"]),
        helper.make_node("Cast", ["is_marker"], ["marked"], to=TensorProto.FLOAT),
    ]
    constants: dict[str, Any] = {"byte": np.float32(1 / 255), "margin": np.float32(RED_MARGIN)}
    constants |= {"reach": np.float32(REACH), "objectness": np.float32(OBJECTNESS), "least": np.float32(1)}
    constants |= COUNTERS | {f"rows_of_{width}": np.array([1, -1, width]) for _, width in KINDS}
    for stride in STRIDES:
        nodes += _head(stride)
        constants |= _weights(stride)
    outputs: list[tuple[str, list[int | str]]] = [
        (f"{kind}_{stride}", [1, (SIDE // stride) ** 2 if size == SIDE else "n", width])
        for kind, width in KINDS
        for stride in STRIDES
    ]
    return graph_model("yunet", nodes, ("input", [1, 3, size, size]), outputs, constants)


def _head(stride: int) -> list[onnx.NodeProto]:
    """The nodes from the marked pixels to one stride's four outputs."""
    counts = [f"{side}{stride}" for side in PADS]
    nodes = [
        helper.make_node("Conv", ["marked", side], [count], pads=pads, strides=[stride, stride])
        for (side, pads), count in zip(PADS.items(), counts, strict=True)
    ]
    nodes += [
        helper.make_node("Conv", ["redness", "one"], [f"here{stride}"], strides=[stride, stride]),
        helper.make_node("Conv", ["marked", "one"], [f"on{stride}"], strides=[stride, stride]),
        helper.make_node("Mul", [f"here{stride}", f"on{stride}"], [f"class{stride}"]),
        helper.make_node("Max", counts, [f"farthest{stride}"]),
        helper.make_node("Less", [f"farthest{stride}", "reach"], [f"seen{stride}"]),
        helper.make_node("Cast", [f"seen{stride}"], [f"whole{stride}"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"whole{stride}", "objectness"], [f"object{stride}"]),
        helper.make_node("Concat", counts, [f"sides{stride}"], axis=1),
        helper.make_node("Conv", [f"sides{stride}", f"to_centres{stride}"], [f"centres{stride}"]),
        helper.make_node("Conv", [f"sides{stride}", f"to_sizes{stride}"], [f"sizes{stride}"]),
        helper.make_node("Max", [f"sizes{stride}", "least"], [f"some{stride}"]),
        helper.make_node("Mul", [f"some{stride}", f"per_stride{stride}"], [f"strides{stride}"]),
        helper.make_node("Log", [f"strides{stride}"], [f"logs{stride}"]),
        helper.make_node("Concat", [f"centres{stride}", f"logs{stride}"], [f"boxes{stride}"], axis=1),
        helper.make_node("Conv", [f"sides{stride}", f"to_points{stride}"], [f"points{stride}"]),
    ]
    for maps, (output, width) in zip(("class", "object", "boxes", "points"), KINDS, strict=True):
        nodes += [
            helper.make_node("Transpose", [f"{maps}{stride}"], [f"{maps}{stride}_last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{maps}{stride}_last", f"rows_of_{width}"], [f"{output}_{stride}"]),
        ]
    return nodes


def _weights(stride: int) -> dict[str, Any]:
    """Distances are to left, top, right and bottom; centres and landmarks are in strides, sizes their logarithms."""
    centres, sizes = np.zeros((2, 4)), np.zeros((2, 4))
    centres[[0, 1], [0, 1]], centres[[0, 1], [2, 3]] = -0.5 / stride, 0.5 / stride
    sizes[[0, 0, 1, 1], [0, 2, 1, 3]] = 1
    matrices = {"to_centres": centres, "to_sizes": sizes, "to_points": landmark_weights() / stride}
    shaped = {f"{name}{stride}": matrix.astype(np.float32)[..., None, None] for name, matrix in matrices.items()}
    return {**shaped, f"per_stride{stride}": np.float32(1 / stride)}


def sface(length: int = 128) -> onnx.ModelProto:
    """SFace's layout, (1, 3, 112, 112) in RGB from 0 to 255 -> (1, 128): the mean shade of each block."""
    weight = np.random.default_rng(1).normal(size=(3 * SHADES**2, length)).astype(np.float32) / 127.5
    middle = np.repeat([255, MAX_SHADE / 2, MAX_SHADE / 2], SHADES**2).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["blocks"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["fc1"]),
    ]
    constants = {"weight": weight, "bias": -middle @ weight}
    return graph_model("sface", nodes, ("data", [1, 3, 112, 112]), [("fc1", [1, length])], constants)
