"""Weights as they are found: in parts, with averaged copies, with other heads, or pruned."""

import pytest
import torch
from safetensors.torch import save_file

from resnetlab.models.importing.import_weights import import_weights
from resnetlab.models.importing.unsupported import UnsupportedError
from resnetlab.models.model_card import ModelFileError
from resnetlab.models.zoo import build_model

COSINE = (
    r"a ResNet of 8 layers with a head that normalises its features \(a cosine classifier\), which is not supported"
)


@pytest.fixture
def state():
    model = build_model("resnet8", 10, generator=torch.Generator().manual_seed(0))
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


def saved(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def with_head(state, **head):
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")} | head


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (
            {"linear.weight": torch.randn(64, 10)},
            "the weight of linear is 64 x 10, features by classes as in NormedLinear",
        ),
        (
            {"fc.weight": torch.nn.functional.normalize(torch.randn(10, 64))},
            "fc.weight has a norm of 1 for every class",
        ),
        ({"fc.weight": torch.randn(10, 64), "fc.sigma": torch.ones(1)}, "it has fc.sigma, the factor of its cosines"),
        ({"fc.weight": torch.randn(10, 64), "fc.s": torch.tensor(30.0)}, "it has fc.s, the factor of its cosines"),
        ({"fc.weight": torch.randn(10, 64), "logit_scale": torch.tensor(3.0)}, "it has logit_scale, the factor"),
    ],
)
def test_a_head_that_normalises_is_refused_by_its_name(tmp_path, state, head, reason):
    with pytest.raises(UnsupportedError, match=COSINE) as caught:
        import_weights(saved(tmp_path, with_head(state, **head)))
    assert reason in str(caught.value)


def test_a_linear_head_of_as_many_classes_as_features_is_read(tmp_path, state):
    head = {"fc.weight": torch.randn(64, 64), "fc.bias": torch.zeros(64)}
    assert import_weights(saved(tmp_path, with_head(state, **head))).model.config.num_classes == 64


def narrow(state, block, channels):
    state[f"{block}.conv1.weight"] = state[f"{block}.conv1.weight"][:channels]
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        state[f"{block}.bn1.{leaf}"] = state[f"{block}.bn1.{leaf}"][:channels]
    state[f"{block}.conv2.weight"] = state[f"{block}.conv2.weight"][:, :channels]


@pytest.mark.parametrize("blocks", [("layer1.0",), ("layer2.0",), ("layer1.0", "layer2.0", "layer3.0")])
def test_narrowed_channels_are_refused_by_name(tmp_path, state, blocks):
    for block in blocks:
        narrow(state, block, 12)
    message = (
        rf"with narrowed channels \(as after pruning\), which is not supported: {blocks[0]} has 12 channels inside"
    )
    with pytest.raises(UnsupportedError, match=message):
        import_weights(saved(tmp_path, state))


def test_narrowed_bottlenecks_are_refused_by_name(tmp_path):
    model = build_model("resnet50", 2)
    state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    state["layer1.1.conv1.weight"] = state["layer1.1.conv1.weight"][:50]
    state["layer1.1.conv3.weight"] = state["layer1.1.conv3.weight"][:, :50]
    state["layer1.1.conv2.weight"] = state["layer1.1.conv2.weight"][:50, :50]
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        for norm in ("bn1", "bn2"):
            state[f"layer1.1.{norm}.{leaf}"] = state[f"layer1.1.{norm}.{leaf}"][:50]
    message = (
        r"with narrowed channels \(as after pruning\).*the output of layer1\.1 has 5\.12 times its 50 inner channels"
    )
    with pytest.raises(UnsupportedError, match=message):
        import_weights(saved(tmp_path, state))


def in_parts(folder, state, suffix="safetensors"):
    keys = sorted(state)
    paths = []
    for number, some in enumerate((keys[:20], keys[20:40], keys[40:]), start=1):
        paths.append(folder / f"model-{number:05}-of-00003.{suffix}")
        tensors = {key: state[key] for key in some}
        save_file(tensors, paths[-1]) if suffix == "safetensors" else torch.save(tensors, paths[-1])
    return paths


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_any_part_stands_for_all(tmp_path, state, suffix):
    paths = in_parts(tmp_path, state, suffix)
    for path in paths:
        imported = import_weights(path)
        assert torch.equal(imported.model.fc.weight, state["fc.weight"])
        assert imported.weights.container.endswith(", 3 parts")
    paths[1].unlink()
    with pytest.raises(
        ModelFileError, match=r"is part 1 of 3, and model-00002-of-00003\.\w+ is not beside it; download"
    ):
        import_weights(paths[0])


def test_parts_of_two_networks_are_refused(tmp_path, state):
    paths = in_parts(tmp_path, state)
    save_file(state, paths[2])
    with pytest.raises(ModelFileError, match=r"00003-of-00003\.safetensors: has \S+, and so has another part"):
        import_weights(paths[0])


@pytest.mark.parametrize(
    ("make", "tensors", "wrapper", "others"),
    [
        (lambda state, ema: {"state_dict": state, "ema": ema}, None, "state_dict", ("ema",)),
        (lambda state, ema: {"state_dict": state, "ema": ema}, "ema", "ema", ("state_dict",)),
        (lambda state, ema: {"model": state, "ema": {"decay": 0.9, "module": ema}}, "ema", "ema.module", ()),
        (lambda state, ema: {"model": state, "ema": {"module": ema}}, None, "model", ("ema.module",)),
        (lambda state, ema: prefixed(state, "model") | prefixed(ema, "ema"), "ema", "ema", ()),
        (lambda state, ema: {"state_dict": prefixed(state, "net") | prefixed(ema, "ema")}, "ema", "state_dict.ema", ()),
    ],
)
def test_the_averaged_weights_are_chosen_by_their_key(tmp_path, state, make, tensors, wrapper, others):
    ema = {key: tensor * 0.5 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    path = saved(tmp_path, make(state, ema))
    imported = import_weights(path, tensors=tensors)
    assert torch.equal(imported.model.fc.weight, (ema if tensors else state)["fc.weight"])
    assert (imported.weights.wrapper, imported.weights.other_state_dicts) == (wrapper, others)
    with pytest.raises(ModelFileError, match=r"has no tensors under 'teacher'; --tensors takes one of: "):
        import_weights(path, tensors="teacher")


def prefixed(state, name):
    return {f"{name}.{key}": tensor for key, tensor in state.items()}
