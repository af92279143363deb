"""Choices that were measured before, each with the situation it was measured in."""

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnetlab import __version__
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import SIZES, BackendSelection
from resnetlab.inference.formats.sidecar_cache import SidecarCache
from resnetlab.serialization import ConfigError, from_json, to_json

Situation = dict[str, Any]
"""Whatever decides which runtime is the fastest."""
SPLIT = ("cores", "callers")
"""What may be otherwise where a choice is only to be a good one."""
CPUINFO = Path("/proc/cpuinfo")
TOLD = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags", "Features", "CPU part")
"""What Linux says of a processor that decides how fast it computes."""


def selection_key(candidates: Sequence[str], cores: int, callers: int) -> Situation:
    """Return the situation that we are in."""
    return {
        "processor": cpu_fingerprint(),
        "cores": cores,
        "callers": callers,
        "candidates": list(candidates),
        "sizes": list(SIZES),
        "versions": {**optional_packages.versions(), "resnetlab": __version__},
    }


def load_selection(shelf: SidecarCache, now: Situation, *, exactly: bool = True) -> BackendSelection | None:
    """Return the choice that was measured in this situation; if not `exactly`, one with the cores split otherwise."""
    kept = list(reversed(shelf.choices()))
    found = [one for one in kept if one.get("situation") == now]
    if not exactly:
        found += [one for one in kept if _but_split(one.get("situation")) == _but_split(now)]
    for one in found:
        try:
            choice = from_json(BackendSelection, one["choice"])
            if set(choice.fastest.values()) <= set(now["candidates"]):
                return choice
        except (ConfigError, KeyError, TypeError):  # somebody else's idea of a choice
            continue
    return None


def save_selection(shelf: SidecarCache, now: Situation, choice: BackendSelection) -> None:
    """Keep a choice, in place of one that was measured in the same situation; where that cannot be, do nothing."""
    same = [one for one in shelf.choices() if one.get("situation") == now]
    shelf.keep_choice({"situation": now, "choice": to_json(choice)}, instead_of=same)


def cpu_fingerprint() -> str:
    """Return the name of this processor, and a digest of everything else that it says of itself."""
    try:
        first = CPUINFO.read_text().partition("\n\n")[0]
    except OSError:
        return f"{platform.processor()} {platform.machine()}".strip()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    told = "\n".join(f"{key}: {said[key]}" for key in TOLD if key in said)
    return f"{said.get('model name', platform.machine())} ({hashlib.sha256(told.encode()).hexdigest()[:12]})"


def _but_split(now: Any) -> Any:
    return {key: value for key, value in now.items() if key not in SPLIT} if isinstance(now, dict) else None
