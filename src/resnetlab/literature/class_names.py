"""Class names of published data sets, in the order of the outputs of published networks."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(_CIFAR100.split())
WNID = re.compile(r"n\d{8}")
"""A WordNet ID, as the class folders of ImageNet are called."""


@cache
def imagenet_classes() -> dict[str, str]:
    """Return the names of the 1,000 classes of ILSVRC-2012 by WordNet ID, in the order of the outputs.

    A name is the first synonym; two classes are called crane and two maillot, and these have their ID behind the name,
    as in data sets that resnetlab reads from the challenge's archives.
    """
    text = files("resnetlab.literature").joinpath("imagenet_classes.txt").read_text("utf-8")
    words = dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    count = Counter(words.values())
    return {wnid: f"{name} ({wnid})" if count[name] > 1 else name for wnid, name in words.items()}


def published_classes(data: str) -> tuple[str, ...]:
    """Return the class names of `cifar10`, `cifar100` or `imagenet`."""
    known = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    return known[data] if data in known else tuple(imagenet_classes().values())


def name_wnids(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of WordNet IDs; `None` if one is no class of ILSVRC-2012."""
    known = imagenet_classes() if names and all(map(WNID.fullmatch, names)) else {}
    return tuple(known[name] for name in names) if names and all(name in known for name in names) else None
