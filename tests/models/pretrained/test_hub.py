"""Models on the Hugging Face hub, through its own client and a local server."""

import json

import pytest
import torch
from safetensors.torch import save

from helpers.hub_server import COMMIT, serve_hub
from helpers.public_resnets import randomise
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, Preprocessing
from resnetlab.models.model_card import ModelCard, find_model_file, read_card
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.pretrained.hub import fetch_from_hub, parse_hub_address
from resnetlab.models.pretrained.hub_configs import read_timm_config, read_transformers_config
from resnetlab.models.pretrained.push import UploadError, hub_page, push_model
from resnetlab.models.zoo import build_model
from resnetlab.system.download import DownloadError

huggingface_hub = pytest.importorskip("huggingface_hub")

TIMM = {
    "architecture": "resnet8",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "test_input_size": [3, 40, 40],
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "license": "apache-2.0",
    },
}
ADDRESS = "hf://someone/pets"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, to which the client and the cache of this test lead."""
    from huggingface_hub import constants

    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    fetch_from_hub.cache_clear()
    with serve_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    fetch_from_hub.cache_clear()


@pytest.fixture
def network():
    return randomise(build_model("resnet8", 2, shortcut="project"))


@pytest.fixture
def model_file(tmp_path, network):
    card = ModelCard(
        network.config,
        ("cat", "dog_*"),
        Preprocessing(32, (0.5,) * 3, (0.25,) * 3, interpolation="bicubic"),
        error={"test_error_pct": 12.345},
    )
    save_model(tmp_path / "own.safetensors", network, card)
    return tmp_path / "own.safetensors"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://timm/resnet18.a1_in1k", "hf://timm/resnet18.a1_in1k"),
        ("hf:/timm/resnet18.a1_in1k", "hf://timm/resnet18.a1_in1k"),  # as a path on the command line
        ("hf://a/b@v1", "hf://a/b@v1"),
        ("resnet18.a1_in1k", "None"),
        ("runs/hf", "None"),
    ],
)
def test_addresses(text, expected):
    assert str(parse_hub_address(text)) == expected


@pytest.mark.parametrize("text", ["hf://a", "hf://a/b/c", "hf://a/b@", "hf:///b", "hf://a b/c"])
def test_invalid_addresses(text):
    with pytest.raises(ConfigError, match="it has the form hf://owner/name"):
        parse_hub_address(text)


def test_model_file_from_the_hub(hub, network, model_file):
    hub.repositories["someone/pets"] = {"model.safetensors": model_file.read_bytes()}
    model, card = load_model(ADDRESS)
    assert card == read_card(model_file)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), network.state_dict().values(), strict=True)
    )
    count = hub.num_requests
    read_card(ADDRESS)
    assert hub.num_requests == count  # looked up once in a process


def test_weights_of_timm(hub, network):
    hub.repositories["someone/pets"] = {
        "model.safetensors": save(network.state_dict()),
        "config.json": json.dumps(TIMM).encode(),
    }
    model, card = load_model(ADDRESS)
    assert torch.equal(model.fc.weight, network.fc.weight)
    assert card.classes == ("cat", "dog")
    size = Preprocessing(
        40,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        interpolation="bicubic",
        resize_rule="timm",
        color_profiles="ignore",
    )
    assert card.preprocessing == size
    assert find_model_file(ADDRESS).name.startswith("someone--pets-")


def test_weights_without_network_once_they_are_cached(hub, network, monkeypatch):
    hub.repositories["someone/pets"] = {
        "model.safetensors": save(network.state_dict()),
        "config.json": json.dumps(TIMM).encode(),
    }
    path = find_model_file(ADDRESS)
    fetch_from_hub.cache_clear()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/{revision}/{filename}")
    assert find_model_file(ADDRESS) == path
    fetch_from_hub.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # without the attempts of the client, which take 20 s
    with pytest.raises(DownloadError, match=r"hf://other/pets: model\.safetensors is not in the hub's cache"):
        find_model_file("hf://other/pets")


def test_timm_defaults():
    """Without label names, 1,000 outputs are ImageNet's; a size for testing above 224 pixels is not the default."""
    values = {**TIMM["pretrained_cfg"], "input_size": [3, 224, 224], "test_input_size": [3, 288, 288]}
    conversion = read_timm_config({"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": values}, "a")
    assert conversion.classes is not None
    assert conversion.classes[0] == "tench"
    assert (conversion.preprocessing.image_size, conversion.preprocessing.crop_ratio) == (224, 0.95)
    values = {**values, "input_size": [3, 176, 176], "test_input_size": [3, 224, 224], "test_crop_pct": 0.965}
    conversion = read_timm_config({"num_classes": 7, "pretrained_cfg": values}, "a")
    assert conversion.classes is None
    assert (conversion.preprocessing.image_size, conversion.preprocessing.crop_ratio) == (224, 0.965)


def test_transformers_config():
    config = {"model_type": "resnet", "id2label": {"0": "cat", "1": "dog"}}
    processor = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "image_mean": [0.5, 0.4, 0.3]}
    conversion = read_transformers_config(config, processor, "a")
    assert conversion.classes == ("cat", "dog")
    assert conversion.preprocessing.mean == (0.5, 0.4, 0.3)
    assert (conversion.preprocessing.interpolation, conversion.preprocessing.crop_ratio) == ("bicubic", 0.875)
    twice = read_transformers_config({"model_type": "resnet", "id2label": {"0": "crane", "1": "crane"}}, {}, "a")
    assert twice.classes == ("crane (0)", "crane (1)")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({}, (224, 0.875, "crop")),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, None),
        ({"size": 256, "crop_size": 224}, None),
        ({"size": {"height": 224, "width": 224}, "do_center_crop": False}, (224, 1.0, "squash")),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}}, (224, 0.875, "squash")),
        ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, (224, 1.0, "squash")),
        ({"size": {"shortest_edge": 288}, "crop_pct": 0.95}, (288, 0.95, "crop")),
        ({"size": {"shortest_edge": 384}, "image_processor_type": "ConvNextImageProcessor"}, (384, 1.0, "squash")),
    ],
)
def test_views_of_transformers(processor, expected):
    seen = read_transformers_config({"model_type": "resnet"}, processor, "a").preprocessing
    assert (seen.image_size, seen.crop_ratio, seen.fit) == (expected or (224, 224 / 256, "crop"))


def test_the_stride_of_transformers(hub):
    stride_of = {True: "1x1", False: "3x3"}
    net = randomise(build_model("resnet11", 2, block="bottleneck", shortcut="project"))
    for first, stride in stride_of.items():
        config = {"model_type": "resnet", "downsample_in_bottleneck": first}
        hub.repositories[f"someone/{stride}"] = {
            "model.safetensors": save(net.state_dict()),
            "config.json": json.dumps(config).encode(),
            "preprocessor_config.json": b'{"size": {"shortest_edge": 224}}',
        }
        assert load_model(f"hf://someone/{stride}")[1].model.bottleneck_stride == stride
    config = {"model_type": "resnet", "downsample_in_bottleneck": True, "layer_type": "basic"}
    basic = read_transformers_config(config, {}, "a")
    assert basic.bottleneck_stride is None


def test_a_network_of_transformers_without_preprocessing_is_refused(hub, network):
    hub.repositories["someone/pets"] = {
        "model.safetensors": save(network.state_dict()),
        "config.json": json.dumps({"model_type": "resnet"}).encode(),
    }
    with pytest.raises(ConfigError, match=r"has no preprocessor_config[.]json with size, mean and deviation"):
        load_model(ADDRESS)


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "wide_resnet101_2", "resnext50_32x4d", "resnext50d_32x4d"])
def test_architectures_of_timm_that_weights_determine(name):
    assert read_timm_config({**TIMM, "architecture": name, "model_args": {"num_classes": 2}}, "a").name == "a"


@pytest.mark.parametrize(
    ("changes", "values", "message"),
    [
        *(
            ({"architecture": name}, {}, f"architecture '{name}', whose weights may have the keys of another")
            for name in ("resnetblur50", "resnetaa50", "resnet50_gn", "resnet26t", "seresnet50", "vit_base_patch16_224")
        ),
        ({"model_args": {"act_layer": "silu", "num_classes": 2}}, {}, "a network with model_args act_layer"),
        ({"global_pool": "max"}, {}, "a network with global_pool 'max'"),
        ({}, {"crop_mode": "border"}, "crop_mode 'border' of its images"),
        ({}, {"input_size": [3, 128, 256]}, "a network of images of 128 x 256 pixels"),
    ],
)
def test_networks_of_timm_that_compute_something_else(changes, values, message):
    config = {**TIMM, **changes, "pretrained_cfg": {**TIMM["pretrained_cfg"], **values}}
    with pytest.raises(ConfigError, match=f"^a: {message} cannot be converted; only ResNets"):
        read_timm_config(config, "a")


@pytest.mark.parametrize(
    ("config", "processor", "message"),
    [
        ({"hidden_act": "gelu"}, {}, "a network with hidden_act 'gelu'"),
        ({"downsample_in_first_stage": True}, {}, "a network with downsample_in_first_stage"),
        ({}, {"do_resize": False}, "a preprocessing without do_resize"),
        ({}, {"size": {"height": 128, "width": 64}}, "a preprocessing to 128 x 64"),
        ({}, {"size": 224, "crop_size": 256}, "a crop of 256 x 256"),
        (
            {},
            {"size": {"shortest_edge": 224}, "do_center_crop": False, "image_processor_type": "BitImageProcessor"},
            "a preprocessing without a crop, in which images keep their shape,",
        ),
    ],
)
def test_networks_of_transformers_that_compute_something_else(config, processor, message):
    with pytest.raises(ConfigError, match=f"^a: {message} cannot be converted"):
        read_transformers_config({"model_type": "resnet", **config}, processor, "a")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pretrained_cfg": {}}, "is not one of timm"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "interpolation": "lanczos"}}, "is not one of timm .*lanczos"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "mean": None}}, "is not one of timm"),
        ({"model_type": "vit"}, "a network of type 'vit'; only resnet"),
        ({"model_type": "resnet", "id2label": {"a": "b"}}, "its configuration cannot be read"),
        (["a"], "is no JSON object"),
    ],
)
def test_configurations_that_cannot_be_read(hub, network, config, message):
    hub.repositories["someone/pets"] = {
        "model.safetensors": save(network.state_dict()),
        "config.json": json.dumps(config).encode(),
        "preprocessor_config.json": b"{}",
    }
    with pytest.raises(ConfigError, match=message):
        find_model_file(ADDRESS)


@pytest.mark.parametrize(
    ("address", "files", "message"),
    [
        ("hf://someone/nothing", {}, "hf://someone/nothing: no such repository, or a private one"),
        ("hf://someone/pets@v9", {}, "the repository has no revision 'v9'"),
        (ADDRESS, {"README.md": b"x"}, "has neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_missing(hub, address, files, message):
    hub.repositories["someone/pets"] = files
    with pytest.raises(DownloadError, match=message):
        find_model_file(address)


def test_weights_without_configuration(hub, network):
    hub.repositories["someone/pets"] = {"model.safetensors": save(network.state_dict())}
    with pytest.raises(ConfigError, match=r"has no config\.json with classes and preprocessing"):
        find_model_file(ADDRESS)


def test_push_and_load(hub, model_file, capsys):
    assert main(["weights", "push", str(model_file), ADDRESS, "--licence", "cc-by-4.0", "--private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(model_file), "url": f"{hub.url}/someone/pets"}
    files = hub.repositories["someone/pets"]
    assert set(files) == {"README.md", "model.safetensors"}
    assert files["model.safetensors"] == model_file.read_bytes()
    assert (hub.created[0]["organization"], hub.created[0]["visibility"]) == ("someone", "private")
    assert hub.messages == ["main: Upload resnet8 with resnetlab"]
    assert hub.authorizations == {"Bearer hf_of_this_test"}
    assert read_card(ADDRESS) == read_card(model_file)


def test_page(model_file):
    address = parse_hub_address(ADDRESS)
    assert address is not None
    page = hub_page(read_card(model_file), address, 75_000, licence="cc-by-4.0")
    assert page.startswith('---\nlibrary_name: "resnetlab"\npipeline_tag: "image-classification"\ntags: [')
    assert '\nlicense: "cc-by-4.0"\n---\n\n# pets\n' in page
    for part in (
        "75,000 parameters, for 2 classes",
        "resnetlab predict hf://someone/pets image.jpg",
        "- test error: 12.35 %",
        "- input: 32 x 32 pixels, 3 channels",
        "bicubic",
        "cat, dog\\_\\*\n",
    ):
        assert part in page
    assert "license:" not in hub_page(read_card(model_file), address, 1)


@pytest.mark.parametrize(("status", "hint"), [(401, "log in with: hf auth login"), (403, "hf auth login"), (400, "")])
def test_refused_upload(hub, model_file, status, hint):
    hub.refuse = status
    with pytest.raises(UploadError, match=f"{ADDRESS}: the upload failed .*{hint}") as caught:
        push_model(model_file, ADDRESS)
    assert "\n" not in str(caught.value)


def test_push_needs_an_address_and_a_model_file(hub, model_file, tmp_path):
    with pytest.raises(ConfigError, match="pets: not an address on the Hugging Face hub"):
        push_model(model_file, "pets")
    with pytest.raises(ConfigError, match="no such model file"):
        push_model(tmp_path / "nothing.safetensors", ADDRESS)
    assert hub.created == []


def test_missing_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    fetch_from_hub.cache_clear()
    with pytest.raises(ConfigError, match=r"hf:// needs the package huggingface_hub .* pip install 'resnetlab\[hub\]'"):
        find_model_file(ADDRESS)


def test_commit_is_that_of_the_server(hub, network):
    hub.repositories["someone/pets"] = {
        "model.safetensors": save(network.state_dict()),
        "config.json": json.dumps(TIMM).encode(),
    }
    assert read_card("hf://someone/pets@v1").classes == ("cat", "dog")
    assert (find_model_file("hf:/someone/pets@v1").name).startswith("someone--pets--v1-")
    assert len(COMMIT) == 40
