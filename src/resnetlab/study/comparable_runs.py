"""Runs of a folder that can be compared: on the same images, with the same settings, and one of each network and seed.

A study refuses to make other runs beside its own, but folders can be merged, and `train` can write into one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from resnetlab.config import ModelConfig, Norm, Recipe
from resnetlab.serialization import differences
from resnetlab.study.arms import MAX_UPDATE, arm_norm
from resnetlab.study.image_versions import named_runs, other_images, with_same_images
from resnetlab.study.results import Run
from resnetlab.system.count_text import count_text
from resnetlab.training.recipes import for_network

MAX_DIFFERENCES = 3
"""Settings that a note names."""


class ComparableRuns(NamedTuple):
    """The runs that a report compares, and a sentence on each kind of runs that it leaves out."""

    runs: list[Run]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that runs must share to be compared, besides the images.

    `None` is unknown, and agrees with every value.
    """

    recipe: Recipe
    """Without the limit of control arms."""
    norm: Norm
    network: ModelConfig
    """The network without what arms and depths change: its family and widths, for example."""
    image_size: int | None
    color_profiles: str
    split_seed: int
    precision: str | None
    sync_bn: bool
    grad_accum_steps: int
    own_model: str | None


def comparable_runs(runs: Sequence[Run]) -> ComparableRuns:
    """Return the runs that can be compared.

    Of different images or settings those of most runs are kept. Of several runs of one network and seed the first that
    ended is kept: a run that is repeated until its result suits would be no evidence.
    """
    notes = other_images(runs)
    kept = with_same_images(runs)
    for leave_out in (_with_other_settings, _repeated):
        groups = leave_out(kept)
        notes += [sentence for _, sentence in groups]
        others = {id(run) for group, _ in groups for run in group}
        kept = [run for run in kept if id(run) not in others]
    return ComparableRuns(kept, notes)


def _with_other_settings(runs: Sequence[Run]) -> list[tuple[list[Run], str]]:
    """Return, for each data set, the runs with other settings than most, and a sentence on them."""
    found = []
    for group in _grouped(runs, lambda run: (run.data, run.architecture)):
        candidates: list[Settings] = []
        for run in group:
            if (settings := _settings(run)) not in candidates:
                candidates.append(settings)
        common = max(candidates, key=lambda settings: _weight([run for run in group if not _changes(settings, run)]))
        if others := [run for run in group if _changes(common, run)]:
            changed = _changes(common, others[0])
            more = f" and {len(changed) - MAX_DIFFERENCES} more" if len(changed) > MAX_DIFFERENCES else ""
            sentence = (
                f"{count_text(len(others), 'run')} on {others[0].data} {'has' if len(others) == 1 else 'have'} other "
                f"settings than most ({'; '.join(changed[:MAX_DIFFERENCES])}{more}), and "
                f"{'is' if len(others) == 1 else 'are'} compared with none: {named_runs(others)}. Train all with the "
                "same settings to compare them."
            )
            found.append((others, sentence))
    return found


def _repeated(runs: Sequence[Run]) -> list[tuple[list[Run], str]]:
    """Return, for each data set, the runs whose network and seed another run has, and a sentence on them."""
    found = []
    for on_data in _grouped(runs, lambda run: run.data):
        others = []
        for group in _grouped(on_data, lambda run: (run.network, run.seed)):
            first = min(group, key=lambda run: (not _has_ended(run), run.start.get("started", ""), run.directory.name))
            others += [run for run in group if run is not first]
        if others:
            folders = ", ".join(run.directory.name for run in others[:MAX_DIFFERENCES])
            more = f" and {len(others) - MAX_DIFFERENCES} more" if len(others) > MAX_DIFFERENCES else ""
            sentence = (
                f"{count_text(len(others), 'run')} on {others[0].data} {'repeats' if len(others) == 1 else 'repeat'} "
                f"the network and seed of another, and {'is' if len(others) == 1 else 'are'} compared with none: "
                f"{folders}{more}. The first that ended counts; move the others away, or give them other seeds."
            )
            found.append((others, sentence))
    return found


def _grouped(runs: Sequence[Run], key: Any) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _has_ended(run: Run) -> bool:
    return run.status in ("done", "diverged")


def _weight(runs: Sequence[Run]) -> tuple[int, int, str]:
    """Return a sort key: runs that have ended count first, then all; of equally many those that started last."""
    return sum(map(_has_ended, runs)), len(runs), max((run.start.get("started", "") for run in runs), default="")


def _settings(run: Run) -> Settings:
    config, start = run.config, run.start
    recipe = config.recipe
    if recipe.max_update == MAX_UPDATE:
        recipe = dataclasses.replace(recipe, max_update=None)
    precision = start.get("execution", {}).get("precision", config.precision)
    return Settings(
        recipe=recipe,
        norm=config.model.norm,
        network=_network(config.model),
        image_size=config.data.image_size or start.get("data", {}).get("preprocessing", {}).get("image_size"),
        color_profiles=config.data.color_profiles or "apply",
        split_seed=config.data.split_seed,
        precision=None if precision == "auto" else precision,
        sync_bn=config.sync_bn,
        grad_accum_steps=config.grad_accum_steps,
        own_model=config.own_model,
    )


def _network(model: ModelConfig) -> ModelConfig:
    """Return the network with the same values in every field that depths, arms and data sets change."""
    return dataclasses.replace(
        model,
        name="",
        stage_blocks=(1,) * len(model.stage_channels),
        block="bottleneck",  # with projections and BN it allows every value of the other fields
        shortcut="project",
        norm="batch",
        num_classes=10,
        in_channels=3,
    )


def _changes(common: Settings, run: Run) -> list[str]:
    """Return in which settings a run differs from those of most runs, such as `recipe.epochs: 5 -> 50`.

    Recipes may depend on the network (`for_network`), and some blocks have their own normalisation.
    """
    own = _settings(run)
    unknown = {
        name: None for name in ("image_size", "precision") if None in (getattr(own, name), getattr(common, name))
    }
    expected = dataclasses.replace(common, norm=arm_norm(run.arm, common.norm), **unknown)
    fitted = for_network(common.recipe, run.config.model)
    if own.recipe == fitted:
        expected = dataclasses.replace(expected, recipe=fitted)
    return differences(expected, dataclasses.replace(own, **unknown))
