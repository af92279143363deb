"""What a `.pt2` may not be: above all, a pickle."""

import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch

from helpers.exported_files import CARD, MODEL, SEEN, refusal, text, the_program, write
from resnetlab.inference.formats import checksum, onnx_graph, torch_program
from resnetlab.inference.formats.exported_file import ExportedFileError, read_exported_file


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exports") / "net.pt2", text("net.pt2")).parent


def test_a_program_of_others(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(the_program(), path)
    assert "not one that resnetlab exported" in refusal(path)
    torch.save(MODEL.state_dict(), path)
    assert "not one that resnetlab exported" in refusal(path)


def rezipped(path, exports, change, **settings):
    """Write the archive anew, with other entries."""
    with zipfile.ZipFile(exports / "net.pt2") as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", **settings) as archive:
        for name, content in entries.items():
            archive.writestr(f"net/{name}", content)
        archive.comment = torch_program.MARK + checksum.OPEN.encode()
    path.write_bytes(checksum.embed_checksum(buffer.getvalue(), torch_program.MARK))
    return path


def test_an_archive_may_be_written_anew(tmp_path, exports):
    """Or the tests below would show nothing."""
    assert read_exported_file(rezipped(tmp_path / "net.pt2", exports, lambda entries: None)).card == CARD


def test_no_pickle_comes_in(tmp_path, exports):
    path = tmp_path / "net.pt2"
    name = "data/sample_inputs/model.pt"
    assert "sample inputs" in refusal(rezipped(path, exports, lambda entries: entries.update({name: b"\x80\x02N."})))
    name = "data/weights/model_weights_config.json"

    def pickled(entries):
        entries[name] = entries[name].replace(b'"use_pickle": false', b'"use_pickle": true', 1)

    assert "as a pickle" in refusal(rezipped(path, exports, pickled))
    name = "data/constants/opaque_obj_0"
    assert name in refusal(rezipped(path, exports, lambda entries: entries.update({name: b"x"})))
    name = "data/constants/model_constants_config.json"
    assert "constants" in refusal(
        rezipped(path, exports, lambda entries: entries.update({name: b'{"config": {"x": 1}}'}))
    )
    assert "data/aotinductor" in refusal(
        rezipped(path, exports, lambda entries: entries.update({"data/aotinductor/model/m.so": b"\x7fELF"}))
    )


def test_archives_that_are_made_to_harm(tmp_path, exports):
    path = tmp_path / "net.pt2"
    bomb = {"data/weights/weight_99": bytes(50_000_000)}
    assert "compressed" in refusal(
        rezipped(path, exports, lambda entries: entries.update(bomb), compression=zipfile.ZIP_DEFLATED)
    )
    assert path.stat().st_size < 1_000_000
    rezipped(path, exports, lambda entries: entries.pop("data/sample_inputs/model.pt"))
    assert "is missing" in refusal(path)


def test_weights_of_a_program(exports):
    shipped = onnx_graph.ExportableNetwork(MODEL, SEEN)
    found = torch_program.read_weights(exports / "net.pt2", (exports / "net.pt2").read_bytes())
    assert set(found) == set(shipped.state_dict())
    assert all(np.array_equal(found[name], value.numpy()) for name, value in shipped.state_dict().items())


def test_weights_that_do_not_fit_their_list(tmp_path, exports):
    path = tmp_path / "net.pt2"
    name = "data/weights/weight_0"
    rezipped(path, exports, lambda entries: entries.update({name: entries[name][:-4]}))
    with pytest.raises(ExportedFileError, match="damaged"):
        torch_program.read_weights(path, path.read_bytes())
