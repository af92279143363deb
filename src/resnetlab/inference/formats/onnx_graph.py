"""Export of a network with its normalisation and fused BN, as a `torch.export` program and as an ONNX graph."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from resnetlab.config import Preprocessing
from resnetlab.inference import optional_packages
from resnetlab.inference.formats.metadata import INPUT, OUTPUT
from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.resnet import ResNet

if TYPE_CHECKING:
    from onnx import ModelProto

DYNAMIC_SHAPES = {INPUT: {0: Dim("batch", min=1)}}
"""Only the batch size is dynamic."""
SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")
"""Fields in which a program records its source code line by line, with paths of this machine."""
REGISTRATION_LOGGER = "torch.onnx._internal.exporter._registration"


class ExportableNetwork(nn.Module):
    """A network with its normalisation: uint8 images (batch, height, width, channels) to logits (batch, num_classes).

    Channels are last, as in image libraries.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ResNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        channels = len(preprocessing.mean)
        mean = torch.tensor(preprocessing.pixel_mean or preprocessing.mean, dtype=torch.float32)
        shape = (channels, *preprocessing.input_size) if preprocessing.pixel_mean else (channels, 1, 1)
        self.network = fuse_bn(model)
        self.register_buffer("mean", mean.view(shape))
        self.register_buffer("std", torch.tensor(preprocessing.std, dtype=torch.float32).view(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 (batch, num_classes)."""
        x = self.network.stem((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)
        for stage in self.network.stages.values():
            x = stage(x)
        # The network's own pooling becomes nine ONNX nodes with a Gather.
        return self.network.fc(self.network.finish(x).mean((2, 3)))


def export_program(model: ResNet, preprocessing: Preprocessing) -> ExportedProgram:
    """Return the program of a network with its normalisation, for any batch size and without sample inputs."""
    exportable = ExportableNetwork(model, preprocessing).eval().requires_grad_(False)
    shape = (2, *preprocessing.input_size, len(preprocessing.mean))  # two: torch.export treats a size of 1 as fixed
    sample = torch.zeros(shape, dtype=torch.uint8)
    with _quiet():
        program = torch.export.export(exportable, (sample,), dynamic_shapes=DYNAMIC_SHAPES, strict=False)
    program.example_inputs = None  # torch.export.save would pickle them
    for node in program.graph.nodes:
        for note in SOURCE_NOTES:
            node.meta.pop(note, None)
    return program


def onnx_model(model: ResNet, preprocessing: Preprocessing) -> "ModelProto":
    """Return the ONNX graph of a network with its normalisation: input `images`, output `logits`.

    Raises:
        ConfigError: The package onnx or onnxscript is not installed.
    """
    optional_packages.onnx()
    optional_packages.onnxscript()
    program = export_program(model, preprocessing)
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=DYNAMIC_SHAPES,
        )
    assert exported is not None
    graph = exported.model_proto
    _strip_source_notes(graph)
    graph.graph.name = model.config.name
    return graph


def _strip_source_notes(model: "ModelProto") -> None:
    """Remove notes about source code. They are longer than the graph and contain paths of this machine."""
    graph = model.graph
    for values in ([model, graph], graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.ClearField("metadata_props")
            value.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages that users cannot act on: missing torchvision, and deprecations within PyTorch's own code."""
    logger = logging.getLogger(REGISTRATION_LOGGER)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
