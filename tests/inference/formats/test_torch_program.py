"""`.pt2` archives that are rejected, above all those with pickles."""

import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch

from helpers.exported_files import CARD, MODEL, PREPROCESSING, metadata_text, program, read_error, write_export
from resnetlab.inference.formats import checksum, onnx_graph, torch_program
from resnetlab.inference.formats.exported_file import ExportedFileError, read_exported_file


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("exports") / "net.pt2", metadata_text("net.pt2")).parent


def test_file_of_another_exporter(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(program(), path)
    assert "not exported by resnetlab" in read_error(path)
    torch.save(MODEL.state_dict(), path)
    assert "not exported by resnetlab" in read_error(path)


def rewrite(path, exports, change, **options):
    """Write the archive with changed entries and a valid checksum."""
    with zipfile.ZipFile(exports / "net.pt2") as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(f"net/{name}", content)
        archive.comment = torch_program.MARKER + checksum.PLACEHOLDER.encode()
    path.write_bytes(checksum.embed_checksum(buffer.getvalue(), torch_program.MARKER))
    return path


def test_a_rewritten_archive_is_accepted(tmp_path, exports):
    """Otherwise the tests below would prove nothing."""
    assert read_exported_file(rewrite(tmp_path / "net.pt2", exports, lambda entries: None)).card == CARD


def test_pickles_are_rejected(tmp_path, exports):
    path = tmp_path / "net.pt2"
    name = "data/sample_inputs/model.pt"
    assert "sample inputs" in read_error(rewrite(path, exports, lambda entries: entries.update({name: b"\x80\x02N."})))
    name = "data/weights/model_weights_config.json"

    def pickle_a_weight(entries):
        entries[name] = entries[name].replace(b'"use_pickle": false', b'"use_pickle": true', 1)

    assert "as a pickle" in read_error(rewrite(path, exports, pickle_a_weight))
    name = "data/constants/opaque_obj_0"
    assert name in read_error(rewrite(path, exports, lambda entries: entries.update({name: b"x"})))
    name = "data/constants/model_constants_config.json"
    assert "constants" in read_error(
        rewrite(path, exports, lambda entries: entries.update({name: b'{"config": {"x": 1}}'}))
    )
    assert "data/aotinductor" in read_error(
        rewrite(path, exports, lambda entries: entries.update({"data/aotinductor/model/m.so": b"\x7fELF"}))
    )


def test_malicious_and_incomplete_archives(tmp_path, exports):
    path = tmp_path / "net.pt2"
    bomb = {"data/weights/weight_99": bytes(50_000_000)}
    assert "compressed" in read_error(
        rewrite(path, exports, lambda entries: entries.update(bomb), compression=zipfile.ZIP_DEFLATED)
    )
    assert path.stat().st_size < 1_000_000
    rewrite(path, exports, lambda entries: entries.pop("data/sample_inputs/model.pt"))
    assert "is missing" in read_error(path)


def test_weights_of_a_program(exports):
    exportable = onnx_graph.ExportableNetwork(MODEL, PREPROCESSING)
    weights = torch_program.read_weights(exports / "net.pt2", (exports / "net.pt2").read_bytes())
    assert set(weights) == set(exportable.state_dict())
    assert all(np.array_equal(weights[name], value.numpy()) for name, value in exportable.state_dict().items())


def test_weights_that_do_not_fit_their_list(tmp_path, exports):
    path = tmp_path / "net.pt2"
    name = "data/weights/weight_0"
    rewrite(path, exports, lambda entries: entries.update({name: entries[name][:-4]}))
    with pytest.raises(ExportedFileError, match="damaged"):
        torch_program.read_weights(path, path.read_bytes())
