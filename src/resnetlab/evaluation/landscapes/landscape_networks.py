"""`resnetlab.landscape`: the loss around the weights of model files."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from resnetlab.config import ConfigError, DataConfig
from resnetlab.evaluation.evaluator import EnsembleMember
from resnetlab.evaluation.landscapes.directions import MIN_STATES
from resnetlab.evaluation.landscapes.landscape_models import (
    LandscapeCase,
    LandscapeOptions,
    LandscapeResult,
    choose_points,
    measure_landscape,
    record_path,
)
from resnetlab.evaluation.landscapes.landscape_states import check_states
from resnetlab.evaluation.lesions.lesion_models import member_images, open_networks
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.models.model_card import ModelCard, read_card
from resnetlab.models.resnet import ResNet
from resnetlab.system.dir_lock import lock_dir

MAX_IMAGES = 256
"""Most images behind each loss, unless another number is given."""


def landscape(
    models: Path | str | Sequence[Path | str],
    data: DataConfig | str | None = None,
    *,
    out: Path | str | None = None,
    states: Sequence[Path | str] = (),
    split: Literal["test", "val", "train", "all"] = "train",
    max_images: int = MAX_IMAGES,
    dimensions: Literal[1, 2] = 2,
    num_points: int | None = None,
    time_s: float = 100.0,
    extent: float = 1.0,
    num_eigenvalues: int = 2,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> tuple[LandscapeResult, ...]:
    """Measure the loss of networks on a line or a plane through their weights, in directions normalised by filter.

    `landscape(["runs/plain", "runs/residual"], num_points=21)[1].loss` has the rows of the second network's plane.

    Args:
        models: Model files, run directories or names of published weights.
        data: Name of a data set, or a path; the training data of each network if not given.
        out: Folder of the points: a measurement that was stopped continues there. `None` keeps none.
        states: Model files of one network's run, in order (`train --keep-states`): the plane goes through them, but not
            through those after the epoch that the run kept.
        split: Images to measure on; training minimised the loss of those of `train`.
        max_images: Most images; if the split has more, the same ones are drawn for each network.
        dimensions: 1 for a line, 2 for a plane.
        num_points: Points along an axis, odd; as many as fit into `time_s` if not given.
        time_s: Time for all points of all networks in seconds, above 0.
        extent: Reach in both directions, in lengths of the filters, above 0.
        num_eigenvalues: Largest eigenvalues of the Hessian at the weights; 0 for none.
        seed: Selects the random directions.
        device: PyTorch device, such as `cpu` or `cuda`.
        on_progress: Called with network and stage, the number of points done and their total.

    Returns:
        One result for each network, in order.

    Paper: Li et al., "Visualizing the Loss Landscape of Neural Nets", 2018.

    Raises:
        ModelFileError: if a file is missing, damaged or not a network of this project.
        ConfigError: if options do not fit together, the data do not fit the networks, or `out` has the points of
            another landscape.
    """
    options = LandscapeOptions(dimensions, num_points, time_s, extent, seed, num_eigenvalues)
    files = [Path(models)] if isinstance(models, Path | str) else [Path(model) for model in models]
    check_states(len(states), len(files), dimensions)
    config = DataConfig(data) if isinstance(data, str) else data
    members, _ = open_networks(files, config, EvaluationOptions(split=split, device=device, backend="torch"))
    cases = landscape_cases(members, max_images, [Path(state) for state in states])
    names = [member.card.model.name for member in members]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if out is None else Path(out)
        with lock_dir(folder, "landscape"):
            points = choose_points(cases, options, folder)
            results = measure_cases(cases, names, options, folder, num_points=points, on_progress=on_progress)
    return tuple(results)


def measure_cases(
    cases: Sequence[LandscapeCase],
    names: Sequence[str],
    options: LandscapeOptions,
    folder: Path,
    *,
    num_points: int,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[LandscapeResult]:
    """Measure networks one after the other; `folder` has the points that were measured before.

    `on_progress` is called with a network's name and the stage, the number of points done and their total.
    """
    report = on_progress or (lambda *_: None)
    results = []
    for index, (case, name) in enumerate(zip(cases, names, strict=True)):

        def progress(stage: str, done: int, total: int, name: str = name) -> None:
            report(f"{name}: {stage}", done, total)

        path = record_path(folder, index)
        results.append(measure_landscape(case, options, path, num_points=num_points, on_progress=progress))
    return results


def landscape_cases(
    members: Sequence[EnsembleMember], max_images: int, states: Sequence[Path] = ()
) -> list[LandscapeCase]:
    """Return opened networks with their images, and the states of the run that the plane goes through.

    A network is the end of the path: states after the epoch that its run kept are left out.

    Raises:
        ConfigError: if states are given, and too few remain for a plane.
    """
    cases = []
    for member in members:
        assert isinstance(member.model, ResNet)  # `open_networks` raises for engines
        kept = states_until_kept(states, member.card)
        if len(kept) < len(states) and len(kept) + 1 < MIN_STATES:
            raise ConfigError(
                f"{len(states) - len(kept)} of {len(states)} states are after epoch "
                f"{member.card.provenance['epoch']}, which the run kept; a plane needs {MIN_STATES - 1} until then: "
                "train with --keep last, or keep states more often"
            )
        images, labels = member_images(member, max_images)
        cases.append(LandscapeCase(model=member.model, images=images, labels=labels, states=kept))
    return cases


def states_until_kept(states: Sequence[Path], card: ModelCard) -> tuple[Path, ...]:
    """Return the states without those after the epoch of a network, which its card names if it is not the last one."""
    kept = card.provenance.get("epoch")
    if kept is None:
        return tuple(states)
    return tuple(state for state in states if read_card(state).provenance.get("epoch", 0) <= kept)
