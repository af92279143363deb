"""Versions of a study's images: runs on images that changed between them cannot be compared."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from resnetlab.config import ConfigError, RunConfig
from resnetlab.study.results import Run, data_folder_name
from resnetlab.system.count_text import count_text

MAX_NAMES = 5
"""Runs that a message names."""


def check_image_versions(runs: Iterable[Run], pending: Iterable[RunConfig], out: Path) -> None:
    """Raise unless the ended runs of a study read the images that the runs still to make will read.

    The images are opened only if such runs are to be made. If they cannot be, the runs themselves say so.

    Args:
        runs: Ended runs of the folder.
        pending: Configurations of the runs still to make.
        out: Folder of the study, for the message.

    Raises:
        ConfigError: if the images differ.
    """
    to_make = {(data_folder_name(config.data), config.data.train_images): config for config in pending}
    for key, versions in _versions(runs).items():
        if key not in to_make:
            continue
        kept = _fingerprint(to_make[key]) or _kept_version(versions)
        if others := [run for fingerprint, group in versions.items() if fingerprint != kept for run in group]:
            raise ConfigError(
                f"{out} holds runs on other images of {others[0].data_label}, which changed since "
                f"({named_runs(others)}); add --fresh to start over, or give another folder with --out"
            )


def with_same_images(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those on other images than most runs of their data set and number of images.

    Runs that have ended count first. Of versions with equally many runs the latest is kept. Runs whose record has no
    fingerprint are kept.
    """
    others = {id(run) for group in _other_versions(runs) for run in group}
    return [run for run in runs if id(run) not in others]


def other_images(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each data set on the runs that `with_same_images` leaves out."""
    return [
        f"{count_text(len(group), 'run')} read other images of {group[0].data_label} than the other runs, "
        f"because they changed in between, and {'is' if len(group) == 1 else 'are'} compared with none: "
        f"{named_runs(group)}. To train all on the present images, add --fresh, or give another folder with --out."
        for group in _other_versions(runs)
    ]


def first_of_each_version(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Return the first started run of each version of each data set, after the label of the data set."""
    found: dict[tuple[str, str | None], Run] = {}
    for run in runs:
        if run.start:
            found.setdefault((run.data_label, _recorded(run)), run)
    known = {label for label, fingerprint in found if fingerprint is not None}
    return [(label, run) for (label, fingerprint), run in found.items() if fingerprint or label not in known]


def _other_versions(runs: Sequence[Run]) -> list[list[Run]]:
    groups = []
    for versions in _versions(runs).values():
        kept = _kept_version(versions)
        if others := [run for fingerprint, group in versions.items() if fingerprint != kept for run in group]:
            groups.append(others)
    return groups


def _kept_version(versions: Mapping[str, Sequence[Run]]) -> str:
    """Return the fingerprint of the images that most runs read."""

    def weight(fingerprint: str) -> tuple[int, int, str]:
        group = versions[fingerprint]
        num_ended = sum(run.status in ("done", "diverged") for run in group)
        return num_ended, len(group), max(run.start.get("started", "") for run in group)

    return max(versions, key=weight)


def _versions(runs: Iterable[Run]) -> dict[tuple[str, int | None], dict[str, list[Run]]]:
    """Return the runs with a fingerprint by data set and number of training images, and by fingerprint."""
    found: dict[tuple[str, int | None], dict[str, list[Run]]] = {}
    for run in runs:
        if (fingerprint := _recorded(run)) is not None:
            found.setdefault((run.data, run.train_images), {}).setdefault(fingerprint, []).append(run)
    return found


def _recorded(run: Run) -> str | None:
    return run.start.get("data", {}).get("fingerprint")


def _fingerprint(config: RunConfig) -> str | None:
    """Return the fingerprint of the images that a run will read; `None` if they cannot be opened."""
    from resnetlab.data.images.errors import BadImageError  # a study's own process loads PyTorch only for this
    from resnetlab.data.open_dataset import open_data
    from resnetlab.data.shards.fetch import RemoteError

    try:
        return open_data(config.data, keep_encoded=config.recipe.crop != "pad").fingerprint
    except (ConfigError, BadImageError, RemoteError, OSError):
        return None


def named_runs(runs: Sequence[Run]) -> str:
    """Return the labels of runs in words, the first `MAX_NAMES` of them."""
    names = [run.label for run in runs]
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
