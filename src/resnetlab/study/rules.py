"""The rules of the verdict: one table of thresholds, what each is for, and where it comes from. No torch here."""

from dataclasses import dataclass

WORSE_POINTS = 2.0
"""A rise in training error, in points, that counts as degradation."""
STILL = 0.01
"""Movement of a layer, in units of its own length, below which it has not learnt."""
EXPLODED = 100.0
"""Gradient of the median layer at the first step, in units of its weights, from which it is called exploding."""
LEARNT_SHARE = 0.5
"""A network has learnt something when its training error is below this share of the error of guessing."""
LONG_STEP = 0.1
"""First update of the median layer, in units of its weights, from which the learning rate is called too high."""
LOSS_RISE = 3.0
"""Highest running loss over the first step's, likewise."""
FITTED_PCT = 1.0
"""Training error, in %, up to which the training set counts as fitted."""
OVERFITTED_POINTS = 1.5
"""A rise of the error on unseen images, in points, that counts as overfitting."""
UNFINISHED_PCT = 10.0
"""Training error, in %, above which a run can be called under-trained."""
FALLING_SHARE = 0.05
"""Fall of the running loss over the last quarter of a run, from which it is called still falling."""
WIDE_GAP_POINTS = 10.0
"""Points between the error on unseen images and a fitted training set that one run alone calls a sign."""
DEAD_PCT = 50.0
"""Share of dead ReLUs, in %, likewise."""
LEAST_SEEDS = 2
"""Seeds below which no failing verdict is given; the interval over two is so wide that three are advised."""


@dataclass(frozen=True)
class VerdictRule:
    """When a verdict is given, and why the line is drawn there."""

    kind: str
    holds: str
    source: str


FAILING: tuple[VerdictRule, ...] = (
    VerdictRule(
        "degradation",
        f"the deepest networks end at least {WORSE_POINTS:g} points of training error above the shallowest on average, "
        "above them in every seed, the 95 % interval is above zero, and no gradient vanishes or explodes",
        "He et al., sections 1 and 4.1, Figures 1 and 4; the line: ours, below the 3 points of test error "
        "between plain-20 and plain-56 in the closest reproduction on CIFAR-10 (nabla0001/resnet)",
    ),
    VerdictRule(
        "vanishing",
        f"the median layer of the deepest networks could not move by {100 * STILL:g} % of its length in the whole run "
        "and they have not learnt, while the shallowest move and have; so in every seed, interval likewise",
        "the phenomenon: Glorot and Bengio 2010; the line: ours, a layer that stays where it was drawn has not learnt",
    ),
    VerdictRule(
        "exploding",
        f"at the first step the gradient of the median layer is {EXPLODED:g} times its weights or more, or not finite, "
        "in the deepest networks, which do not learn, and not in the shallowest; so in every seed, interval likewise",
        "the phenomenon: Glorot and Bengio 2010; the line: ours, below 10 in every network tried that learns",
    ),
    VerdictRule(
        "learning rate too high",
        "the deepest networks diverge or do not learn in any seed although their gradients are sound at the start, "
        f"after a first step of {100 * LONG_STEP:g} % of the weights or more, or a running loss of {LOSS_RISE:g} times "
        "the first",
        "the line: ours; a common rule of thumb for a sound step is 0.1 % of the weights (Stanford's CS231n)",
    ),
    VerdictRule(
        "overfitting",
        f"training error is at most {FITTED_PCT:g} % in every seed (with the fewest images, or at both "
        f"depths), and the error on unseen images rises by {OVERFITTED_POINTS:g} points or more with depth, "
        "or the gap to it does with fewer images; so in every seed, "
        "the interval above zero",
        "He et al., section 4.2: 1202 layers, 7.93 % test error against 6.43 % with 110, at similar training errors",
    ),
    VerdictRule(
        "under-trained",
        f"every run, of every depth, ends above {UNFINISHED_PCT:g} % training error with a running loss that fell by "
        f"{100 * FALLING_SHARE:g} % or more in the last quarter",
        "the line: ours; it speaks of the recipe, which all runs share",
    ),
)
"""What can be wrong. Several can hold at once."""

HEALTHY = VerdictRule(
    "healthy",
    f"nothing of the above; the deepest networks have learnt with sound gradients, and a rise "
    f"of {WORSE_POINTS:g} points of training error "
    "from the shallowest is ruled out by the 95 % interval",
    "He et al., section 4.1",
)
NOT_ENOUGH = VerdictRule(
    "not enough evidence",
    f"neither: too few seeds (below {LEAST_SEEDS}), one depth, an effect inside the spread, or nothing recorded",
    "a claim from one seed is none",
)
RULES: tuple[VerdictRule, ...] = (*FAILING, HEALTHY, NOT_ENOUGH)

LEARNT = f"a network has learnt when its training error is below {100 * LEARNT_SHARE:g} % of the error of guessing"
