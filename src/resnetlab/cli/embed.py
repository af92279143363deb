"""`resnetlab embed`: the features of images as a file, and the nearest images of each."""

import os
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnetlab.cli.predict_output import PredictProgress
from resnetlab.cli.terminal import escape_name, print_json
from resnetlab.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from resnetlab.data.images.left_out import LeftOut
    from resnetlab.inference.batch_predict import BatchResult
    from resnetlab.inference.embedding_files import FeatureFile
    from resnetlab.inference.nearest import NearestSearch
    from resnetlab.inference.predictor import Predictor

FileIdentity = tuple[int, int] | str
"""A file by its device and inode; without a file, its name."""
QUERY_ROWS = 1024
"""Queries that are searched at a time."""


@dataclass(frozen=True)
class Options:
    """Write the features of images, the input of the network's head; or find the nearest images of each.

    Images are named as in `resnetlab predict`. The file has a row for each image that can be read, in order: path,
    label, probability and features; of a .npy file the first three are in a .npy.jsonl file beside it. Near means a
    large cosine of the features, 1 for the same direction. If an image cannot be read, the others are processed, and
    the exit status is 1.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, a run directory, an exported file, or a name from `resnetlab weights`."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Images, at least one."""
    out: Path | None = None
    """File for the features, .parquet or .npy; required without --nearest."""
    nearest: int | None = None
    """Print this many nearest images for each image, at least 1."""
    query: tuple[str, ...] = ()
    """Images whose neighbours among the other files are printed; every image if not given. It takes all words
    after it: put the images before --query."""
    json: bool = False
    """Print JSON: with --nearest one object per query, with path and nearest; else one object on the file."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None
    """Runtime, as in `resnetlab predict`; PyTorch computes the network once an image, the others twice."""
    batch_size: int | None = None
    """Images in a batch, at least 1. The default depends on the image size."""
    workers: int | None = None
    """Threads that each decode and embed batches, at least 1; by default one a core."""
    max_megapixels: int = 100
    """Images that claim more are rejected before they are decoded; at least 1."""


def run(options: Options) -> int:
    """Embed each image, write the file, print neighbours. Return 1 if an image could not be read.

    Raises:
        ConfigError: The options are wrong.
        OSError: The file cannot be written.
    """
    _check(options)
    predictor = _load_predictor(options)
    from resnetlab.inference.embedding import num_features
    from resnetlab.inference.embedding_files import NpyFile, feature_file

    width = num_features(predictor.card)
    with TemporaryDirectory(prefix="resnetlab-") as folder:
        spool = Path(folder) / "features.npy"
        files = [] if options.out is None else [feature_file(options.out, width)]
        files += [] if options.nearest is None else [NpyFile(spool, width)]
        num_failed, names = _write_features(options, predictor, files)
        if options.nearest is not None:
            num_failed += _print_neighbours(options, predictor, spool, names)
        elif options.out is not None:
            _print_summary(options, options.out, files[0].num_rows, width)
    return int(num_failed > 0)


def _check(options: Options) -> None:
    from resnetlab.inference.embedding_files import check_feature_file

    if options.query and options.nearest is None:
        raise ConfigError("--query needs the number of neighbours; add --nearest 5")
    if options.query and not options.paths:
        raise ConfigError(
            "no images besides those of --query, which takes all words after it; put the images before it"
        )
    if not options.paths:
        raise ConfigError("no images; name files, folders, quoted globs such as 'photos/*.jpg', or - for a list")
    if options.out is None and options.nearest is None:
        raise ConfigError("name a file with --out features.parquet, or print neighbours with --nearest 5")
    for name in ("nearest", "batch_size", "workers", "max_megapixels"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name.replace('_', '-')} must be at least 1, not {value}")
    if options.out is not None:
        check_feature_file(options.out)


def _load_predictor(options: Options) -> "Predictor":
    from resnetlab.cli.predict import load_predictor

    predictor = load_predictor(options.model, backend=options.backend, workers=options.workers)
    predictor.max_pixels = options.max_megapixels * 1_000_000
    from resnetlab.inference.explain import require_packages

    require_packages(predictor.engine)  # reports a missing package before any image is read
    return predictor


def _embed(
    options: Options, paths: Sequence[str], predictor: "Predictor", left_out: "LeftOut"
) -> Generator["BatchResult", None, None]:
    """Start the prediction with features, and return its results."""
    from resnetlab.inference.batch_predict import default_batch_size, predict_batches
    from resnetlab.inference.inputs import find_inputs
    from resnetlab.system.cores import usable_cores

    height, width = predictor.preprocessing.input_size
    return predict_batches(
        predictor,
        find_inputs(paths, left_out),
        top=1,
        batch_size=options.batch_size or default_batch_size(height * width),
        workers=options.workers or usable_cores(),
        embed=True,
    )


def _write_features(options: Options, predictor: "Predictor", files: Sequence["FeatureFile"]) -> tuple[int, list[str]]:
    """Write the features of all images; return the number of those that cannot be read, and the others' names.

    The names are only collected if neighbours are printed.

    Raises:
        RuntimeError: No image can be read. An older file is not replaced.
    """
    from resnetlab.data.images.left_out import LeftOut

    progress, left_out, names = PredictProgress(prints_results=False), LeftOut(), []
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        for result in stack.enter_context(closing(_embed(options, options.paths, predictor, left_out))):
            progress.update(result)
            if result.prediction is not None and result.features is not None:
                for file in files:
                    file.write(result.name, result.features, result.prediction)
                names += [result.name] if options.nearest is not None else []
        progress.end(left_out.lines())
        if not files[0].num_rows:
            raise RuntimeError(
                f"none of the images can be read{f', so {options.out} is not written' * bool(options.out)}"
            )
    return progress.num_failed, names


def _print_neighbours(options: Options, predictor: "Predictor", spool: Path, names: list[str]) -> int:
    """Print the nearest images of each query, or of each image; return the number of queries that cannot be read.

    Args:
        options: The options.
        predictor: The network.
        spool: The .npy file with the features of the images.
        names: The images.
    """
    import numpy as np

    from resnetlab.data.images.left_out import LeftOut
    from resnetlab.inference.nearest import NearestSearch

    features = np.load(spool, mmap_mode="r")
    search, rows = NearestSearch(features), _rows_by_file(names)
    if not options.query:
        for start in range(0, len(names), QUERY_ROWS):
            part = slice(start, start + QUERY_ROWS)
            _print_nearest(options, search, names, rows, queries=names[part], features=features[part])
        return 0
    progress, left_out = PredictProgress(), LeftOut()
    with closing(_embed(options, options.query, predictor, left_out)) as results:
        for result in results:
            progress.update(result)
            if result.features is not None:
                _print_nearest(options, search, names, rows, queries=[result.name], features=result.features[None])
    progress.end(left_out.lines())
    return progress.num_failed


def _print_nearest(
    options: Options,
    search: "NearestSearch",
    names: list[str],
    rows: Mapping[FileIdentity, list[int]],
    *,
    queries: Sequence[str],
    features: "np.ndarray",
) -> None:
    """Print a line for each query, without the `rows` of its own file among the images."""
    import numpy as np

    assert options.nearest is not None
    own = [(query, row) for query, name in enumerate(queries) for row in rows.get(_identity(name), ())]
    found, cosines = search.search(features, options.nearest, exclude=np.array(own, np.int64).reshape(-1, 2))
    for query, neighbours, similarities in zip(queries, found.tolist(), cosines.tolist(), strict=True):
        pairs = [
            (names[row], similarity)
            for row, similarity in zip(neighbours, similarities, strict=True)
            if similarity != -np.inf
        ]
        if options.json:
            near = [{"path": name, "similarity": similarity} for name, similarity in pairs]
            print_json({"path": query, "nearest": near})
        else:
            text = ", ".join(f"{escape_name(name)} {similarity:.3f}" for name, similarity in pairs)
            print(f"{escape_name(query)}: {text or 'no other image'}", flush=True)


def _rows_by_file(names: Sequence[str]) -> Mapping[FileIdentity, list[int]]:
    """Return the rows of each file; one that is named twice, or by a link, has several."""
    rows = defaultdict(list)
    for row, name in enumerate(names):
        rows[_identity(name)].append(row)
    return rows


def _identity(name: str) -> FileIdentity:
    """Return device and inode of a file, or the name itself if there is no such file (standard input)."""
    try:
        status = os.stat(name)  # noqa: PTH116  # a million names; a Path of each takes longer than the call
    except OSError:
        return name
    return status.st_dev, status.st_ino


def _print_summary(options: Options, out: Path, num_images: int, width: int) -> None:
    if options.json:
        print_json({"out": str(out), "num_images": num_images, "num_features": width})
    else:
        print(f"{escape_name(str(out))}: {num_images:,} images, {width:,} features each")
