"""Classes of data whose folders are called after WordNet IDs match the names of ImageNet networks."""

import pytest

from resnetlab.config import ConfigError
from resnetlab.evaluation.class_matching import match_classes
from resnetlab.literature.class_names import imagenet_classes, published_classes

NAMES = published_classes("imagenet")


def match(model_classes, data_classes, **options):
    return match_classes(model_classes, data_classes, model_name="net", data_name="data", **options).tolist()


def test_all_wordnet_ids():
    assert match(NAMES, tuple(imagenet_classes())) == list(range(1000))


def test_a_few_of_them():
    assert match(NAMES, ("n02123045", "n01440764"), allow_missing=True) == [281, 0]
    with pytest.raises(ConfigError, match="evaluate on the others with --allow-missing-classes"):
        match(NAMES, ("n02123045", "n01440764"))


def test_networks_whose_own_names_are_ids_are_matched_by_them():
    assert match(("n02123045", "n01440764"), ("n01440764", "n02123045")) == [1, 0]


def test_other_ids_and_names_stay():
    with pytest.raises(ConfigError, match="only data has n99999999"):
        match(NAMES, ("n99999999",), allow_missing=True)
    assert match(("tench", "tabby"), ("tabby", "tench")) == [1, 0]
