"""The blocks by name: those of the paper, its variants, and the user's own."""

from dataclasses import fields

from resnetlab.config import BLOCK_PROPERTIES, BlockProperties
from resnetlab.models.blocks import BasicBlock, Block, Bottleneck
from resnetlab.models.variants.bn_after_addition import BnAfterAdditionBlock
from resnetlab.models.variants.constant_scaling import ConstantScalingBlock
from resnetlab.models.variants.dropout_shortcut import DropoutShortcutBlock
from resnetlab.models.variants.fixup import FixupBlock
from resnetlab.models.variants.gated_shortcut import ExclusiveGatingBlock, ShortcutGatingBlock
from resnetlab.models.variants.no_last_relu import NoLastReluBlock
from resnetlab.models.variants.preact import PreActBlock, PreActBottleneck
from resnetlab.models.variants.rezero import ReZeroBlock, SkipInitBlock
from resnetlab.models.variants.squeeze_excitation import ExcitedBlock, ExcitedBottleneck
from resnetlab.models.variants.stochastic_depth import StochasticDepthBlock
from resnetlab.serialization import check

BLOCKS: dict[str, type[Block]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "preact": PreActBlock,
    "preact-bottleneck": PreActBottleneck,
    "no-last-relu": NoLastReluBlock,
    "bn-after-addition": BnAfterAdditionBlock,
    "constant-scaling": ConstantScalingBlock,
    "exclusive-gating": ExclusiveGatingBlock,
    "shortcut-gating": ShortcutGatingBlock,
    "dropout-shortcut": DropoutShortcutBlock,
    "rezero": ReZeroBlock,
    "skipinit": SkipInitBlock,
    "fixup": FixupBlock,
    "stochastic-depth": StochasticDepthBlock,
    "se": ExcitedBlock,
    "se-bottleneck": ExcitedBottleneck,
}
"""The class of each value of `ModelConfig.block`."""


def register_block(name: str, block_class: type[Block]) -> None:
    """Register a block under a name, so that `ModelConfig(block=name)` and `build_model(..., block=name)` use it.

    A model file stores the name, not the class: register the block in every process that loads the file.

    Raises:
        ConfigError: if the name is empty or taken, if the class is no subclass of `Block`, or if it does not declare
            `num_convs` and `expansion` as integers of at least 1.
    """
    taken = BLOCKS.get(name)
    check(isinstance(name, str) and name != "", f"a block needs a name of at least one letter, not {name!r}")
    check(taken is None, f"block name {name!r} is taken by {getattr(taken, '__name__', '')}; choose another name")
    subclass = isinstance(block_class, type) and issubclass(block_class, Block)
    check(subclass, f"block {name!r} must be a subclass of resnetlab.Block, not {block_class!r}")
    for field in ("num_convs", "expansion"):
        value = getattr(block_class, field, None)
        message = f"{block_class.__name__}.{field} must be an integer of at least 1, not {value!r}; declare it"
        check(type(value) is int and value >= 1, message)
    BLOCKS[name] = block_class
    BLOCK_PROPERTIES[name] = properties_of(block_class)


def properties_of(block_class: type[Block]) -> BlockProperties:
    """Return what a configuration must know of a block."""
    return BlockProperties(**{item.name: getattr(block_class, item.name) for item in fields(BlockProperties)})
