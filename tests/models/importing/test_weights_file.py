"""Reading of weight files: safetensors, PyTorch checkpoints, other files, and malicious files."""

import io
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.public_resnets import DXY
from resnetlab.models.importing.weights_file import read_weights
from resnetlab.models.model_card import ModelFileError


class Malicious:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_zip(path, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_reading_executes_nothing(tmp_path):
    for name, new in (("new.pth", True), ("old.pth", False)):
        trap = tmp_path / f"{name}.trap"
        torch.save(
            {"state_dict": {"a": torch.ones(2, 2)}, "x": Malicious(trap)},
            tmp_path / name,
            _use_new_zipfile_serialization=new,
        )
        with pytest.raises(ModelFileError, match=rf"{name}: refused: it contains objects such as _?io\.open"):
            read_weights(tmp_path / name)
        assert not trap.exists()
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "trap"), 2))
    with pytest.raises(ModelFileError, match=r"bare\.pt: refused: it contains objects such as _?io\.open"):
        read_weights(tmp_path / "bare.pt")
    assert not (tmp_path / "trap").exists()
    torch.save(nn.Conv2d(3, 3, 3), tmp_path / "module.pt")
    with pytest.raises(ModelFileError, match=r"torch\.nn\.modules\.conv\.Conv2d .*save its state_dict"):
        read_weights(tmp_path / "module.pt")
    torch.save({"net": nn.Conv2d(3, 3, 3).state_dict(), "acc": np.float64(1)}, tmp_path / "numpy.pt")
    with pytest.raises(ModelFileError, match=r"objects such as numpy\S*scalar"):
        read_weights(tmp_path / "numpy.pt")


def test_other_files_are_refused_with_their_kind(tmp_path):
    state = DXY().state_dict()
    torch.save(state, tmp_path / "whole.pt")
    torch.save(state, tmp_path / "whole-old.pt", _use_new_zipfile_serialization=False)
    save_file(dict(state), tmp_path / "whole.safetensors")
    scripted = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), scripted)
    write_zip(tmp_path / "words.zip", **{"a/words.txt": "hello"})
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    huge = struct.pack("<Q", 1 << 60) + b"{" + b" " * 100
    for name, content, message in [
        ("empty.pt", b"", "an empty file"),
        ("random.pt", np.random.default_rng(0).bytes(5000), "neither safetensors nor a PyTorch file, or a damaged one"),
        ("random2.pt", b"\x80\x02" + np.random.default_rng(0).bytes(5000), "a pickle, but not from torch.save"),
        ("text.pt", b"hello, no network\n", "it looks like text"),
        ("page.pt", b"<!DOCTYPE html>", "a web page or XML"),
        ("lfs.pt", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("a.npy", buffer.getvalue(), "a NumPy array"),
        ("zero.pt", bytes(4096), "no file of weights"),
        ("huge.safetensors", huge, "cannot be read as safetensors"),
        ("cut.pt", (tmp_path / "whole.pt").read_bytes()[:20_000], "damaged or unfinished"),
        ("cut-old.pt", (tmp_path / "whole-old.pt").read_bytes()[:20_000], "damaged or unfinished PyTorch file"),
        ("cut.safetensors", (tmp_path / "whole.safetensors").read_bytes()[:20_000], "cannot be read as safetensors"),
        ("words.zip", None, "a zip archive, but not from torch.save"),
        ("packed.pt", None, "a compressed zip archive"),
        ("script.pt", None, "a TorchScript program"),
        ("nowhere.pt", None, "no such model file"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=f"{name}: .*{message}"):
            read_weights(tmp_path / name)
    with pytest.raises(ModelFileError, match="a folder without"):
        read_weights(tmp_path)
    with (tmp_path / "sparse.pt").open("wb") as file:  # a sparse file of one terabyte
        file.truncate(1 << 40)
    with pytest.raises(ModelFileError, match="no file of weights"):
        read_weights(tmp_path / "sparse.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty dict"),
        ({"epoch": 3, "name": "x"}, r"a dict \(epoch, name\), and no state dict"),
        ([torch.ones(2)], "an object of type list"),
        (torch.ones(2), "one tensor"),
        (7, "an object of type int"),
        ({"a": {"b": {"c": {"d": {"e": {"f": torch.ones(2, 2)}}}}}}, "no state dict"),
    ],
)
def test_contents_without_a_state_dict_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match=message):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("before", ["optimizer", "momentum_buffer", "ema_grads"])
def test_optimiser_tensors_are_not_taken_for_weights(tmp_path, before):
    torch.save({before: {"a": torch.zeros(2, 2)}, "my_net": {"a": torch.ones(2, 2)}}, tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")
    assert found.wrapper == "my_net"
    assert found.tensors["a"].sum() == 4


@pytest.mark.parametrize("wrapped", [False, True])
def test_tensors_of_more_numbers_than_are_stored_are_refused(tmp_path, wrapped):
    state = {"conv1.weight": torch.ones(2, 3, 3, 3), "fc.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    torch.save({"model": state} if wrapped else state, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match=r"fc\.weight has 1,099,511,627,776 numbers, and the file stores fewer"):
        read_weights(tmp_path / "a.pth")
    whole = torch.ones(64, 64)
    torch.save({"a.weight": whole[:2], "b.weight": whole[2:].T}, tmp_path / "views.pth")
    assert read_weights(tmp_path / "views.pth").tensors["b.weight"].shape == (64, 62)


def test_a_flipped_byte_is_detected(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(64, 64)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(8).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(64, 64))  # PyTorch does not check
    with pytest.raises(ModelFileError, match=r"a\.pt: a damaged PyTorch file \(wrong checksum of its record a/data/0"):
        read_weights(path)


def test_a_file_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(4, 4)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_weights(tmp_path / "a.pt").tensors["a"], torch.ones(4, 4))
