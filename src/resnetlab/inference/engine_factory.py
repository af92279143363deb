"""Engines for a model file or an exported file, one for each runtime that can compute it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from resnetlab.config import ConfigError
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import Candidate
from resnetlab.inference.engines.base import Backend, Engine, Precision
from resnetlab.inference.engines.onnx_runtime import OnnxEngine
from resnetlab.inference.engines.openvino_runtime import Graph, OpenVinoEngine, has_bf16
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats import openvino_ir, torch_program
from resnetlab.inference.formats.exported_file import ExportedFileError, Format, is_exported_file, read_exported_file
from resnetlab.inference.formats.onnx_graph import onnx_model
from resnetlab.inference.formats.sidecar_cache import SidecarCache, file_sha256
from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.model_card import ModelCard, find_model_file, read_card
from resnetlab.models.model_file import load_model
from resnetlab.models.resnet import ResNet

CPU = torch.device("cpu")
FORMAT_BACKENDS: dict[Format, tuple[Backend, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "openvino": ("openvino",),
    "torch-export": ("torch",),
}
"""The runtimes that read each format."""


class ChangedFileError(ConfigError):
    """A file was replaced or removed while its engine was open, and its graph is needed again."""


class EngineFactory(ABC):
    """A file with a network, from which engines are created."""

    path: Path
    card: ModelCard
    backends: tuple[Backend, ...]
    """The runtimes that can compute the file, the reference first."""
    precision: Precision
    """The precision of the file's weights."""
    description: str
    """The kind of file, for error messages."""

    @cached_property
    def cache(self) -> SidecarCache:
        """The sidecar cache of the file."""
        return SidecarCache(self.path)

    @abstractmethod
    def create(self, candidate: Candidate, *, cores: int = 1, callers: int = 1, device: torch.device = CPU) -> Engine:
        """Create the engine of a candidate. The other arguments are those of `open_engine`."""


class ModelFileEngineFactory(EngineFactory):
    """A model file. Any runtime can compute it, because its network can be exported as an ONNX graph."""

    backends: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino")
    precision: Precision = "fp32"
    description = "a model file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.card = read_card(path)

    @cached_property
    def network(self) -> ResNet:
        """The network on the CPU, with fused BN."""
        return fuse_bn(load_model(self.path)[0])

    @cached_property
    def read_graph(self) -> Callable[[], bytes]:
        """A function that returns the ONNX graph, from the cache if that is possible.

        It does not hold the graph in memory, unless the cache is not writable.
        """
        path, cache, versions = self.path, self.cache, optional_packages.versions()
        if cache.load_graph(versions) is None:
            graph = onnx_model(self.network, self.card.preprocessing).SerializeToString()
            if not cache.save_graph(graph, versions):
                return lambda: graph

        def load_or_export() -> bytes:
            _check_unchanged(path, cache.sha256)
            return cache.load_graph(versions) or onnx_model(load_model(path)[0], preprocessing).SerializeToString()

        preprocessing = self.card.preprocessing
        return load_or_export

    def create(self, candidate: Candidate, *, cores: int = 1, callers: int = 1, device: torch.device = CPU) -> Engine:
        """See `EngineFactory.create`."""
        if candidate.backend == "torch":
            return TorchEngine(self.network.to(device), self.card.preprocessing)
        optional_packages.require(candidate.backend)
        read_graph = self.read_graph
        if candidate.backend == "onnxruntime":
            return OnnxEngine(read_graph, candidate.precision, cores=cores, callers=callers)
        return OpenVinoEngine(lambda: (read_graph(), b""), candidate.precision, cores=cores, callers=callers)


class ExportedFileEngineFactory(EngineFactory):
    """An exported file, which the runtimes of its format read."""

    def __init__(self, path: Path) -> None:
        exported = read_exported_file(path)
        self.path, self.card = path, exported.card
        self.precision: Precision = exported.metadata.precision
        self.backends = FORMAT_BACKENDS[exported.metadata.format]
        self.description = f"an export in the format {exported.metadata.format}"

    def create(self, candidate: Candidate, *, cores: int = 1, callers: int = 1, device: torch.device = CPU) -> Engine:
        """See `EngineFactory.create`."""
        if candidate.backend == "torch":
            return TorchEngine(_load_program_network(self.path, self.card).to(device), self.card.preprocessing)
        optional_packages.require(candidate.backend)
        path, sha256 = self.path, self.cache.sha256

        def read_graph() -> Graph:
            _check_unchanged(path, sha256)
            is_openvino = path.suffix.lower() == ".xml"
            return path.read_bytes(), openvino_ir.weights_file(path).read_bytes() if is_openvino else b""

        if candidate.backend == "onnxruntime":
            return OnnxEngine(lambda: read_graph()[0], candidate.precision, cores=cores, callers=callers)
        return OpenVinoEngine(read_graph, candidate.precision, cores=cores, callers=callers)


def engine_factory(path: Path | str) -> EngineFactory:
    """Return the factory for an exported file, a model file, or the model file of a run directory.

    Raises:
        ModelFileError: A file is missing, damaged, or not written by resnetlab.
    """
    path = Path(path)
    return ExportedFileEngineFactory(path) if is_exported_file(path) else ModelFileEngineFactory(find_model_file(path))


def backend_candidates(factory: EngineFactory) -> list[Candidate]:
    """Return the installed runtimes that can compute a file, the reference first."""
    available: list[Backend] = [
        backend for backend in factory.backends if backend == "torch" or optional_packages.installed(backend)
    ]
    candidates = [Candidate(backend, factory.precision) for backend in available]
    if factory.precision == "fp32" and "openvino" in available and has_bf16():
        candidates.append(Candidate("openvino", "bf16"))
    return candidates


def _load_program_network(path: Path, card: ModelCard) -> ResNet:
    """Return the network of an exported program, with fused BN."""
    weights = torch_program.read_weights(path, path.read_bytes())
    if sum(card.model.stage_blocks) > len(weights):  # before they are built
        raise ExportedFileError(f"{path}: its weights do not fit the network of its card, which has more blocks")
    with torch.device("meta"):
        network = fuse_bn(ResNet(card.model))
    state_dict = {
        name.removeprefix("network."): torch.tensor(array)
        for name, array in weights.items()
        if name.startswith("network.")
    }
    try:
        network.load_state_dict(state_dict, assign=True)
    except RuntimeError as error:
        raise ExportedFileError(f"{path}: its weights do not fit the network of its card ({error})") from error
    return network


def _check_unchanged(path: Path, sha256: str) -> None:
    """Raise `ChangedFileError` unless a file is as it was opened."""
    try:
        unchanged = file_sha256(path) == sha256
    except OSError:  # removed
        unchanged = False
    if not unchanged:
        raise ChangedFileError(f"{path}: has changed since it was opened; open it again")
