"""An ONNX graph in ONNX Runtime."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Backend, Precision
from resnetlab.inference.formats.exported_file import INPUT, OUTPUT
from resnetlab.inference.formats.onnx_head import head_weights, pooled_feature_map


class OnnxEngine:
    """An `Engine` of an ONNX graph with everything in it: given as bytes, it cannot have another file read."""

    backend: Backend = "onnxruntime"

    def __init__(self, read: Callable[[], bytes], precision: Precision, *, cores: int, callers: int) -> None:
        """Make it ready.

        Args:
            read: Gives the graph; called again when `maps` or `head` is first asked for.
            precision: What the graph says that it is.
            cores: Threads that work on one call.
            callers: Threads that call at a time.

        Raises:
            ConfigError: where ONNX Runtime is not installed.
        """
        self.precision: Precision = precision
        self._read, self._cores, self._callers = read, cores, callers
        self._session = self._opened(read())

    def logits(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        return self._session.run([OUTPUT], {INPUT: views})[0]

    def maps(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.maps`."""
        name, session, _ = self._inside
        return session.run([name], {INPUT: views})[0]

    @property
    def head(self) -> np.ndarray:
        """See `Engine.head`."""
        return self._inside[2]

    @cached_property
    def _inside(self) -> tuple[str, Any, np.ndarray]:
        """The name of the last map, the graph with that as its output, and the weights of the head."""
        onnx = optional_packages.onnx()
        model = onnx.load_model_from_string(self._read())
        name, head = pooled_feature_map(model.graph), head_weights(model.graph)
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return name, self._opened(model.SerializeToString()), head

    def _opened(self, graph: bytes) -> Any:
        runtime = optional_packages.onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._cores
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # an error comes as an exception
        if self._callers > 1:  # others need the cores that its threads would wait on
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
