"""The preprocessing and classes of an imported network: the user's values, and what its weights show."""

import re

import numpy as np
import pytest
import torch

from resnetlab.cli import inspect
from resnetlab.cli.inspect_conversion import class_names, read_pixel_mean
from resnetlab.cli.main import parse
from resnetlab.config import ConfigError
from resnetlab.models.importing.weight_checks import bn_variance_ratio
from resnetlab.models.model_file import load_model
from resnetlab.models.zoo import build_model


def run(*words):
    return inspect.run(parse(inspect.Options, "inspect", [*map(str, words)]))


def test_a_pixel_mean_that_does_not_fit_is_refused(tmp_path):
    for content, message in [
        (np.zeros((2, 8, 9)), r"has shape \(2, 8, 9\)"),
        (np.zeros((8, 8)), r"has shape \(8, 8\)"),
        (np.full((3, 8, 8), np.nan), "from 0 to 1"),
        (np.full((3, 8, 8), -1.0), "from 0 to 1"),
        (np.full((3, 8, 8), 256.0), "from 0 to 1"),
        (np.array(["a"]), "not an array of numbers"),
        (np.array([{}]), "cannot be read as .npy"),
    ]:
        np.save(tmp_path / "mean.npy", content)
        with pytest.raises(ConfigError, match=rf"mean\.npy: .*{message}"):
            read_pixel_mean(tmp_path / "mean.npy", 3)
    np.savez(tmp_path / "mean.npz", a=np.zeros(3))
    with pytest.raises(ConfigError, match="not an array"):
        read_pixel_mean(tmp_path / "mean.npz", 3)
    (tmp_path / "text.npy").write_text("x")
    for name in ("text.npy", "nowhere.npy"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read as .npy"):
            read_pixel_mean(tmp_path / name, 3)


def test_the_mean_of_a_rectangle_sets_height_and_width(tmp_path):
    torch.save(build_model("resnet8", 2).state_dict(), tmp_path / "net.pth")
    np.save(tmp_path / "mean.npy", np.full((3, 8, 9), 0.5))
    saving = ("--save", tmp_path / "a.safetensors", "--classes", "a", "b", "--pixel-mean", tmp_path / "mean.npy")
    run(tmp_path / "net.pth", *saving, "--image-size", 8, 9)
    preprocessing = load_model(tmp_path / "a.safetensors")[1].preprocessing
    assert preprocessing.input_size == (8, 9)
    assert len(preprocessing.pixel_mean) == 3 * 8 * 9


@pytest.mark.parametrize(("mean_scale", "train_scale"), [(1, 1), (255, 1), (255, 255), (1, 255)])
def test_the_pixel_scale_is_that_of_the_training(tmp_path, capsys, mean_scale, train_scale):
    """A mean of pixels from 0 to 255 does not determine whether they were divided by 255; the first BN does."""
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet8", 10, generator=generator)
    for _ in range(60):  # until the initial variance has decayed
        model.train()(0.25 * train_scale * torch.randn(8, 3, 24, 24, generator=generator))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    mean = np.full((3, 24, 24), 0.5)
    np.save(tmp_path / "mean.npy", mean_scale * mean)
    out = tmp_path / "a.safetensors"
    run(tmp_path / "net.pth", "--save", out, "--classes", "cifar10", "--pixel-mean", tmp_path / "mean.npy")
    printed = " ".join(capsys.readouterr().out.split())
    assert bool(re.search(r"trained on numbers about 2\d\d times larger than", printed)) == (mean_scale < train_scale)
    assert ("and the weights were trained on those minus the mean" in printed) == (mean_scale == train_scale == 255)
    prepared = load_model(out)[1].preprocessing
    assert prepared.std == pytest.approx((1 / 255 if mean_scale == train_scale == 255 else 1.0,) * 3)
    run(
        tmp_path / "net.pth",
        "--save",
        tmp_path / "b.safetensors",
        "--classes",
        "cifar10",
        "--mean",
        *[128] * 3,
        "--std",
        *[1] * 3,
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert bool(re.search(r"trained on numbers about 2\d\d times smaller than", printed)) == (train_scale == 1)


def test_an_untrained_network_shows_no_pixel_scale():
    std = (0.25,) * 3
    assert bn_variance_ratio(build_model("resnet8").state_dict(), std) is None
    assert bn_variance_ratio(build_model("resnet8", norm="none").state_dict(), std) is None
    model = build_model("resnet8")
    model.train()(torch.randn(8, 3, 16, 16))
    dead = model.state_dict() | {"bn1.running_var": torch.zeros(16)}
    assert bn_variance_ratio(dead, std) is None


def test_a_list_of_classes_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "names.txt").write_text("aeroplane\nbird\n", "utf-8-sig")
    assert class_names([str(tmp_path / "names.txt")], 2) == ("aeroplane", "bird")
