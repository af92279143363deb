"""`open_engine`: from a model file, run directory or exported file to an engine, with the selection of its runtime."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from resnetlab.config import ConfigError
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import BackendSelection, Candidate, select_backend, selected_engine
from resnetlab.inference.engine_factory import EngineFactory, backend_candidates, engine_factory
from resnetlab.inference.engines.base import Backend, Engine
from resnetlab.inference.formats.sidecar_cache import sidecar_folder
from resnetlab.inference.probe_images import probe_images
from resnetlab.inference.selection_cache import SelectionKey, load_selection, save_selection, selection_key
from resnetlab.models.model_card import ModelCard
from resnetlab.system.cores import usable_cores
from resnetlab.system.process_group import ProcessGroup

BackendOption = Backend | Literal["auto", "cached"]
"""A runtime; `auto`, the fastest one with the same predictions, which is measured if necessary; or `cached`, the
fastest one if it was measured before, and otherwise the default of the file."""

Log = Callable[[str], None]
CreateEngine = Callable[[], Engine]


def open_engine(
    path: Path | str,
    *,
    backend: BackendOption | None = None,
    cores: int | None = None,
    callers: int = 1,
    device: str | torch.device = "cpu",
    log: Log | None = None,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> tuple[Engine, ModelCard]:
    """Open the network of a file.

    Args:
        path: A model file, a run directory or an exported file.
        backend: The runtime. The default is PyTorch for a model file, and the first installed runtime that reads an
            exported file (ONNX: ONNX Runtime, then OpenVINO), in the precision of the file. `auto` selects the fastest
            runtime whose predictions agree and stores the selection beside the file. It measures only if no selection
            is stored for the present conditions.
        cores: Threads for one call. The default is PyTorch's own number; for the other runtimes, the usable cores
            divided by `callers`. For PyTorch this sets the number of threads of the whole process.
        callers: Threads that will call at the same time.
        device: PyTorch's device. The other runtimes run on the CPU.
        log: Receives one line with the result of `auto`.
        process_group: Processes that all open the file. Under `auto` the first process selects the runtime for all.

    Returns:
        The engine, and the card of the file.

    Raises:
        ModelFileError: A file is missing, damaged, or not written by resnetlab.
        ConfigError: The runtime cannot compute this file here; the message names those that can.
    """
    factory, device = engine_factory(path), torch.device(device)
    if backend == "cached" and not sidecar_folder(factory.path).exists():
        backend = None
    if backend is None and factory.backends[0] == "torch":
        backend = "torch"  # without a search for candidates, which would import the other runtimes
    if backend not in (None, "auto", "cached"):
        _check_backend(factory, backend, device)
        candidate = Candidate(backend, factory.precision)
        return _create_engine(factory, candidate, cores=cores, callers=callers, device=device), factory.card
    candidates = [
        candidate for candidate in backend_candidates(factory) if device.type == "cpu" or candidate.backend == "torch"
    ]
    if not candidates:
        needed = " or ".join(factory.backends)
        raise ConfigError(f"{factory.path}: needs {needed}, on the CPU; {optional_packages.INSTALL}")
    engines: dict[str, CreateEngine] = {
        candidate.name: partial(_create_engine, factory, candidate, cores=cores, callers=callers, device=device)
        for candidate in candidates
    }
    if len(candidates) == 1 and not (backend == "auto" and process_group.size > 1):
        return engines[candidates[0].name](), factory.card
    default = engines[candidates[0].name]
    if backend is None:
        return default(), factory.card
    key = selection_key(list(engines), _threads_per_call(cores, callers), callers)
    if backend == "auto" and process_group.size > 1:
        return _select_for_all(factory, engines, key, log=log, process_group=process_group), factory.card
    selection = load_selection(factory.cache, key, exact=backend != "cached")
    if selection is not None:
        if log and backend == "auto":
            log(f"{selection} (measured before)")
        return _create_selected(selection, engines), factory.card
    return (default() if backend == "cached" else _select(factory, engines, key, log)), factory.card


def _select(factory: EngineFactory, engines: dict[str, CreateEngine], key: SelectionKey, log: Log | None) -> Engine:
    """Measure, store and log the selection; return its engine."""
    selection, engine = _measure(factory, engines, key)
    if log:
        log(str(selection))
    return engine


def _select_for_all(
    factory: EngineFactory,
    engines: dict[str, CreateEngine],
    key: SelectionKey,
    *,
    log: Log | None,
    process_group: ProcessGroup,
) -> Engine:
    """Return the engine that the first process selects, because all predictions contribute to one evaluation.

    Raises:
        ConfigError: This process does not have the selected runtime.
    """

    def select() -> BackendSelection:
        return load_selection(factory.cache, key) or _measure(factory, engines, key)[0]

    selection = process_group.run_on_first(select)
    if missing := sorted(set(selection.fastest.values()) - set(engines)):
        raise ConfigError(
            f"{factory.path}: the first process uses {' and '.join(missing)}, "
            f"which process {process_group.rank} does not have; name a --backend that all processes have"
        )
    if log:
        log(str(selection))
    return _create_selected(selection, engines)


def _measure(
    factory: EngineFactory, engines: dict[str, CreateEngine], key: SelectionKey
) -> tuple[BackendSelection, Engine]:
    selection, engine = select_backend(
        engines,
        probe_images(factory.card.preprocessing),
        callers=key["callers"],
        multi_label=factory.card.multi_label is not None,
    )
    save_selection(factory.cache, key, selection)
    return selection, engine


def _create_selected(selection: BackendSelection, engines: dict[str, CreateEngine]) -> Engine:
    return selected_engine(selection, {name: engines[name]() for name in set(selection.fastest.values())})


def _create_engine(
    factory: EngineFactory, candidate: Candidate, *, cores: int | None, callers: int, device: torch.device
) -> Engine:
    if candidate.backend == "torch" and cores is not None:
        torch.set_num_threads(cores)
    return factory.create(candidate, cores=_threads_per_call(cores, callers), callers=callers, device=device)


def _threads_per_call(cores: int | None, callers: int) -> int:
    return cores or max(1, usable_cores() // callers)


def _check_backend(factory: EngineFactory, backend: Backend, device: torch.device) -> None:
    """Raise `ConfigError` if a runtime cannot compute a file."""
    if backend not in factory.backends:
        others = " or ".join(factory.backends)
        raise ConfigError(f"{factory.path}: {backend} cannot compute {factory.description}; {others} can")
    if device.type != "cpu" and backend != "torch":
        raise ConfigError(f"{backend} computes on the CPU; for {device.type} use the backend torch and a model file")
