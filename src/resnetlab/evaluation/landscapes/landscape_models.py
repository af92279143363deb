"""Landscapes of model files: what is measured, its record, and the result."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.evaluation.landscapes.directions import Weights, moving_weights, random_direction, trajectory_plane
from resnetlab.evaluation.landscapes.hessian import Curvature, measure_curvature
from resnetlab.evaluation.landscapes.landscape import Grid, Point, loss_and_error, measure_points, points_in_time
from resnetlab.evaluation.landscapes.landscape_record import LandscapeRecord, stored_header
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.model_file import load_model
from resnetlab.models.resnet import ResNet

MARGIN = 0.2
"""Margin of a plane around a run's states, as a share of their extent."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, the number of steps done and their total."""


@dataclass(frozen=True)
class LandscapeOptions:
    """The points and the directions of a landscape.

    Raises:
        ConfigError: if a value is out of its range.
    """

    dimensions: Literal[1, 2] = 2
    """A line through the weights, or a plane."""
    num_points: int | None = None
    """Points along an axis, odd; as many as `time_s` allow if not given."""
    time_s: float = 100.0
    """Time for all points of all networks in seconds, above 0; the number of points follows from a timed pass."""
    extent: float = 1.0
    """A landscape reaches from minus this to plus this many lengths of the filters, above 0."""
    seed: int = 0
    """Selects the random directions."""
    num_eigenvalues: int = 2
    """Largest eigenvalues of the Hessian at the network's weights; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("time_s", "extent"):
            if not 0 < getattr(self, name) < math.inf:
                option, value = name.removesuffix("_s"), getattr(self, name)
                raise ConfigError(f"{option} must be a finite number above 0, not {value:g}")
        if self.num_eigenvalues < 0:
            raise ConfigError(f"eigenvalues must be at least 0, not {self.num_eigenvalues}")
        if self.num_points is not None:
            Grid(self.num_points)


@dataclass(frozen=True, kw_only=True)
class LandscapeCase:
    """A network, in evaluation mode, with the images on which its loss is measured, and perhaps states of its run."""

    model: ResNet
    images: Tensor
    """Normalised (batch, channels, height, width), on the model's device."""
    labels: Tensor
    """int64 (batch,)."""
    states: tuple[Path, ...] = ()
    """Model files of a run's states, in order, before the network; the plane goes through them. Random directions if
    empty."""


@dataclass(frozen=True, kw_only=True)
class LandscapeResult:
    """The landscape of one network."""

    network: str
    """Name of the network."""
    num_images: int
    """Images behind each loss."""
    centre: tuple[float, float]
    """Loss and error of the network itself, which need not be a point of the grid."""
    xs: tuple[float, ...]
    """Steps along the first direction."""
    ys: tuple[float, ...]
    """Steps along the second direction; a single 0 for a line."""
    loss: tuple[tuple[float, ...], ...]
    """Mean cross entropy in nats by row (`ys`) and column (`xs`); NaN where it is not finite."""
    error_pct: tuple[tuple[float, ...], ...]
    """Top-1 error in %, by row and column as `loss`."""
    curvature: Curvature | None
    """Eigenvalues of the Hessian at the network, and the curvature along the directions; `None` if not measured."""
    states: tuple[tuple[float, float], ...] = ()
    """The states of the run in the plane; empty for random directions."""
    explained: tuple[float, float] | None = None
    """Share of the states' variance that each direction explains; `None` for random directions."""
    num_reused: int = 0
    """Points that an earlier, unfinished measurement had measured."""


def choose_points(cases: Sequence[LandscapeCase], options: LandscapeOptions, out: Path) -> int:
    """Return the points along an axis: as given, as in an earlier measurement in `out`, or as many as time allows."""
    if options.num_points is not None:
        return options.num_points
    stored = stored_header(record_path(out, 0))
    if stored is not None and isinstance(stored.get("points"), int) and stored.get("dimensions") == options.dimensions:
        return stored["points"]
    time_s = options.time_s / len(cases)
    return min(
        points_in_time(case.model, case.images, case.labels, time_s=time_s, dimensions=options.dimensions)
        for case in cases
    )


def record_path(out: Path, index: int) -> Path:
    """Return the file of the points of one network."""
    return out / f"points-{index + 1}.jsonl"


def measure_landscape(
    case: LandscapeCase,
    options: LandscapeOptions,
    path: Path,
    *,
    num_points: int,
    on_progress: Progress | None = None,
) -> LandscapeResult:
    """Measure the landscape of one network; continue an unfinished measurement in the file of its points.

    Args:
        case: Network, images and plane.
        options: Directions and eigenvalues.
        path: The file of the points.
        num_points: Points along an axis, odd.
        on_progress: Called with a stage, the number of points done and their total.

    Raises:
        ConfigError: if the file belongs to another landscape, or the states do not span a plane.
    """
    report = on_progress or (lambda *_: None)
    model = case.model
    directions, grid, states, explained = plane(case, options, num_points)
    with LandscapeRecord(path, _header(case, directions, grid)) as record:
        known = dict(record.points)
        measuring = measure_points(model, case.images, case.labels, directions=directions, grid=grid, known=known)
        report("points", len(known), grid.total)
        for done, point in enumerate(measuring, start=len(known) + 1):
            record.add(point)
            report("points", done, grid.total)
        points = record.points
    curvature = None
    if options.num_eigenvalues:
        report("eigenvalues of the Hessian", 0, 1)
        curvature = measure_curvature(
            model, case.images, case.labels, directions=directions, count=options.num_eigenvalues
        )
    with evaluation_mode(model):
        centre = loss_and_error(model, case.images, case.labels)
    return LandscapeResult(
        network=model.config.name,
        num_images=len(case.images),
        centre=centre,
        xs=tuple(grid.xs),
        ys=tuple(grid.ys),
        loss=_rows(points, grid, "loss"),
        error_pct=_rows(points, grid, "error_pct"),
        curvature=curvature,
        states=states,
        explained=explained,
        num_reused=len(known),
    )


def plane(
    case: LandscapeCase, options: LandscapeOptions, num_points: int
) -> tuple[tuple[Weights, ...], Grid, tuple[tuple[float, float], ...], tuple[float, float] | None]:
    """Return the directions, the grid, and for a run's plane its states and the variance that it explains."""
    if case.states:
        saved = [dict(load_model(path)[0].named_parameters()) for path in case.states]
        trajectory = trajectory_plane([*saved, moving_weights(case.model)], case.model)
        columns, rows = zip(*trajectory.coordinates, strict=True)
        grid = Grid(num_points, _around(columns), _around(rows))
        return trajectory.directions, grid, trajectory.coordinates, trajectory.explained
    limits = (-options.extent, options.extent)
    directions = tuple(random_direction(case.model, options.seed, number) for number in range(options.dimensions))
    return directions, Grid(num_points, limits, limits if options.dimensions == 2 else None), (), None


def as_json(result: LandscapeResult) -> dict[str, object]:
    """Return a result as JSON values, except for numbers that are not finite."""
    loss, error = result.centre
    return {**asdict(result), "centre": {"loss": loss, "error_pct": error}}


def _header(case: LandscapeCase, directions: Sequence[Weights], grid: Grid) -> dict[str, object]:
    """Return what decides the points of a landscape, as JSON values."""
    return {
        "network": case.model.config.name,
        "weights": _checksum(case.model.state_dict().values()),
        "images": _checksum((case.images, case.labels)),
        "points": grid.num_points,
        "dimensions": len(directions),
        "x_range": list(grid.x_range),
        "y_range": None if grid.y_range is None else list(grid.y_range),
        "directions": _checksum(tensor for direction in directions for tensor in direction.values()),
    }


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that contains values, with a margin."""
    margin = MARGIN * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _rows(points: dict[tuple[int, int], Point], grid: Grid, field: str) -> tuple[tuple[float, ...], ...]:
    columns, rows = range(len(grid.xs)), range(len(grid.ys))
    return tuple(tuple(getattr(points[column, row], field) for column in columns) for row in rows)


def _checksum(tensors: Iterable[Tensor]) -> str:
    """Return the first half of a SHA-256 over tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
