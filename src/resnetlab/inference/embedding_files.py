"""Files of features: parquet or .npy, written as a stream with a bounded number of rows in memory, and atomically."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from resnetlab.inference.prediction import Prediction
from resnetlab.serialization import ConfigError
from resnetlab.system.atomic_files import open_atomic

SUFFIXES = (".parquet", ".npy")
ROW_GROUP = 1024
"""Rows in memory before parquet writes them: 8 MiB of 2,048 features each."""


class FeatureFile(ABC):
    """A file of features that is open for writing. As a context, it replaces an older file if the body succeeds.

    Args:
        path: The file.
        num_features: Features of each image.
    """

    def __init__(self, path: Path, num_features: int) -> None:
        self.path, self.num_features = path, num_features
        self.num_rows = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._open(self._stack)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def write(self, name: str, features: np.ndarray, prediction: Prediction) -> None:
        """Add a row.

        Args:
            name: The image, as it was named.
            features: float32 (num_features,).
            prediction: The prediction of the same image.

        Raises:
            OSError: If the file cannot be written.
        """
        self._write(name, features, prediction)
        self.num_rows += 1

    @abstractmethod
    def _open(self, stack: ExitStack) -> None:
        """Open the file; `stack` closes it, or deletes it after an error."""

    @abstractmethod
    def _write(self, name: str, features: np.ndarray, prediction: Prediction) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Write what is still in memory."""


class NpyFile(FeatureFile):
    """Features as one .npy array, float32 (num_images, num_features), and a .npy.jsonl file of the images in order."""

    @property
    def names_path(self) -> Path:
        """The file with a JSON object for each row: path, label, probability."""
        return self.path.with_name(f"{self.path.name}.jsonl")

    def _open(self, stack: ExitStack) -> None:
        self._array: BinaryIO = stack.enter_context(open_atomic(self.path))
        self._names: BinaryIO = stack.enter_context(open_atomic(self.names_path))
        self._header_bytes = self._array.write(self._header())

    def _write(self, name: str, features: np.ndarray, prediction: Prediction) -> None:
        self._array.write(np.asarray(features, "<f4").tobytes())
        row = {"path": name, "label": prediction.label, "probability": prediction.probability}
        self._names.write(json.dumps(row).encode() + b"\n")

    def _finish(self) -> None:
        header = self._header()
        assert len(header) == self._header_bytes  # NumPy leaves room for the digits of the first axis
        self._array.seek(0)
        self._array.write(header)

    def _header(self) -> bytes:
        from io import BytesIO

        header = BytesIO()
        shape = (self.num_rows, self.num_features)
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return header.getvalue()


class ParquetFile(FeatureFile):
    """Features as the column `features` of a parquet file, beside `path`, `label` and `probability`."""

    def _open(self, stack: ExitStack) -> None:
        pyarrow = _import_pyarrow()
        from pyarrow import parquet

        self._schema = pyarrow.schema(
            {
                "path": pyarrow.string(),
                "label": pyarrow.string(),
                "probability": pyarrow.float64(),
                "features": pyarrow.list_(pyarrow.float32(), self.num_features),
            }
        )
        file = stack.enter_context(open_atomic(self.path))
        self._writer = stack.enter_context(parquet.ParquetWriter(file, self._schema))
        self._rows: list[tuple[str, str, float]] = []
        self._features = np.zeros((ROW_GROUP, self.num_features), np.float32)

    def _write(self, name: str, features: np.ndarray, prediction: Prediction) -> None:
        self._features[len(self._rows)] = features
        # a file name need not be valid Unicode, and parquet has no other text
        text = os.fsencode(name).decode("utf-8", "replace")
        self._rows.append((text, prediction.label, prediction.probability))
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _finish(self) -> None:
        if self._rows:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        columns: list[Sequence[Any]] = [list(column) for column in zip(*self._rows, strict=True)]
        values = pyarrow.array(self._features[: len(self._rows)].reshape(-1))
        arrays = [
            *(pyarrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=False)),
            pyarrow.FixedSizeListArray.from_arrays(values, self.num_features),
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()


def feature_file(path: Path, num_features: int) -> FeatureFile:
    """Return the file for a path that ends in one of `SUFFIXES`."""
    return NpyFile(path, num_features) if path.suffix.lower() == ".npy" else ParquetFile(path, num_features)


def check_feature_file(path: Path) -> None:
    """Raise unless features can be written to a path.

    Raises:
        ConfigError: If the suffix is unknown, the path is a folder or in none, or pyarrow is missing for parquet.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {path}: features are written as .parquet or .npy; name such a file")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file in it: {path / 'features.parquet'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; make it, or name a file elsewhere")
    if path.suffix.lower() == ".parquet":
        _import_pyarrow()


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            f"parquet needs pyarrow ({error}); pip install 'resnetlab[data]', or name a .npy file"
        ) from error
    return pyarrow
