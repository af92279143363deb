"""The ONNX Runtime engine, and where an ONNX graph of these networks has its last feature map and its head."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Backend, Precision
from resnetlab.inference.formats.exported_file import INPUT, OUTPUT

POOL_OPS = ("GlobalAveragePool", "ReduceMean", "AveragePool")
HEAD_OPS = ("Gemm", "MatMul")


class OnnxEngine:
    """An `Engine` of an ONNX graph with embedded weights. ONNX Runtime gets bytes, so it never opens another file."""

    backend: Backend = "onnxruntime"

    def __init__(
        self, read_graph: Callable[[], bytes], precision: Precision, *, cores: int = 1, callers: int = 1
    ) -> None:
        """Create the inference session.

        Args:
            read_graph: Returns the serialised graph. The first use of `feature_maps` or `head_weights` calls it again.
            precision: The graph's precision.
            cores: Threads for one call.
            callers: Threads that call at the same time.

        Raises:
            ConfigError: ONNX Runtime is not installed.
        """
        self.precision: Precision = precision
        self._read_graph, self._cores, self._callers = read_graph, cores, callers
        self._session = self._create_session(read_graph())

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        return self._session.run([OUTPUT], {INPUT: images})[0]

    def feature_maps(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.feature_maps`."""
        name, session, _ = self._feature_session
        return session.run([name], {INPUT: images})[0]

    @property
    def head_weights(self) -> np.ndarray:
        """See `Engine.head_weights`."""
        return self._feature_session[2]

    @cached_property
    def _feature_session(self) -> tuple[str, Any, np.ndarray]:
        """The name of the last feature map, a session with that map as its output, and the weights of the head."""
        onnx = optional_packages.onnx()
        model = onnx.load_model_from_string(self._read_graph())
        name, weights = pooled_feature_map(model.graph), head_weights(model.graph)
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return name, self._create_session(model.SerializeToString()), weights

    def _create_session(self, graph: bytes) -> Any:
        runtime = optional_packages.onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._cores
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised as exceptions
        if self._callers > 1:  # spinning threads would take cores from the other callers
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def pooled_feature_map(graph: Any) -> str:
    """Return the name of the last pooling's input, a float tensor (batch, channels, height, width).

    Raises:
        ValueError: The graph has no pooling.
    """
    return _last_node(graph, POOL_OPS).input[0]


def head_weights(graph: Any) -> np.ndarray:
    """Return the weights of the head, float32 (num_classes, channels), whether the graph stores them transposed or not.

    Raises:
        ValueError: The graph has no fully connected layer, or computes its weights by an unsupported operator.
    """
    node = _last_node(graph, HEAD_OPS)
    weights = _constant(graph, node.input[1]).astype(np.float32)
    transposed = node.op_type == "Gemm" and any(
        attribute.name == "transB" and attribute.i for attribute in node.attribute
    )
    return weights if transposed else weights.T


def _last_node(graph: Any, op_types: tuple[str, ...]) -> Any:
    for node in reversed(graph.node):
        if node.op_type in op_types:
            return node
    raise ValueError(f"the graph has no {' or '.join(op_types)}")


def _constant(graph: Any, name: str) -> np.ndarray:
    """Return a constant of the graph: an initialiser, possibly transposed or quantised."""
    to_array = optional_packages.onnx().numpy_helper.to_array
    for tensor in graph.initializer:
        if tensor.name == name:
            return to_array(tensor)
    node = next(node for node in graph.node if name in node.output)
    if node.op_type == "Transpose":
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        return _constant(graph, node.input[0]).transpose(order)
    if node.op_type in ("Identity", "QuantizeLinear"):
        return _constant(graph, node.input[0])
    if node.op_type == "DequantizeLinear":
        values, *rest = (_constant(graph, name) for name in node.input)
        if np.issubdtype(values.dtype, np.floating):  # the graph stores floats and quantises them at run time
            return values
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if index == axis % values.ndim else 1 for index in range(values.ndim)]
        parameters = [*rest, np.zeros(1, values.dtype)][:2]
        scale, zero = (array.reshape(shape if array.ndim else ()) for array in parameters)
        return (values.astype(np.float32) - zero.astype(np.float32)) * scale
    raise ValueError(f"the head's weights are computed by {node.op_type}, which is not supported")
