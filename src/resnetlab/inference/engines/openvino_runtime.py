"""The OpenVINO engine, for OpenVINO IR and ONNX graphs."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Backend, Precision

Graph = tuple[bytes, bytes]
"""A model and its weights. For ONNX, which embeds its weights, the second is empty."""
FIXED_BATCH = 1
"""Batch size for which the graph is compiled a second time with static shapes: ResNet-50 is then 1.2 times as fast, and
ResNet-18 1.1 times. For 16 images it would be 1.02 times."""
POOL_OPS = ("ReduceMean", "AdaptiveAvgPool", "AvgPool")
"""OpenVINO's operators that average the last feature map."""


def has_bf16() -> bool:
    """Return whether this processor multiplies in bfloat16."""
    return "BF16" in optional_packages.openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """An `Engine` of OpenVINO on the CPU. Each calling thread has its own inference request."""

    backend: Backend = "openvino"

    def __init__(
        self, read_graph: Callable[[], Graph], precision: Precision, *, cores: int = 1, callers: int = 1
    ) -> None:
        """Compile the graph.

        Args:
            read_graph: Returns the graph. Called again for a batch of `FIXED_BATCH` images and for the feature maps.
            precision: `bf16` computes an fp32 graph in bfloat16; an `int8` graph stays as it is.
            cores: Threads for one call.
            callers: Threads that call at the same time.

        Raises:
            ConfigError: OpenVINO is not installed.
        """
        self.precision: Precision = precision
        self._read_graph = read_graph
        self._openvino = optional_packages.openvino()
        self._core = optional_packages.openvino_core()
        hint = self._openvino.properties.hint
        self._properties = {
            hint.performance_mode: hint.PerformanceMode.LATENCY,
            hint.inference_precision: self._openvino.Type.bf16 if precision == "bf16" else self._openvino.Type.f32,
            self._openvino.properties.inference_num_threads: cores * callers,
            self._openvino.properties.streams.num: callers,
            hint.enable_cpu_pinning: False,  # a pinned thread would wait for a core that another process uses
        }
        self._dynamic_batch = self._compile(self._read_model())
        self._requests = threading.local()
        self._lock = threading.Lock()
        self._compiled_fixed_batch: Any = None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        name = "fixed" if len(images) == FIXED_BATCH else "dynamic"
        request = getattr(self._requests, name, None)
        if request is None:
            compiled = self._fixed_batch if name == "fixed" else self._dynamic_batch
            request = compiled.create_infer_request()
            setattr(self._requests, name, request)
        return _infer(request, images)

    def feature_maps(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.feature_maps`."""
        return _infer(self._feature_model[0].create_infer_request(), images)

    @property
    def head_weights(self) -> np.ndarray:
        """See `Engine.head_weights`."""
        return self._feature_model[1]

    @property
    def _fixed_batch(self) -> Any:
        """The graph for `FIXED_BATCH` images, compiled at the first use."""
        with self._lock:
            if self._compiled_fixed_batch is None:
                model = self._read_model()
                model.reshape([FIXED_BATCH, *list(model.input(0).partial_shape)[1:]])
                self._compiled_fixed_batch = self._compile(model)
            return self._compiled_fixed_batch

    @cached_property
    def _feature_model(self) -> tuple[Any, np.ndarray]:
        """The graph with the last feature map as its output, and the weights of the head."""
        model = self._read_model()
        pool = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() in POOL_OPS)
        product = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() == "MatMul")
        weights_model = self._openvino.Model([product.input_value(1)], [])
        weights = next(iter(self._compile(weights_model)({}).values())).astype(np.float32)
        weights = weights if product.get_attributes()["transpose_b"] else weights.T
        return self._compile(self._openvino.Model([pool.input_value(0)], model.get_parameters())), weights

    def _read_model(self) -> Any:
        graph, weights = self._read_graph()
        return self._core.read_model(graph, weights) if weights else self._core.read_model(graph)

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._properties)


def _infer(request: Any, images: np.ndarray) -> np.ndarray:
    """Return a copy of the request's output; the next call overwrites the request's own memory."""
    request.infer([images], share_inputs=True)
    return np.array(request.get_output_tensor(0).data, dtype=np.float32)
