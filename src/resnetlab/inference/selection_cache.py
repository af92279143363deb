"""Storage of measured backend selections in the sidecar cache, each with the conditions of its measurement."""

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnetlab import __version__
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import BATCH_SIZES, BackendSelection
from resnetlab.inference.formats.sidecar_cache import SidecarCache
from resnetlab.serialization import ConfigError, from_json, to_json

SelectionKey = dict[str, Any]
"""The conditions that determine the fastest runtime: processor, threads, candidates and versions."""
THREAD_FIELDS = ("cores", "callers")
"""Fields that an inexact lookup ignores."""
CPUINFO = Path("/proc/cpuinfo")
CPU_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "microcode",
    "flags",
    "Features",
    "CPU part",
)
"""Fields of /proc/cpuinfo that determine the speed of a processor."""


def selection_key(candidates: Sequence[str], cores: int, callers: int) -> SelectionKey:
    """Return the present conditions.

    Args:
        candidates: Names of the runtimes to compare.
        cores: Threads for one call.
        callers: Threads that call at the same time.
    """
    return {
        "processor": cpu_fingerprint(),
        "cores": cores,
        "callers": callers,
        "candidates": list(candidates),
        "sizes": list(BATCH_SIZES),
        "versions": {**optional_packages.versions(), "resnetlab": __version__},
    }


def load_selection(cache: SidecarCache, key: SelectionKey, *, exact: bool = True) -> BackendSelection | None:
    """Return the selection that was measured under the conditions `key`, if there is one.

    Args:
        cache: The cache of the model file.
        key: The present conditions.
        exact: If false, a selection for other numbers of threads is the second choice.
    """
    entries = list(reversed(cache.selections()))
    matches = [entry for entry in entries if entry.get("situation") == key]
    if not exact:
        matches += [entry for entry in entries if _without_threads(entry.get("situation")) == _without_threads(key)]
    for entry in matches:
        try:
            selection = from_json(BackendSelection, entry["choice"])
            if set(selection.fastest.values()) <= set(key["candidates"]):
                return selection
        except (ConfigError, KeyError, TypeError):  # an entry that this version did not write
            continue
    return None


def save_selection(cache: SidecarCache, key: SelectionKey, selection: BackendSelection) -> None:
    """Store a selection and replace one for the same conditions. Do nothing if the cache is not writable."""
    same = [entry for entry in cache.selections() if entry.get("situation") == key]
    cache.save_selection({"situation": key, "choice": to_json(selection)}, replaces=same)


def cpu_fingerprint() -> str:
    """Return the name of the processor and a digest of the fields that determine its speed."""
    try:
        first_core = CPUINFO.read_text().partition("\n\n")[0]
    except OSError:
        return f"{platform.processor()} {platform.machine()}".strip()
    lines = (line.partition(":") for line in first_core.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    text = "\n".join(f"{key}: {fields[key]}" for key in CPU_FIELDS if key in fields)
    return f"{fields.get('model name', platform.machine())} ({hashlib.sha256(text.encode()).hexdigest()[:12]})"


def _without_threads(key: Any) -> Any:
    if not isinstance(key, dict):
        return None
    return {name: value for name, value in key.items() if name not in THREAD_FIELDS}
