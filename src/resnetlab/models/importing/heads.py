"""Heads that are no plain linear layer on the averaged map: each is refused by its name."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from resnetlab.models.importing.state_dict_layers import StateDictLayer
from resnetlab.models.importing.unsupported import unsupported

if TYPE_CHECKING:
    from torch import Tensor

SCALES = re.compile(r"(^|[._])(s|scale|sigma|gamma|temperature|temp|tau|logit_scale)$", re.IGNORECASE)
"""Keys of the factor by which a head multiplies cosines."""
UNIT_TOLERANCE = 1e-3


def refuse_normalised_head(outside: Sequence[StateDictLayer], channels: int, name: str) -> None:
    """Refuse a head that divides features and weights by their norms, if its keys or its shape show it.

    Args:
        outside: The layers outside the blocks.
        channels: Output channels of the last block.
        name: The network, for the message.

    Raises:
        UnsupportedError: naming the head.
    """
    kind = f"{name} with a head that normalises its features (a cosine classifier)"
    linear = [layer for layer in outside if layer.kind == "linear"]
    without_bias = all("bias" not in layer.keys for layer in linear)  # a factor beside a bias calibrates
    for layer in outside:
        if layer.kind in ("linear", "other"):
            scale = next((key for leaf, key in layer.keys.items() if SCALES.search(leaf)), None)
            if scale is not None and ((linear and without_bias) or "weight" in layer.keys):
                raise unsupported(kind, f"it has {scale}, the factor of its cosines; a linear layer has none")
    if len(linear) == 1 and linear[0].shape[0] == channels != linear[0].shape[1]:
        raise unsupported(
            kind,
            f"the weight of {linear[0].name} is {channels} x {linear[0].shape[1]}, features by classes as in "
            "NormedLinear, and a linear layer has classes by features",
        )


def refuse_unit_head(state: "Mapping[str, Tensor]", keys: Mapping[str, str], name: str) -> None:
    """Refuse a head without a bias whose weights have a norm of 1 for every class: only a cosine classifier has such.

    Raises:
        UnsupportedError: naming the head.
    """
    if "fc.bias" in keys:
        return
    norms = state["fc.weight"].float().norm(dim=1)
    if len(norms) > 1 and bool(((norms - 1).abs() < UNIT_TOLERANCE).all()):
        raise unsupported(
            f"{name} with a head that normalises its features (a cosine classifier)",
            f"{keys['fc.weight']} has a norm of 1 for every class, and no bias",
        )
