"""A stand-in for YuNet, so that tests need no fetched weights: it finds every red square of 32 px on a grid of 32 px.

It has YuNet's inputs and outputs, so `cv2.FaceDetectorYN` runs it. Eyes are where a level face has them.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
# What YuNet states of a cell, in cells: how far the box's middle is from its corner, and the logarithms of its sides.
BOX = [0.5, 0.5, 0.0, 0.0]
# Right eye, left eye, nose and corners of the mouth.
POINTS = [0.3, 0.4, 0.7, 0.4, 0.5, 0.6, 0.35, 0.8, 0.65, 0.8]


def write_stand_in(path: Path, everywhere: bool = False) -> Path:
    """Write the network; with `everywhere`, it finds a face in every cell of the grid."""
    nodes, outputs = [], []
    constants = {
        # Redness of BGR in 0..1: 1 for red, 0 for grey.
        "redness": np.array([-0.5, -0.5, 1.0], np.float32).reshape(1, 3, 1, 1) / 200,
        "least": np.array([1.0 if everywhere else 0.0], np.float32),
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "as_rows": np.array([1, -1, 1], np.int64),
    }
    for stride in (8, 16, 32):
        pooled = f"pooled_{stride}"
        nodes += [
            helper.make_node("AveragePool", ["input"], [pooled], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Conv", [pooled, "redness", "least"], [f"red_{stride}"]),
            helper.make_node("Clip", [f"red_{stride}", "zero", "one"], [f"map_{stride}"]),
            helper.make_node("Reshape", [f"map_{stride}", "as_rows"], [f"obj_{stride}"]),
        ]
        # Only the coarsest cells are of the size of the squares.
        constants[f"weight_{stride}"] = np.array(stride == SIDE, np.float32)
        constants[f"nought_{stride}"] = np.zeros((1, 1, 1), np.float32)
        nodes += [helper.make_node("Mul", [f"obj_{stride}", f"weight_{stride}"], [f"cls_{stride}"])]
        for name, values in (("bbox", BOX), ("kps", POINTS)):
            constants[f"{name}_values_{stride}"] = np.array(values, np.float32).reshape(1, 1, -1)
            nodes += [
                helper.make_node("Mul", [f"obj_{stride}", f"nought_{stride}"], [f"{name}_nought_{stride}"]),
                helper.make_node("Add", [f"{name}_nought_{stride}", f"{name}_values_{stride}"], [f"{name}_{stride}"]),
            ]
    for name, size in (("cls", 1), ("obj", 1), ("bbox", len(BOX)), ("kps", len(POINTS))):
        outputs += [
            helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, f"cells_{stride}", size])
            for stride in (8, 16, 32)
        ]
    graph = helper.make_graph(
        nodes,
        "stand_in",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])],
        outputs,
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
