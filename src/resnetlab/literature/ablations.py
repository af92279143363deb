"""Published comparisons of blocks and shortcuts at equal depth: the numbers beside which a study's arms are shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from resnetlab.literature.paper import find_result


@dataclass(frozen=True)
class Ablation:
    """Errors of several arms that one source measured under the same conditions."""

    source: str
    """Authors, year and table."""
    conditions: str
    """Depth, data and the kind of error."""
    errors_pct: Mapping[str, float]
    """Arm of a study to the published error, in %."""

    @property
    def sentence(self) -> str:
        """The numbers in words, the best first."""
        ordered = sorted(self.errors_pct.items(), key=lambda item: item[1])
        errors = ", ".join(f"{arm} {error:.2f} %" for arm, error in ordered)
        return f"{errors} ({self.conditions}; {self.source})"


def _table_3(network: str) -> float:
    found = find_result(network, "top1_error_pct")
    assert found is not None
    return found.value


ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        "He et al., 2015, Table 3",
        "34 layers on ImageNet, top-1 error of 10 crops",
        {
            "plain": _table_3("plain34"),
            "A": _table_3("resnet34-A"),
            "B": _table_3("resnet34-B"),
            "C": _table_3("resnet34-C"),
        },
    ),
    Ablation(
        "He et al., 2016, Identity Mappings in Deep Residual Networks, Table 2",
        "110 layers on CIFAR-10, test error, median of 5 runs",
        {"residual": 6.61, "preact": 6.37, "bn-after-addition": 8.17},
    ),
    # "C" is the row "1x1 conv shortcut"; gates with an initial bias of -6; a dropout shortcut "fails" (above 20 %)
    Ablation(
        "He et al., 2016, Identity Mappings in Deep Residual Networks, Table 1",
        "110 layers on CIFAR-10, test error, median of 5 runs",
        {
            "residual": 6.61,
            "constant-scaling": 12.35,
            "exclusive-gating": 8.70,
            "shortcut-gating": 6.91,
            "C": 12.22,
        },
    ),
    Ablation(
        "Huang et al., 2016, Deep Networks with Stochastic Depth, README of the authors' code",
        "110 layers on CIFAR-10, test error of the epoch with the lowest validation error",
        {"residual": 6.41, "stochastic-depth": 5.23},
    ),
    # 200 epochs, lr 0.1 divided at 80 and 160; the number of runs and the tested epoch are not stated
    Ablation(
        "gcr/torch-residual-networks, README",
        "110 layers on CIFAR-10, test error",
        {"residual": 6.97, "no-last-relu": 6.32, "bn-after-addition": 13.56},
    ),
    Ablation(
        "gcr/torch-residual-networks, README",
        "20 layers on CIFAR-10, test error",
        {"residual": 8.29, "no-last-relu": 8.62, "bn-after-addition": 8.34},
    ),
)


def published_ablations(arms: Iterable[str]) -> list[Ablation]:
    """Return the ablations that compare two arms or more of a study, with the numbers of these arms only."""
    wanted = set(arms)
    found = []
    for ablation in ABLATIONS:
        errors = {arm: error for arm, error in ablation.errors_pct.items() if arm in wanted}
        if len(errors) > 1:
            found.append(replace(ablation, errors_pct=errors))
    return found
