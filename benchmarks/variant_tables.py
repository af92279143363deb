"""Print the tables of docs/variants.md: each variant with its size, a published figure, and the test that proves it."""

from resnetlab.literature.ablations import ABLATIONS
from resnetlab.literature.later_networks import LATER_NETWORK_SIZES
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.cost import Cost, cost_of_config
from resnetlab.models.zoo import model_config

ORDER, BRANCH = "variants/test_activation_order.py", "variants/test_residual_branch.py"
NETWORK_TEST = "test_later_networks.py"
BLOCK_TESTS = {
    "preact": f"{ORDER}::test_preactivation",
    "preact-bottleneck": f"{ORDER}::test_the_bottleneck_of_preactivation",
    "no-last-relu": f"{ORDER}::test_no_last_relu",
    "bn-after-addition": f"{ORDER}::test_bn_after_addition",
    "constant-scaling": f"{BRANCH}::test_evaluation",
    "exclusive-gating": f"{BRANCH}::test_evaluation",
    "shortcut-gating": f"{BRANCH}::test_evaluation",
    "dropout-shortcut": f"{BRANCH}::test_dropout_on_the_shortcut",
    "rezero": f"{BRANCH}::test_evaluation",
    "skipinit": f"{BRANCH}::test_evaluation",
    "fixup": f"{BRANCH}::test_the_initialisation_of_fixup",
    "stochastic-depth": f"{BRANCH}::test_stochastic_depth",
    "se": f"{BRANCH}::test_evaluation",
    "se-bottleneck": f"{BRANCH}::test_se_resnet_50_has_the_published_parameters",
}
"""Block to the test of its formula, below tests/models."""
OTHER_FIGURES = {
    "dropout-shortcut": 'above 20 %: "fail" (He et al., 2016, Table 1)',
    "se-bottleneck": "`resnet50-se`: 28.09 M parameters (timm, `seresnet50`)",
}
"""Published figures that are no error of 110 layers."""
DEPTH = 20
"""Layers of the networks in the table of blocks."""


def network_rows() -> list[str]:
    """Return the rows of the networks, on images of 224 pixels, or 32 for CIFAR networks."""
    rows = ["| network | parameters | MACs | published | source | test |", "|---|---:|---:|---:|---|---|"]
    for name, published in LATER_NETWORK_SIZES.items():
        config = model_config(name)
        size = cost_of_config(config, 32 if config.stem == "cifar" else 224)
        figures = [f"{published.params:,.0f}"] if published.params and "torchvision" in published.source else []
        figures += [f"{published.params / 1e6:.1f} M"] if published.params and not figures else []
        figures += [f"{published.macs / 1e9:.5g} G"] if published.macs else []
        rows.append(f"| `{name}` | {_size(size)} | {', '.join(figures)} | {published.source} | `{NETWORK_TEST}` |")
    return rows


def block_rows() -> list[str]:
    """Return the rows of the blocks: CIFAR networks of 20 layers, and published errors beside that of `residual`."""
    rows = [
        "| block | parameters | MACs | published error of 110 layers on CIFAR-10 | deepen | test |",
        "|---|---:|---:|---|---|---|",
    ]
    for name, test in BLOCK_TESTS.items():
        config = model_config(f"resnet{DEPTH}-{name}")
        obstacle = BLOCKS[name].identity_obstacle(config)
        deepen = "yes" if obstacle is None else f"no: {obstacle}"
        size = _size(cost_of_config(config, 32))
        rows.append(f"| `{name}` | {size} | {_published(name)} | {deepen} | `{test}` |")
    return rows


def _published(arm: str) -> str:
    found = [
        f"{ablation.errors_pct[arm]:.2f} %, residual {ablation.errors_pct['residual']:.2f} % ({ablation.source})"
        for ablation in ABLATIONS
        if arm in ablation.errors_pct and "110 layers" in ablation.conditions
    ]
    return "; ".join(found) or OTHER_FIGURES.get(arm, "–")


def _size(size: Cost) -> str:
    macs = f"{size.macs / 1e9:.3f} G" if size.macs >= 1e9 else f"{size.macs / 1e6:.1f} M"
    return f"{size.params:,} | {macs}"


if __name__ == "__main__":
    print("\n".join([*network_rows(), "", *block_rows()]))
