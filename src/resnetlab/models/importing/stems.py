"""The stem of a file's network: one convolution, or the three of ResNet-C and ResNet-D."""

from collections.abc import Mapping, Sequence

from resnetlab.models.importing.conv_bn_pairs import ConvBN, order_layers
from resnetlab.models.importing.state_dict_layers import StateDictLayer, natural_sort_key
from resnetlab.models.importing.unsupported import refuse_stem, unsupported

Stem = Mapping[tuple[str, str], ConvBN]
"""The names of a convolution and of its normalisation in `ResNet` → the file's layers."""

DEEP = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))
"""timm's names of a deep stem's layers, and those of `ResNet`."""


def find_stem(
    convs: Sequence[StateDictLayer], norms: Sequence[StateDictLayer], channels: int, *, in_order: bool, name: str
) -> Stem:
    """Return the stem from the convolutions and normalisations outside the blocks.

    `channels` are the input channels of the first block; `name` describes the network in messages.

    Raises:
        UnsupportedError: for another stem.
    """
    if len(convs) == 3:
        return _deep_stem(convs, norms, channels, in_order=in_order, name=name)
    if len(convs) != 1 or convs[0].kernel not in (3, 7) or convs[0].out_channels != channels:
        refuse_stem(convs, name)
    if len(norms) > 1 or (norms and norms[0].out_channels != channels):
        raise unsupported(f"{name} with more batch normalisation outside its blocks", f"such as {norms[-1].name}")
    return {("conv1", "bn1"): ConvBN(convs[0], norms[0] if norms else None)}


def _deep_stem(
    convs: Sequence[StateDictLayer], norms: Sequence[StateDictLayer], channels: int, *, in_order: bool, name: str
) -> Stem:
    """Return a stem of three 3x3 convolutions, of which two have half of the channels.

    Raises:
        UnsupportedError: for other widths or kernels, or other normalisation.
    """
    convs = order_layers(convs, in_order=in_order)
    half = channels // 2
    widths = [(half, convs[0].shape[1]), (half, half), (channels, half)]
    if [conv.shape[:2] for conv in convs] != widths or any(conv.kernel != 3 for conv in convs):
        refuse_stem(convs, name)
    inner = sorted((norm for norm in norms if norm.out_channels == half), key=lambda norm: natural_sort_key(norm.name))
    last = [norm for norm in norms if norm.out_channels == channels]
    if norms and (len(inner), len(last), len(norms)) != (2, 1, 3):
        found = ", ".join(norm.name for norm in norms)
        raise unsupported(f"{name} with other batch normalisation in its deep stem", f"it has {found}")
    ordered = [*inner, *last] if norms else [None] * 3
    return {names: ConvBN(conv, norm) for names, conv, norm in zip(DEEP, convs, ordered, strict=True)}
