"""A model file, a run directory or an exported file → the engine that computes it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from resnetlab.config import ConfigError
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import (
    BackendSelection,
    Candidate,
    probe_images,
    select_backend,
    selected_engine,
)
from resnetlab.inference.engines.base import Backend, Engine
from resnetlab.inference.formats.sidecar_cache import sidecar_folder
from resnetlab.inference.model_source import EngineSource, backend_candidates, find_source
from resnetlab.inference.selection_cache import Situation, load_selection, save_selection, selection_key
from resnetlab.models.model_card import ModelCard
from resnetlab.system.cores import usable_cores
from resnetlab.system.process_group import ProcessGroup

Wish = Backend | Literal["auto", "known"]
"""A runtime; or the fastest of those that give the same answers; or that if it was measured before, and else the
file's own."""


def open_engine(
    path: Path | str,
    *,
    backend: Wish | None = None,
    cores: int | None = None,
    callers: int = 1,
    device: str | torch.device = "cpu",
    tell: Callable[[str], None] | None = None,
    world: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> tuple[Engine, ModelCard]:
    """Make the network of a file ready to compute.

    Args:
        path: A model file, a run directory or an exported file.
        backend: The runtime. If not given, the file's own: PyTorch for a model file; of several that read an exported
            file, the fastest. `auto` measures which is the fastest that gives the same answers, and notes it beside the
            file; where it has been measured before, it does not measure again.
        cores: Threads that work on one call; if not given, PyTorch's own number, and elsewhere a fair share of the
            cores for each caller. For PyTorch it is a setting of the process.
        callers: Threads that will call at a time.
        device: Where PyTorch computes; the other runtimes compute on the processor.
        tell: Hears what `auto` found, a line.
        world: Processes that all open it: under `auto` the first one chooses for all.

    Raises:
        ModelFileError: for a file that is missing, damaged, or nothing of this project.
        ConfigError: for a runtime that cannot compute it here; the message says which can.
    """
    source, place = find_source(path), torch.device(device)
    if backend == "known" and not sidecar_folder(source.path).exists():
        backend = None
    if backend is None and source.backends[0] == "torch":
        backend = "torch"  # and nobody waits for a runtime to load that is not needed
    if backend not in (None, "auto", "known"):
        _check(source, backend, place)
        return _engine(source, Candidate(backend, source.precision), cores, callers, place), source.card
    could = [one for one in backend_candidates(source) if place.type == "cpu" or one.backend == "torch"]
    if not could:
        raise ConfigError(f"{source.path}: needs {_either(source.backends)}, on the CPU; {optional_packages.INSTALL}")
    engines: dict[str, Callable[[], Engine]] = {
        one.name: partial(_engine, source, one, cores, callers, place) for one in could
    }
    if backend == "auto" and world.size > 1:
        now = selection_key(list(engines), _share(cores, callers), callers)
        return _agreed(source, engines, now, tell, world), source.card
    own = engines[could[0].name] if len(could) == 1 or (backend != "auto" and _is_plain(could)) else None
    if own and (backend is None or len(could) == 1):
        return own(), source.card
    now = selection_key(list(engines), _share(cores, callers), callers)
    choice = load_selection(source.shelf, now, exactly=backend != "known")
    if choice is not None:
        if tell and backend == "auto":
            tell(f"{choice} (measured before)")
        return selected_engine(choice, {name: engines[name]() for name in set(choice.fastest.values())}), source.card
    return (own() if own else _measured(source, engines, now, tell)), source.card


def _measured(
    source: EngineSource, engines: dict[str, Callable[[], Engine]], now: Situation, tell: Callable[[str], None] | None
) -> Engine:
    """Return the fastest engine, note it, and tell it."""
    choice, engine = select_backend(engines, probe_images(source.card.preprocessing), callers=now["callers"])
    save_selection(source.shelf, now, choice)
    if tell:
        tell(str(choice))
    return engine


def _agreed(
    source: EngineSource,
    engines: dict[str, Callable[[], Engine]],
    now: Situation,
    tell: Callable[[str], None] | None,
    world: ProcessGroup,
) -> Engine:
    """Return the engine that the first process chooses: what all of them answer goes into one judgement.

    Raises:
        ConfigError: where this process has no such runtime.
    """

    def found() -> BackendSelection:
        before = load_selection(source.shelf, now)
        if before is not None:
            return before
        choice, _ = select_backend(engines, probe_images(source.card.preprocessing), callers=now["callers"])
        save_selection(source.shelf, now, choice)
        return choice

    choice = world.from_first(found)
    taken = set(choice.fastest.values())
    if lacking := sorted(taken - set(engines)):
        raise ConfigError(
            f"{source.path}: the first process computes it by {' and '.join(lacking)}, and process "
            f"{world.rank} cannot; name a --backend that all of them have"
        )
    if tell:
        tell(str(choice))
    return selected_engine(choice, {name: engines[name]() for name in taken})


def _is_plain(could: list[Candidate]) -> bool:
    """Say whether it is plain without measuring what computes a file: PyTorch, or the only runtime that reads it."""
    return could[0].backend == "torch" or len({one.backend for one in could}) == 1


def _engine(source: EngineSource, one: Candidate, cores: int | None, callers: int, device: torch.device) -> Engine:
    if one.backend == "torch" and cores is not None:
        torch.set_num_threads(cores)
    return source.engine(one, _share(cores, callers), callers, device)


def _share(cores: int | None, callers: int) -> int:
    """Return how many threads work on one call."""
    return cores or max(1, usable_cores() // callers)


def _check(source: EngineSource, backend: Backend, device: torch.device) -> None:
    """Raise `ConfigError` where a runtime cannot compute a file."""
    if backend not in source.backends:
        raise ConfigError(f"{source.path}: {backend} cannot compute {source.what}; {_either(source.backends)} can")
    if device.type != "cpu" and backend != "torch":
        raise ConfigError(f"{backend} computes on the CPU; for {device.type} use the backend torch and a model file")


def _either(backends: tuple[Backend, ...]) -> str:
    return " or ".join(backends)
