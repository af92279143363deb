"""Options of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnetlab.config import ConfigError
from resnetlab.inference.engines.base import Backend
from resnetlab.inference.formats.exported_file import is_exported_file
from resnetlab.inference.rejection import check_reject_below
from resnetlab.system.cache_folder import CACHE_GIB, check_cache_gib

Protocol = Literal["one-crop", "ten-crop", "multi-scale", "ensemble"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Protocol, data and runtime of an evaluation.

    Raises:
        ConfigError: if options do not fit together, `cache_gib` is not a positive number, or `reject_below` is not
            between 0 and 1.
    """

    protocol: Protocol = "one-crop"
    """`ensemble` averages one crop over several networks; several networks may also share any other protocol."""
    split: str | None = None
    """One of `eval_dataset.SPLITS`; `open_eval_dataset` selects one if not given."""
    sides: tuple[int, ...] = ()
    """Shorter sides in pixels: one for `ten-crop`, several for `multi-scale`; if empty, the paper's sides, scaled to
    the image size of the network."""
    recalibrate_bn: bool = False
    """Recompute the batch-normalisation statistics on training images."""
    allow_missing_classes: bool = False
    """Accept data without some of the network's classes."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Stop at an image that cannot be decoded, or skip and report it."""
    device: str = "cpu"
    """PyTorch device."""
    workers: int = 0
    """Threads that decode images."""
    backend: Backend | Literal["auto"] | None = None
    """Runtime; if not given, PyTorch for a model file, and the format's own runtime for an exported file."""
    training_data_changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `DataConfig` that replace those of a network's training data."""
    cache_gib: float = CACHE_GIB
    """Maximum size of the cache for remote shards, in GiB."""
    reject_below: float | None = None
    """Confidence below which an image counts as rejected in `Evaluation.rejection`; above 0 and below 1."""

    def __post_init__(self) -> None:
        if self.sides and self.protocol not in ("ten-crop", "multi-scale"):
            raise ConfigError(f"shorter sides are only for ten-crop and multi-scale, not for {self.protocol}")
        if len(self.sides) > 1 and self.protocol == "ten-crop":
            raise ConfigError(f"ten-crop takes one shorter side, not {len(self.sides)}; several are for multi-scale")
        if min(self.sides, default=1) < 1:
            raise ConfigError(f"shorter sides must be at least 1 pixel each, not {', '.join(map(str, self.sides))}")
        check_cache_gib(self.cache_gib)
        check_reject_below(self.reject_below)
        if self.backend in ("onnxruntime", "openvino") and self.device != "cpu":
            raise ConfigError(f"{self.backend} computes on the CPU, not on {self.device}; leave out --device")


def computes_on_cpu(file: Path) -> bool:
    """Return whether a file is an export whose runtimes compute on the CPU alone: every one but that of PyTorch."""
    return is_exported_file(file) and file.suffix.lower() != ".pt2"
