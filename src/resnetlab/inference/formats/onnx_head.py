"""Where an ONNX graph of these networks has its last map and its head: found from the output upwards."""

from typing import Any

import numpy as np

from resnetlab.inference import optional_packages

POOLS = ("GlobalAveragePool", "ReduceMean", "AveragePool")
HEADS = ("Gemm", "MatMul")


def pooled_feature_map(graph: Any) -> str:
    """Return the name of what the last pooling averages: float (batch, channels, height, width)."""
    return _last(graph, POOLS).input[0]


def head_weights(graph: Any) -> np.ndarray:
    """Return the weights of the head: float32 (num_classes, channels), whichever way the graph has them."""
    node = _last(graph, HEADS)
    weights = _constant(graph, node.input[1]).astype(np.float32)
    turned = node.op_type == "Gemm" and any(one.name == "transB" and one.i for one in node.attribute)
    return weights if turned else weights.T


def _last(graph: Any, kinds: tuple[str, ...]) -> Any:
    for node in reversed(graph.node):
        if node.op_type in kinds:
            return node
    raise ValueError(f"no {' or '.join(kinds)} in the graph")


def _constant(graph: Any, name: str) -> np.ndarray:
    """Return a constant of the graph: kept as it is, or quantised, or turned."""
    array = optional_packages.onnx().numpy_helper.to_array
    for tensor in graph.initializer:
        if tensor.name == name:
            return array(tensor)
    node = next(node for node in graph.node if name in node.output)
    if node.op_type == "Transpose":
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        return _constant(graph, node.input[0]).transpose(order)
    if node.op_type in ("Identity", "QuantizeLinear"):
        return _constant(graph, node.input[0])
    if node.op_type == "DequantizeLinear":
        values, *rest = (_constant(graph, one) for one in node.input)
        if np.issubdtype(values.dtype, np.floating):  # quantised only when it is run
            return values
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        shape = [-1 if at == axis % values.ndim else 1 for at in range(values.ndim)]
        scale, zero = (one.reshape(shape if one.ndim else ()) for one in [*rest, np.zeros(1, values.dtype)][:2])
        return (values.astype(np.float32) - zero.astype(np.float32)) * scale
    raise ValueError(f"the head's weights come out of {node.op_type}")
