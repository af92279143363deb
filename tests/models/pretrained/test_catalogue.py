"""The catalogue against constants copied from the publishers' pages, and its entries against the networks."""

import pytest
import torch

from resnetlab.config import Preprocessing
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.registry import KNOWN_DATASETS
from resnetlab.literature.class_names import imagenet_classes, name_wnids, published_classes
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.models.resnet import ResNet

PYTORCH, TIMM = "https://download.pytorch.org/models/", "/pytorch-image-models/releases/download/v0.1-rsb-weights/"
AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
CHENYAOFO = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet/"
PUBLISHED = {
    # torchvision/models/resnet.py: url, acc@1, acc@5, num_params, resize_size
    "resnet18.tv_in1k": (f"{PYTORCH}resnet18-f37072fd.pth", 69.758, 89.078, 11_689_512, 256),
    "resnet34.tv_in1k": (f"{PYTORCH}resnet34-b627a593.pth", 73.314, 91.420, 21_797_672, 256),
    "resnet50.tv_in1k": (f"{PYTORCH}resnet50-0676ba61.pth", 76.130, 92.862, 25_557_032, 256),
    "resnet50.tv2_in1k": (f"{PYTORCH}resnet50-11ad3fa6.pth", 80.858, 95.434, 25_557_032, 232),
    "resnet101.tv_in1k": (f"{PYTORCH}resnet101-63fe2227.pth", 77.374, 93.546, 44_549_160, 256),
    "resnet101.tv2_in1k": (f"{PYTORCH}resnet101-cd907fc2.pth", 81.886, 95.780, 44_549_160, 232),
    "resnet152.tv_in1k": (f"{PYTORCH}resnet152-394f9c45.pth", 78.312, 94.046, 60_192_808, 256),
    "resnet152.tv2_in1k": (f"{PYTORCH}resnet152-f82ba261.pth", 82.284, 96.002, 60_192_808, 232),
    "resnext50_32x4d.tv_in1k": (f"{PYTORCH}resnext50_32x4d-7cdf4587.pth", 77.618, 93.698, 25_028_904, 256),
    "resnext50_32x4d.tv2_in1k": (f"{PYTORCH}resnext50_32x4d-1a0047aa.pth", 81.198, 95.340, 25_028_904, 232),
    "resnext101_32x8d.tv_in1k": (f"{PYTORCH}resnext101_32x8d-8ba56ff5.pth", 79.312, 94.526, 88_791_336, 256),
    "resnext101_32x8d.tv2_in1k": (f"{PYTORCH}resnext101_32x8d-110c445d.pth", 82.834, 96.228, 88_791_336, 232),
    "resnext101_64x4d.tv_in1k": (f"{PYTORCH}resnext101_64x4d-173b62eb.pth", 83.246, 96.454, 83_455_272, 232),
    "wide_resnet50_2.tv_in1k": (f"{PYTORCH}wide_resnet50_2-95faca4d.pth", 78.468, 94.086, 68_883_240, 256),
    "wide_resnet50_2.tv2_in1k": (f"{PYTORCH}wide_resnet50_2-9ba9bcbe.pth", 81.602, 95.758, 68_883_240, 232),
    "wide_resnet101_2.tv_in1k": (f"{PYTORCH}wide_resnet101_2-32ee1156.pth", 78.848, 94.284, 126_886_696, 256),
    "wide_resnet101_2.tv2_in1k": (f"{PYTORCH}wide_resnet101_2-d733dc28.pth", 82.510, 96.020, 126_886_696, 232),
    # timm/models/resnet.py: url; results/results-imagenet.csv: top1, top5 at 224 pixels
    "resnet18.a1_in1k": (
        f"https://github.com/huggingface{TIMM}resnet18_a1_0-d63eafa0.pth",
        *(71.504, 90.086, 11_689_512, 235),
    ),
    "resnet34.a1_in1k": (
        f"https://github.com/huggingface{TIMM}resnet34_a1_0-46f8f793.pth",
        *(76.420, 92.896, 21_797_672, 235),
    ),
    "resnet50.a1_in1k": (
        f"https://github.com/rwightman{TIMM}resnet50_a1_0-14fe96d1.pth",
        *(80.382, 94.598, 25_557_032, 235),
    ),
    "resnet101.a1h_in1k": (
        f"https://github.com/rwightman{TIMM}resnet101_a1h-36d3f2aa.pth",
        *(81.950, 95.760, 44_549_160, 235),
    ),
    "resnet152.a1h_in1k": (
        f"https://github.com/rwightman{TIMM}resnet152_a1h-dc400468.pth",
        *(82.818, 96.124, 60_192_808, 235),
    ),
    # README of pytorch_resnet_cifar10: url, 100 - error; parameters as in the paper's Table 6
    "resnet20.akamaster_cifar10": (f"{AKAMASTER}resnet20-12fca82f.th", 91.73, None, 269_722, None),
    "resnet32.akamaster_cifar10": (f"{AKAMASTER}resnet32-d509ac18.th", 92.63, None, 464_154, None),
    "resnet44.akamaster_cifar10": (f"{AKAMASTER}resnet44-014dd654.th", 93.10, None, 658_586, None),
    "resnet56.akamaster_cifar10": (f"{AKAMASTER}resnet56-4bfd9763.th", 93.39, None, 853_018, None),
    "resnet110.akamaster_cifar10": (f"{AKAMASTER}resnet110-1d1ed7c2.th", 93.68, None, 1_727_962, None),
    "resnet1202.akamaster_cifar10": (f"{AKAMASTER}resnet1202-f3b1deed.th", 93.82, None, 19_421_274, None),
    # README of pytorch-cifar-models: url, top-1, top-5
    "resnet20.chenyaofo_cifar10": (f"{CHENYAOFO}cifar10_resnet20-4118986f.pt", 92.60, 99.81, 272_474, None),
    "resnet32.chenyaofo_cifar10": (f"{CHENYAOFO}cifar10_resnet32-ef93fc4d.pt", 93.53, 99.77, 466_906, None),
    "resnet44.chenyaofo_cifar10": (f"{CHENYAOFO}cifar10_resnet44-2a3cabcb.pt", 94.01, 99.77, 661_338, None),
    "resnet56.chenyaofo_cifar10": (f"{CHENYAOFO}cifar10_resnet56-187c023a.pt", 94.37, 99.83, 855_770, None),
    "resnet20.chenyaofo_cifar100": (f"{CHENYAOFO}cifar100_resnet20-23dac2f1.pt", 68.83, 91.01, 278_324, None),
    "resnet32.chenyaofo_cifar100": (f"{CHENYAOFO}cifar100_resnet32-84213ce6.pt", 70.16, 90.89, 472_756, None),
    "resnet44.chenyaofo_cifar100": (f"{CHENYAOFO}cifar100_resnet44-ffe32858.pt", 71.63, 91.58, 667_188, None),
    "resnet56.chenyaofo_cifar100": (f"{CHENYAOFO}cifar100_resnet56-f2eff4c8.pt", 72.63, 91.94, 861_620, None),
}
IMAGENET = [name for name in CATALOGUE if name.endswith("_in1k")]


def test_every_entry_is_checked():
    assert set(PUBLISHED) == set(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_facts(name):
    entry, (url, top1, top5, params, resize) = CATALOGUE[name], PUBLISHED[name]
    assert (entry.file.url, entry.top1_pct, entry.top5_pct, entry.resize_size) == (url, top1, top5, resize)
    assert entry.num_params == params
    suffix = url.rpartition("-")[2].partition(".")[0]  # publishers append the first digits of the SHA-256
    assert entry.file.digest.startswith(suffix)
    assert len(entry.file.digest) in (8, 64)


@pytest.mark.parametrize("name", CATALOGUE)
def test_number_of_parameters(name):
    with torch.device("meta"):
        network = ResNet(CATALOGUE[name].model)
    assert sum(parameter.numel() for parameter in network.parameters()) == CATALOGUE[name].num_params


@pytest.mark.parametrize("name", IMAGENET)
def test_preprocessing_of_imagenet(name):
    entry = CATALOGUE[name]
    preprocessing, timm = entry.preprocessing, ".a1" in name
    assert (preprocessing.mean, preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert preprocessing.interpolation == ("bicubic" if timm else "bilinear")
    assert preprocessing.resize_rule == ("timm" if timm else "torchvision")
    assert preprocessing.color_profiles == "ignore"
    layout = EvalView.of(preprocessing).layout(375, 500)
    assert (layout.height, preprocessing.image_size) == (entry.resize_size, 224)


def test_preprocessing_of_cifar():
    """As in the trainer of pytorch_resnet_cifar10 and in the logs of pytorch-cifar-models."""
    imagenet = Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    cifar10 = Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))
    cifar100 = Preprocessing(32, (0.507, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
    assert CATALOGUE["resnet20.akamaster_cifar10"].preprocessing == imagenet
    assert CATALOGUE["resnet20.chenyaofo_cifar10"].preprocessing == cifar10
    assert CATALOGUE["resnet20.chenyaofo_cifar100"].preprocessing == cifar100


def test_licences():
    licences = {entry.publisher.name: entry.publisher.licence for entry in CATALOGUE.values()}
    assert licences == {
        "torchvision": "BSD-3-Clause",
        "timm": "Apache-2.0",
        "akamaster": "BSD-2-Clause",
        "chenyaofo": "BSD-3-Clause",
    }


def test_class_names_are_those_of_the_data_sets():
    for data in ("cifar10", "cifar100"):
        assert published_classes(data) == KNOWN_DATASETS[data].classes
    names = published_classes("imagenet")
    assert (len(names), len(set(names))) == (1000, 1000)
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert [name for name in names if name.startswith(("crane", "maillot"))] == [
        "crane (n02012849)",
        "crane (n03126707)",
        "maillot (n03710637)",
        "maillot (n03710721)",
    ]
    assert list(imagenet_classes()) == sorted(imagenet_classes())  # the order of folders


def test_names_of_wordnet_ids():
    assert name_wnids(["n02123045", "n01440764"]) == ("tabby", "tench")
    assert name_wnids(["n02123045", "n99999999"]) is None
    assert name_wnids(["n02123045", "cat"]) is None
    assert name_wnids([]) is None
