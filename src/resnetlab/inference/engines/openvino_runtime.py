"""A graph in OpenVINO: its own format, or ONNX."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Backend, Precision

Graph = tuple[bytes, bytes]
"""A model and its weights; of ONNX, which has them inside, the second is empty."""
FIXED = 1
"""Images for which the graph is compiled once more, with their number fixed: ResNet-50 is then 1.2 times as fast, and
ResNet-18 1.1 times. For 16 images it would be 1.02 times."""
LAST = ("ReduceMean", "AdaptiveAvgPool", "AvgPool")
"""What averages the last map, in OpenVINO's words."""


def has_bf16() -> bool:
    """Say whether this processor multiplies in bfloat16."""
    return "BF16" in optional_packages.openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """An `Engine` of OpenVINO on the processor; each thread that calls has a request of its own."""

    backend: Backend = "openvino"

    def __init__(self, read: Callable[[], Graph], precision: Precision, *, cores: int, callers: int) -> None:
        """Make it ready.

        Args:
            read: Gives the graph; called again when `maps` or `head` is first asked for.
            precision: `bf16` computes in it what the graph has in fp32; a graph in `int8` stays what it is.
            cores: Threads that work on one call.
            callers: Threads that call at a time.

        Raises:
            ConfigError: where OpenVINO is not installed.
        """
        self.precision: Precision = precision
        self._read = read
        self._runtime = optional_packages.openvino()
        self._core = optional_packages.openvino_core()
        hint = self._runtime.properties.hint
        self._properties = {
            hint.performance_mode: hint.PerformanceMode.LATENCY,
            hint.inference_precision: self._runtime.Type.bf16 if precision == "bf16" else self._runtime.Type.f32,
            self._runtime.properties.inference_num_threads: cores * callers,
            self._runtime.properties.streams.num: callers,
            hint.enable_cpu_pinning: False,  # others share the cores, and may be where a thread is kept
        }
        self._any = self._ready(self._model())
        self._requests = threading.local()
        self._lock = threading.Lock()
        self._one: Any = None

    def logits(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        kind = "fixed" if len(views) == FIXED else "any"
        request = getattr(self._requests, kind, None)
        if request is None:
            compiled = self._fixed if kind == "fixed" else self._any
            request = compiled.create_infer_request()
            setattr(self._requests, kind, request)
        return _answer(request, views)

    def maps(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.maps`."""
        return _answer(self._inside[0].create_infer_request(), views)

    @property
    def head(self) -> np.ndarray:
        """See `Engine.head`."""
        return self._inside[1]

    @property
    def _fixed(self) -> Any:
        """The graph for FIXED images; made when it is first asked for."""
        with self._lock:
            if self._one is None:
                model = self._model()
                model.reshape([FIXED, *list(model.input(0).partial_shape)[1:]])
                self._one = self._ready(model)
            return self._one

    @cached_property
    def _inside(self) -> tuple[Any, np.ndarray]:
        """The graph with the last map as its output, and the weights of the head."""
        model = self._model()
        pool = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() in LAST)
        product = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() == "MatMul")
        weights = self._runtime.Model([product.input_value(1)], [])
        head = next(iter(self._ready(weights)({}).values())).astype(np.float32)
        head = head if product.get_attributes()["transpose_b"] else head.T
        return self._ready(self._runtime.Model([pool.input_value(0)], model.get_parameters())), head

    def _model(self) -> Any:
        graph, weights = self._read()
        return self._core.read_model(graph, weights) if weights else self._core.read_model(graph)

    def _ready(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._properties)


def _answer(request: Any, views: np.ndarray) -> np.ndarray:
    """Return what a request gives, in memory of its own: the next call writes over the request's."""
    request.infer([views], share_inputs=True)
    return np.array(request.get_output_tensor(0).data, dtype=np.float32)
