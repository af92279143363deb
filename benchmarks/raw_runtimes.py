"""Fast inference with PyTorch, ONNX Runtime and OpenVINO as a user would write it; only the network is ours.

Every side takes pixels, uint8 (batch, height, width, channels), and returns logits, float32 (batch, classes), both
NumPy arrays. Normalisation is part of the network, so that each runtime may fuse it. Folding batch normalisation is
also left to the runtimes.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

from resnetlab.config import Preprocessing
from resnetlab.system.cores import usable_cores

Answers = Callable[[np.ndarray], np.ndarray]
"""A function from pixels to logits."""


class Whole(nn.Module):
    """A network preceded by its normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.network((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)


def raw_sides(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> dict[str, Answers]:
    """Return all sides by name, eager first; without the compiled ones if no C++ compiler exists."""
    whole = Whole(network, preprocessing).eval()
    whole.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # its stubs lack it
    sides = {"eager": _eager(whole)}
    if has_compiler():
        sides["compiled fp32"] = _compiled(whole, torch.float32)
        sides["compiled bf16"] = _compiled(whole, torch.bfloat16)
    file = folder / "raw.onnx"
    _export(whole, preprocessing, file)
    sides["onnxruntime"] = _onnxruntime(file)
    sides["openvino fp32"] = _openvino(file, "f32")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        sides["openvino bf16"] = _openvino(file, "bf16")
    return sides


def has_compiler() -> bool:
    """Return whether a C++ compiler exists, which torch.compile needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def _eager(whole: nn.Module) -> Answers:
    @torch.inference_mode()
    def answers(views: np.ndarray) -> np.ndarray:
        return whole(torch.from_numpy(views)).numpy()

    return answers


def _compiled(whole: nn.Module, dtype: torch.dtype) -> Answers:
    """Compile for each batch size, with weights as constants that are packed once (`freezing`)."""
    step = torch.compile(whole, dynamic=False, options={"freezing": True})

    @torch.no_grad()
    def answers(views: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return step(torch.from_numpy(views)).float().numpy()

    return answers


def _export(whole: nn.Module, preprocessing: Preprocessing, file: Path) -> None:
    side = preprocessing.image_size
    sample = torch.zeros(2, side, side, len(preprocessing.mean), dtype=torch.uint8)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            (sample,),
            file,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )


def _onnxruntime(file: Path) -> Answers:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda views: np.asarray(session.run(None, {"images": views})[0])


def _openvino(file: Path, precision: str) -> Answers:
    request = (
        openvino.Core()
        .compile_model(file, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision})
        .create_infer_request()
    )
    return lambda views: np.array(request.infer([views], share_inputs=True)[0], dtype=np.float32)
