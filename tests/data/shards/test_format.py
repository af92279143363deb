"""Arrays of the index of a shard: no more memory than the file has bytes."""

import io
import zipfile

import numpy as np
import pytest

from resnetlab.config import ConfigError
from resnetlab.data.shards.format import read_arrays


def npz(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("offset.npy", content)
    return file.getvalue()


def npy(shape: tuple[int, ...], values: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(8 * values)


def test_an_array_is_read():
    assert read_arrays(npz(npy((3,), 3)), "x.npz")["offset"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        npz(npy((10**15,), 3)),  # more than any memory
        npz(npy((10**4,), 3)),
        npz(npy((1 << 20,), 1 << 20), zipfile.ZIP_DEFLATED),
    ],
)
def test_claims_beyond_the_file_are_damage(data):
    with pytest.raises(ConfigError, match=r"^x\.npz: damaged \("):
        read_arrays(data, "x.npz")
