"""What the user says of a foreign network's images, and what its weights say of them."""

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


def test_a_mean_image_that_does_not_fit(tmp_path):
    for content, message in [
        (np.zeros((3, 8, 9)), r"has shape \(3, 8, 9\)"),
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


@pytest.mark.parametrize(("full", "saw"), [(1, 1), (255, 1), (255, 255), (1, 255)])
def test_the_scale_of_the_images_is_what_the_weights_saw(tmp_path, capsys, full, saw):
    """A mean of pixels from 0 to 255 does not say whether they were divided by 255 afterwards; the first BN does."""
    chance = torch.Generator().manual_seed(0)
    model = build_model("resnet8", 10, generator=chance)
    for _ in range(60):  # until nothing is left of the variance it began with
        model.train()(0.25 * saw * torch.randn(8, 3, 24, 24, generator=chance))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    mean = np.full((3, 24, 24), 0.5)
    np.save(tmp_path / "mean.npy", full * mean)
    out = tmp_path / "a.safetensors"
    run(tmp_path / "net.pth", "--save", out, "--classes", "cifar10", "--pixel-mean", tmp_path / "mean.npy")
    printed = " ".join(capsys.readouterr().out.split())
    assert bool(re.search(r"saw numbers about 2\d\d times larger in training", printed)) == (full < saw)
    assert ("and so are what the weights saw, less the mean" in printed) == (full == saw == 255)
    prepared = load_model(out)[1].preprocessing
    assert prepared.std == pytest.approx((1 / 255 if full == saw == 255 else 1.0,) * 3)
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
    assert bool(re.search(r"saw numbers about 2\d\d times smaller in training", printed)) == (saw == 1)


def test_a_network_that_has_seen_nothing_says_nothing_of_its_images():
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
