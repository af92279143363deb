"""Checksums of exported files, which decide whether a stored result still holds."""

import pytest

from resnetlab.inference.formats.sidecar_cache import file_sha256


@pytest.mark.parametrize("name", ["net.xml", "net.XML"])
def test_the_weights_of_an_openvino_file_belong_to_it(tmp_path, name):
    path, weights = tmp_path / name, tmp_path / "net.bin"
    path.write_bytes(b"graph")
    weights.write_bytes(b"1")
    before = file_sha256(path)
    weights.write_bytes(b"2")
    assert file_sha256(path) != before
