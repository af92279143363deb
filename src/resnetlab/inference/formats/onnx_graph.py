"""A network as others take it: pixels in, normalisation inside, BN folded; as a program, and as an ONNX graph."""

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

BATCH = {INPUT: {0: Dim("batch", min=1)}}
"""Which sides are left open."""
NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")
"""What a program notes of its origin, line by line, with this machine's paths."""
REGISTRATION = "torch.onnx._internal.exporter._registration"


class ExportableNetwork(nn.Module):
    """A network with its normalisation: uint8 images (batch, height, width, channels) → logits (batch, num_classes).

    Pixels stand as image libraries give them, colours last.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ResNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        size, channels = preprocessing.image_size, len(preprocessing.mean)
        mean = torch.tensor(preprocessing.pixel_mean or preprocessing.mean, dtype=torch.float32)
        shape = (channels, size, size) if preprocessing.pixel_mean else (channels, 1, 1)
        self.network = fuse_bn(model)
        self.register_buffer("mean", mean.view(shape))
        self.register_buffer("std", torch.tensor(preprocessing.std, dtype=torch.float32).view(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 (batch, num_classes)."""
        x = self.network.stem((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)
        for stage in self.network.stages.values():
            x = stage(x)
        return self.network.fc(x.mean((2, 3)))  # the network's own pooling becomes nine nodes of ONNX, with a Gather


def export_program(model: ResNet, preprocessing: Preprocessing) -> ExportedProgram:
    """Return the program of a network with its normalisation, for any number of images; without sample inputs."""
    shipped = ExportableNetwork(model, preprocessing).eval().requires_grad_(False)
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    sample = torch.zeros(2, size, size, channels, dtype=torch.uint8)  # two: a size of one would be taken as fixed
    with _quiet():
        made = torch.export.export(shipped, (sample,), dynamic_shapes=BATCH, strict=False)
    made.example_inputs = None  # torch.export.save would pickle them
    for node in made.graph.nodes:
        for note in NOTES:
            node.meta.pop(note, None)
    return made


def onnx_model(model: ResNet, preprocessing: Preprocessing) -> "ModelProto":
    """Return the ONNX graph of a network with its normalisation: `images` in, `logits` out.

    Raises:
        ConfigError: where the package onnx or onnxscript is not installed.
    """
    optional_packages.onnx()
    optional_packages.onnxscript()
    made = export_program(model, preprocessing)
    with _quiet():
        exported = torch.onnx.export(
            made, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=BATCH
        )
    assert exported is not None
    graph = exported.model_proto
    _strip(graph)
    graph.graph.name = model.config.name
    return graph


def _strip(model: "ModelProto") -> None:
    """Take out notes on the graph's origin, which are longer than the graph and name this machine's folders."""
    graph = model.graph
    for values in ([model, graph], graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for one in values:
            one.ClearField("metadata_props")
            one.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what nobody can heed: that torchvision is not there, and what PyTorch deprecates in its own code."""
    logger = logging.getLogger(REGISTRATION)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
