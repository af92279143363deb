"""A file that holds a network: which runtimes can compute it, and the engine of each."""

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

RUNS: dict[Format, tuple[Backend, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "openvino": ("openvino",),
    "torch-export": ("torch",),
}
"""Which runtimes read a format."""


class EngineSource(ABC):
    """A file, and what can be made of it."""

    path: Path
    card: ModelCard
    backends: tuple[Backend, ...]
    """The runtimes that can compute it, the one to compare others with first."""
    precision: Precision
    """What it is in itself."""
    what: str
    """What it is called."""

    @cached_property
    def shelf(self) -> SidecarCache:
        """What is kept beside it."""
        return SidecarCache(self.path)

    @abstractmethod
    def engine(self, candidate: Candidate, cores: int, callers: int, device: torch.device) -> Engine:
        """Return the engine of one candidate; see `open_engine`."""


class ModelFileSource(EngineSource):
    """A model file: weights, which any runtime can have as a graph."""

    backends: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino")
    precision: Precision = "fp32"
    what = "a model file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.card = read_card(path)

    @cached_property
    def network(self) -> ResNet:
        """The network, folded, on the CPU."""
        return fuse_bn(load_model(self.path)[0])

    @cached_property
    def graph(self) -> Callable[[], bytes]:
        """Gives its ONNX graph whenever it is asked for; from the shelf where that has one, or can have it now."""
        path, shelf, made_by = self.path, self.shelf, optional_packages.versions()
        if shelf.graph(made_by) is None:
            made = onnx_model(self.network, self.card.preprocessing).SerializeToString()
            if not shelf.keep_graph(made, made_by):
                return lambda: made

        def again() -> bytes:
            _check_unchanged(path, shelf.sha256)
            return shelf.graph(made_by) or onnx_model(load_model(path)[0], preprocessing).SerializeToString()

        preprocessing = self.card.preprocessing
        return again

    def engine(self, candidate: Candidate, cores: int, callers: int, device: torch.device) -> Engine:
        """See `EngineSource`."""
        if candidate.backend == "torch":
            return TorchEngine(self.network.to(device), self.card.preprocessing)
        optional_packages.require(candidate.backend)
        graph = self.graph
        if candidate.backend == "onnxruntime":
            return OnnxEngine(graph, candidate.precision, cores=cores, callers=callers)
        return OpenVinoEngine(lambda: (graph(), b""), candidate.precision, cores=cores, callers=callers)


class ExportedFileSource(EngineSource):
    """An exported file, which is what some runtimes read."""

    def __init__(self, path: Path) -> None:
        artefact = read_exported_file(path)
        self.path, self.card, self._format = path, artefact.card, artefact.metadata.format
        self.precision: Precision = artefact.metadata.precision
        self.backends, self.what = RUNS[self._format], f"an export in the format {self._format}"

    def engine(self, candidate: Candidate, cores: int, callers: int, device: torch.device) -> Engine:
        """See `EngineSource`."""
        if candidate.backend == "torch":
            return TorchEngine(_network_of(self.path, self.card).to(device), self.card.preprocessing)
        optional_packages.require(candidate.backend)
        path, sha256 = self.path, self.shelf.sha256

        def graph() -> Graph:
            _check_unchanged(path, sha256)
            return path.read_bytes(), openvino_ir.weights_file(
                path
            ).read_bytes() if path.suffix.lower() == ".xml" else b""

        if candidate.backend == "onnxruntime":
            return OnnxEngine(lambda: graph()[0], candidate.precision, cores=cores, callers=callers)
        return OpenVinoEngine(graph, candidate.precision, cores=cores, callers=callers)


def find_source(path: Path | str) -> EngineSource:
    """Return what a path means: an exported file, a model file, or a run directory with one.

    Raises:
        ModelFileError: for a file that is missing, damaged, or nothing of this project.
    """
    path = Path(path)
    return ExportedFileSource(path) if is_exported_file(path) else ModelFileSource(find_model_file(path))


def backend_candidates(source: EngineSource) -> list[Candidate]:
    """Return the runtimes that are installed and can compute a file, the one to compare others with first."""
    there: list[Backend] = [one for one in source.backends if one == "torch" or optional_packages.installed(one)]
    found = [Candidate(backend, source.precision) for backend in there]
    if source.precision == "fp32" and "openvino" in there and has_bf16():
        found.append(Candidate("openvino", "bf16"))
    return found


def _network_of(path: Path, card: ModelCard) -> ResNet:
    """Return the folded network of an exported program."""
    with torch.device("meta"):
        network = fuse_bn(ResNet(card.model))
    weights = torch_program.read_weights(path, path.read_bytes())
    inside = {
        name.removeprefix("network."): torch.tensor(x) for name, x in weights.items() if name.startswith("network.")
    }
    try:
        network.load_state_dict(inside, assign=True)
    except RuntimeError as error:
        raise ExportedFileError(f"{path}: the weights do not fit the network it describes ({error})") from error
    return network


def _check_unchanged(path: Path, sha256: str) -> None:
    if file_sha256(path) != sha256:
        raise ConfigError(f"{path}: has changed since it was opened; open it again")
