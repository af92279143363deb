"""Import of published weights: the network computes the same as the original."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers import public_resnets, rare_resnets
from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.data.loader import eval_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.evaluation.protocols import score_split
from resnetlab.models.importing.assumptions import AssumptionOverrides
from resnetlab.models.importing.import_weights import import_weights
from resnetlab.models.importing.unsupported import UnsupportedError
from resnetlab.models.model_card import ModelFileError
from resnetlab.models.zoo import build_model

from conftest import ROOT

SHARED = ROOT.parent / "shared" / "data"


def keys_of(net, prefix="", change=lambda key: key):
    return {prefix + change(key): tensor.clone() for key, tensor in net.state_dict().items()}


def relative_difference(original, model, channels=3, side=32):
    """The largest difference of logits, over the largest logit."""
    images = torch.rand(4, channels, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = original(images), model(images)
    assert expected.abs().max() > 0.1
    return float((expected - found).abs().max() / expected.abs().max())


class Network(NamedTuple):
    """A published network, and what the import should find."""

    make: Callable[[], nn.Module]
    expected: tuple[str, str, str]
    """Shortcut, block and stem."""
    key_format: str
    overrides: AssumptionOverrides = AssumptionOverrides()

    @property
    def side(self):
        return 64 if self.expected[2] == "imagenet" else 32


B_IMAGENET, B_IMAGENET_50 = ("project", "basic", "imagenet"), ("project", "bottleneck", "imagenet")
B_CIFAR, B_CIFAR_50 = ("project", "basic", "cifar"), ("project", "bottleneck", "cifar")
A_CIFAR, C_IMAGENET = ("pad", "basic", "cifar"), ("project_all", "basic", "imagenet")
V1 = AssumptionOverrides(bottleneck_stride="1x1")
torchvision_50 = partial(public_resnets.Torchvision, (2, 1, 1, 2), bottleneck=True)
NETWORKS = {
    "torchvision basic": Network(public_resnets.Torchvision, B_IMAGENET, "torchvision"),
    "torchvision bottleneck": Network(torchvision_50, B_IMAGENET_50, "torchvision"),
    "torchvision bottleneck v1": Network(partial(torchvision_50, v1=True), B_IMAGENET_50, "torchvision", V1),
    "option C": Network(partial(public_resnets.Torchvision, where="everywhere"), C_IMAGENET, "torchvision"),
    "biases before BN": Network(partial(public_resnets.Torchvision, bias=True), B_IMAGENET, "torchvision"),
    "akamaster": Network(public_resnets.Akamaster, A_CIFAR, "akamaster"),
    "kuangliu": Network(public_resnets.Kuangliu, B_CIFAR, "kuangliu"),
    "kuangliu 50": Network(partial(public_resnets.Kuangliu, bottleneck=True), B_CIFAR_50, "kuangliu"),
    "weiaicunzai": Network(public_resnets.Weiaicunzai, B_CIFAR, "weiaicunzai"),
    "weiaicunzai 50": Network(partial(public_resnets.Weiaicunzai, bottleneck=True), B_CIFAR_50, "weiaicunzai"),
    "D-X-Y": Network(public_resnets.DXY, A_CIFAR, "D-X-Y"),
    "Hugging Face": Network(rare_resnets.HuggingFace, B_IMAGENET, "Hugging Face"),
    "Hugging Face 50": Network(partial(rare_resnets.HuggingFace, bottleneck=True), B_IMAGENET_50, "Hugging Face"),
    "unnamed shortcut": Network(rare_resnets.D2L, B_CIFAR, "unknown"),
    "Detectron2": Network(rare_resnets.Detectron, B_IMAGENET_50, "Detectron2"),
}


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_imported_network_computes_what_the_original_does(tmp_path, name, kind):
    network = NETWORKS[name]
    original = public_resnets.randomise(network.make())
    path = tmp_path / f"net.{kind}"
    if kind == "pth":
        torch.save({"epoch": 3, "state_dict": keys_of(original, "module.")}, path)
    else:
        save_file(keys_of(original), path)
    found = import_weights(path, network.overrides)
    config = found.model.config
    assert (config.shortcut, config.block, config.stem) == network.expected
    assert network.key_format in found.key_format.name
    assert relative_difference(original, found.model, side=network.side) < 1e-5
    assert not found.model.training


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_without_batch_normalisation(tmp_path, plain, bottleneck):
    original = public_resnets.randomise(rare_resnets.WithoutNorm(plain, bottleneck))
    torch.save(original.state_dict(), tmp_path / "bare.pt")
    overrides = AssumptionOverrides(shortcut="none") if plain else AssumptionOverrides(zero_channels="split")
    found = import_weights(tmp_path / "bare.pt", overrides)
    assert found.model.config.norm == "none"
    assert found.model.config.arm == ("plain" if plain else "residual")
    assert relative_difference(original, found.model, channels=1) < 1e-5
    if not plain:  # the other position is another function, so the test above can fail
        appended = import_weights(tmp_path / "bare.pt", AssumptionOverrides(zero_channels="append"))
        assert relative_difference(original, appended.model, channels=1) > 1e-3


def test_a_wrong_override_is_another_function(tmp_path):
    for net, wrong in [
        (public_resnets.Akamaster(1), AssumptionOverrides(zero_channels="append")),
        (public_resnets.DXY(1), AssumptionOverrides(zero_channels="split")),
        (public_resnets.DXY(1), AssumptionOverrides(shortcut="none")),
        (public_resnets.Weiaicunzai(bottleneck=True), AssumptionOverrides(bottleneck_stride="1x1")),
    ]:
        torch.save(public_resnets.randomise(net).state_dict(), tmp_path / "a.th")
        assert relative_difference(net, import_weights(tmp_path / "a.th", wrong).model) > 1e-3


PREFIXES = ("module.", "module.module.", "model.", "backbone.", "encoder.", "1.", "net.module.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_keys(tmp_path, prefix):
    original = public_resnets.randomise(public_resnets.Kuangliu())
    torch.save(keys_of(original, prefix), tmp_path / "a.pt")
    assert relative_difference(original, import_weights(tmp_path / "a.pt").model) < 1e-5


@pytest.mark.parametrize("head", ["fc", "classifier", "classifier.1", "head", "head.fc", "last_linear"])
def test_a_backbone_and_a_head_of_any_name(tmp_path, head):
    original = public_resnets.randomise(public_resnets.Torchvision())
    change = lambda key: key.replace("fc.", f"{head}.") if key.startswith("fc.") else f"backbone.{key}"  # noqa: E731
    torch.save({"model": keys_of(original, change=change)}, tmp_path / "a.tar")
    assert relative_difference(original, import_weights(tmp_path / "a.tar").model, side=64) < 1e-5


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", "model_state_dict", "best_one", "a.model"])
def test_wrappers_around_the_state_dict(tmp_path, wrapper, old):
    original = public_resnets.randomise(public_resnets.DXY())
    content = original.state_dict()
    for name in reversed(wrapper.split(".")):
        optimiser = {"state": {0: {"momentum_buffer": torch.ones(3, 3)}}, "param_groups": [{"lr": 0.1}]}
        content = {"optimizer": optimiser, "ema": {"w": torch.ones(2)}, name: content, "epoch": 7, "acc": float("nan")}
    torch.save(content, tmp_path / "a.th", _use_new_zipfile_serialization=not old)
    found = import_weights(tmp_path / "a.th")
    assert relative_difference(original, found.model) < 1e-5
    assert (found.weights.wrapper, found.weights.metadata["epoch"], found.weights.other_state_dicts) == (
        wrapper,
        7,
        ("ema",),
    )


def test_warnings(tmp_path):
    original = public_resnets.randomise(public_resnets.Torchvision(bias=True))
    state = {key: tensor for key, tensor in keys_of(original).items() if "num_batches" not in key and key != "fc.bias"}
    state |= {"total_ops": torch.zeros(1), "criterion.weight": torch.zeros(5), "layer1.0.total_params": torch.zeros(1)}
    state["layer1.0.bn1.running_var"][2:4] = 0
    torch.save(state, tmp_path / "a.pt")
    original.fc.bias.data.zero_()
    original.layer1[0].bn1.running_var[2:4] = 0
    found = import_weights(tmp_path / "a.pt")
    assert found.warnings == (
        "16 convolutions have a bias before batch normalisation; it was moved into the running mean",
        "no num_batches_tracked: an old file (before PyTorch 0.4.1), or frozen; set to 0",
        "a head without a bias; set to 0",
        "left out, since only training uses them: criterion.weight",
        "2 channels of variance 0 in layer1.0.bn1.running_var: their input was constant in training",
    )
    assert relative_difference(original, found.model, side=64) < 1e-5
    state["layer1.0.bn1.running_var"][0] = -1
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("inf")
    state["fc.weight"][:2, 0] = float("nan")
    torch.save(state, tmp_path / "b.pt")
    found = import_weights(tmp_path / "b.pt")
    assert found.num_non_finite == 3
    assert "3 numbers are not finite, in layer2.0.conv1.weight, fc.weight" in found.warnings
    assert "variances below 0 in layer1.0.bn1.running_var" in found.warnings


def test_a_head_without_outputs_is_refused_with_the_name_of_the_file(tmp_path):
    state = public_resnets.DXY().state_dict()
    torch.save(state | {"classifier.weight": torch.ones(0, 64), "classifier.bias": torch.ones(0)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt: num_classes must be at least 1"):
        import_weights(tmp_path / "a.pt")


def test_an_untrained_network_is_reported(tmp_path):
    torch.save(build_model("resnet8").state_dict(), tmp_path / "a.pt")
    found = import_weights(tmp_path / "a.pt")
    assert found.warnings == ("every running mean is 0 and every variance 1: batch normalisation was never trained",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    original = public_resnets.randomise(public_resnets.Akamaster(1)).to(dtype)
    save_file(keys_of(original), tmp_path / "a.safetensors")
    found = import_weights(tmp_path / "a.safetensors")
    assert found.warnings[0] == f"numbers of type {str(dtype).removeprefix('torch.')}; read as float32"
    assert {x.dtype for x in found.model.state_dict().values()} == {torch.float32, torch.int64}
    assert relative_difference(original.float(), found.model) < 1e-5


def test_batch_normalisation_without_scale_and_a_head_that_is_a_convolution(tmp_path):
    original = public_resnets.randomise(public_resnets.Kuangliu())
    state = keys_of(original)
    for name, module in original.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1)
            module.bias.data.fill_(0)
            del state[f"{name}.weight"], state[f"{name}.bias"]
    state["linear.weight"] = state["linear.weight"][:, :, None, None]
    torch.save(state, tmp_path / "a.pt")
    found = import_weights(tmp_path / "a.pt")
    assert relative_difference(original, found.model) < 1e-5
    assert found.warnings == ("batch normalisation without scale and shift; set to 1 and 0",)


def test_reading_changes_neither_the_file_nor_the_generator(tmp_path):
    torch.save(public_resnets.randomise(public_resnets.DXY()).state_dict(), tmp_path / "a.pt")
    before, state = (tmp_path / "a.pt").read_bytes(), torch.get_rng_state()
    model = import_weights(tmp_path / "a.pt").model
    model.conv1.weight.data.fill_(0)  # pyright: ignore[reportCallIssue]
    assert (tmp_path / "a.pt").read_bytes() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_other_number_types_are_refused(tmp_path):
    for change in (lambda x: x.int(), lambda x: x.to(torch.complex64), lambda x: x.to_sparse()):
        state = public_resnets.DXY().state_dict()
        state["stage_1.0.conv_a.weight"] = change(state["stage_1.0.conv_a.weight"])
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises((UnsupportedError, ModelFileError), match=r"stage_1\.0\.conv_a\.weight has numbers|refused"):
            import_weights(tmp_path / "a.pt")


def test_overrides_that_contradict_the_weights_are_refused(tmp_path):
    torch.save(public_resnets.Kuangliu().state_dict(), tmp_path / "b.pt")
    torch.save(public_resnets.DXY().state_dict(), tmp_path / "a.pt")
    for name, overrides, message in [
        ("b", AssumptionOverrides(shortcut="none"), "the shortcuts of this network have weights [(]option B"),
        ("b", AssumptionOverrides(zero_channels="split"), "--zero-channels applies to option A"),
        ("a", AssumptionOverrides(shortcut="none", zero_channels="split"), "--zero-channels applies to option A"),
        ("a", AssumptionOverrides(bottleneck_stride="1x1"), "--bottleneck-stride applies to bottlenecks"),
    ]:
        with pytest.raises(ConfigError, match=message):
            import_weights(tmp_path / f"{name}.pt", overrides)


@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="shared/data/weights is missing")
def test_published_weights_show_where_their_zero_channels_are(tmp_path):
    for name, layers in (("resnet20-12fca82f", 20), ("resnet56-4bfd9763", 56)):
        found = import_weights(SHARED / "weights" / f"{name}.th")
        assert (found.model.config.name, found.model.config.depth) == (f"resnet{layers}", layers)
        zeros = next(one for one in found.assumptions if "zero" in one.subject)
        assert zeros.value.startswith("half in front")
        assert "the weights show it" in zeros.reason
        state = {key.removeprefix("module.").replace("linear", "fc"): x for key, x in found.weights.tensors.items()}
        save_file(state, tmp_path / f"{name}.safetensors")  # without a known key format; the weights still show it
        again = import_weights(tmp_path / f"{name}.safetensors")
        assert torch.equal(again.model.fc.weight, found.model.fc.weight)
        contrary = import_weights(tmp_path / f"{name}.safetensors", AssumptionOverrides(zero_channels="append"))
        assert any("the weights show zero channels half in front" in one for one in contrary.warnings)
        as_plain = import_weights(tmp_path / f"{name}.safetensors", AssumptionOverrides(shortcut="none"))
        assert any("look like those of option A" in one for one in as_plain.warnings)


@pytest.fixture(scope="module")
def cifar10_test(tmp_path_factory):
    """All test images of CIFAR-10, beside few training images: decoding those takes half a minute."""
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("cifar10")
    for split, count in (("train", 1_000), ("test", None)):
        table = parquet.read_table(next((SHARED / "cifar10").glob(f"{split}-*")))
        parquet.write_table(table.slice(0, count), folder / f"{split}-00000-of-00001.parquet")
    test = open_data(DataConfig(str(folder))).test
    assert len(test) == 10_000
    return test


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="shared/data/weights is missing")
@pytest.mark.skipif(not (SHARED / "cifar10").exists(), reason="shared/data/cifar10 is missing")
@pytest.mark.parametrize(
    ("name", "n", "num_images", "right"),
    [("resnet20-12fca82f", 3, 10_000, 9173), ("resnet56-4bfd9763", 9, 2_000, 1866)],
)
def test_published_weights_reach_their_published_accuracy(cifar10_test, name, n, num_images, right):
    """On the test images; of the deeper network on every fifth, since all gave 9,339 right, as published.

    They are sorted by class, so that the first of them would not do.
    """
    path = SHARED / "weights" / f"{name}.th"
    original = public_resnets.Akamaster(n)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    original.load_state_dict({key.removeprefix("module."): tensor for key, tensor in state.items()}, strict=False)
    model = import_weights(path).model
    test = cifar10_test.subset(torch.arange(0, 10_000, 10_000 // num_images))
    prepared = Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert score_split(model, test, prepared).num_wrong == num_images - right
    num_compared = 0
    with torch.no_grad():
        for images, _ in eval_batches(test.subset(torch.arange(0, num_images, num_images // 2_000)), prepared):
            assert torch.equal(original.eval()(images).argmax(1), model(images).argmax(1))
            num_compared += len(images)
    assert num_compared == 2_000
