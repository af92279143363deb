"""Thresholds of the verdicts and checks, with the source of each, and the table of rules that a report prints."""

from dataclasses import dataclass

DEGRADATION_POINTS = 2.0
"""Rise in training error, in percentage points, that counts as degradation."""
MIN_MOVEMENT = 0.01
"""Movement of a layer, in units of the norm of its weights, below which it has not learnt."""
OVERWRITING_UPDATE = 1.0
"""Step of a layer, in units of the norm of its weights, from which it replaces the layer rather than changes it."""
SOUND_SHARE = 0.1
"""Share of the layers that may stall for a while in a network whose gradients count as sound."""
VANISHING_SHARE = 0.5
"""Share of the layers that must stall for a network's gradients to count as vanishing."""
EXPLODING_GRADIENT = 100.0
"""Gradient of the median layer at the first step, in units of its weights, from which it counts as exploding."""
LEARNT_SHARE = 0.5
"""A network has learnt something when its training error is below this share of the error of guessing
(`run_metrics.guessing_error_pct`)."""
LARGE_UPDATE = 0.1
"""First update of the median layer, in units of its weights, that is a sign of too high a learning rate. A common rule
of thumb for a sound step is 0.1 % of the weights (Stanford's CS231n)."""
LOSS_RISE = 3.0
"""Highest running loss over the first step's loss, from which the learning rate counts as too high."""
FITTED_PCT = 1.0
"""Training error, in %, up to which the training set counts as fitted."""
OVERFITTING_POINTS = 1.5
"""Rise of the error on unseen images, in percentage points, that counts as overfitting."""
UNDER_TRAINED_PCT = 10.0
"""Training error, in %, above which a run can count as under-trained."""
FALLING_SHARE = 0.05
"""Fall of the running loss over the last quarter of the steps at a high learning rate, from which it still falls."""
UNDER_WAY_SHARE = 0.1
"""The same fall, of a deep network that has not fitted, from which it may only need more steps than a shallow one."""
WIDE_GAP_POINTS = 10.0
"""Gap between training error and error on unseen images, in points, that is an issue of a single fitted run."""
DEAD_RELU_PCT = 50.0
"""Share of dead ReLUs, in %, that is an issue of a single run."""
MIN_SEEDS = 2
"""Seeds below which no failing verdict is given; the interval of two is so wide that three are advised."""


@dataclass(frozen=True)
class VerdictRule:
    """Condition of a verdict, and the source of its threshold."""

    kind: str
    condition: str
    source: str


FAILING: tuple[VerdictRule, ...] = (
    VerdictRule(
        "degradation",
        f"the deepest networks end at least {DEGRADATION_POINTS:g} points of training error above the best shallower "
        "depth on average, above it in every seed, and the 99 % interval is above zero (of several shallower depths "
        "each has its share of the 1 %); all shallower networks have learnt; and the gradients of the deepest are "
        "sound, or the control arm, whose gradients are, degrades as well. Not if the best shallower have not fitted "
        f"({UNDER_TRAINED_PCT:g} %) and some network was still improving when the learning rate was lowered, or if the "
        f"deepest have not and their loss still fell by {100 * UNDER_WAY_SHARE:g} % or more",
        "He et al., sections 1 and 4.1, Figures 1 and 4; the threshold: ours, below the 3 points of test error "
        "between plain-20 and plain-56 in the closest reproduction on CIFAR-10 (nabla0001/resnet)",
    ),
    VerdictRule(
        "vanishing",
        f"{100 * VANISHING_SHARE:g} % of the layers of the deepest networks or more stall for a quarter of the run (at "
        f"their gradients, no layer could move by {100 * MIN_MOVEMENT:g} % of its length in the whole run), no step "
        "overwrites a layer, and they have not learnt, while the shallowest have sound gradients and have learnt; this "
        "holds in every seed, and the 99 % interval of the difference is above zero",
        "the phenomenon: Glorot and Bengio 2010; the threshold: ours, a layer that stays at its initial weights has "
        "not learnt",
    ),
    VerdictRule(
        "exploding",
        f"at the first step the gradient of the median layer is {EXPLODING_GRADIENT:g} times its weights or more, or "
        "not finite, in the deepest networks, which do not learn, and not in the shallowest; this holds in every seed, "
        "and the 99 % interval of the difference is above zero; or the deepest networks end worse, in every run a step "
        "overwrites some of their layers (learning rate x gradient, at the sampled steps, is "
        f"{OVERWRITING_UPDATE:g} times the weights or more), and the control arm, which limits the steps, trains them "
        "as well as the same shallower ones. Not if the control arm degrades too",
        "the phenomenon: Glorot and Bengio 2010; the threshold: ours, below 10 in every network tried that learns",
    ),
    VerdictRule(
        "learning rate too high",
        "the deepest networks do not learn in any seed although the gradient of the median layer does not "
        f"explode at any sample with a finite loss: every run ends in NaN, or its running loss rises to {LOSS_RISE:g} "
        "times the first",
        "the threshold: ours",
    ),
    VerdictRule(
        "unstable",
        f"a run of a network with {MIN_SEEDS} seeds or more ends in NaN, and neither its exploding gradients at the "
        "first step nor the learning rate, as one of the two verdicts above, explains it; a run that ends in NaN "
        "counts as the worst result, so that no verdict on depth rests on its network, and degradation, vanishing and "
        "overfitting with depth are not said of any depth trained on as many images",
        "a run that diverges in one seed of three is no evidence that the other two are sound",
    ),
    VerdictRule(
        "overfitting",
        f"with depth: the deepest and the best shallower networks end at {UNDER_TRAINED_PCT:g} % training error or "
        f"less, the deepest without a rise of {OVERFITTING_POINTS:g} points, and their error on unseen images and the "
        "gap to it rise by as much or more; "
        f"with fewer images: the smallest set is fitted ({FITTED_PCT:g} %), and the gap rises by as much; this holds "
        "in every seed, and the 99 % interval is above zero (of several shallower depths each has its share of the "
        "1 %; with fewer images: of the mean over depths)",
        "He et al., section 4.2: 1202 layers, 7.93 % test error against 6.43 % with 110, at similar training errors",
    ),
    VerdictRule(
        "under-trained",
        f"every run, of every depth, ends above {UNDER_TRAINED_PCT:g} % training error with a running loss that fell "
        f"by {100 * FALLING_SHARE:g} % or more over the last quarter of the steps before the learning rate was lowered",
        "the threshold: ours; the verdict concerns the recipe, which all runs share",
    ),
)
"""Rules of the failing verdicts. Several can hold at once."""

HEALTHY = VerdictRule(
    "healthy",
    "none of the above holds; every network has learnt with sound gradients (in no layer learning rate x gradient, at "
    f"the sampled steps, is {OVERWRITING_UPDATE:g} times the weights or more, the gradient of the median layer at the "
    f"first step is below {EXPLODING_GRADIENT:g} times its weights, and at most {100 * SOUND_SHARE:g} % of the layers "
    "stall); for every two depths the 95 % interval rules out a rise of "
    f"{DEGRADATION_POINTS:g} points of training error, and longer training would not change that (the deeper "
    "clearly fits better, or training did not end too early, as for degradation); the error on unseen images (with "
    f"fewer images: the gap to it) rises by less than {OVERFITTING_POINTS:g} points on average",
    "He et al., section 4.1",
)
NOT_ENOUGH = VerdictRule(
    "not enough evidence",
    f"no other verdict holds: too few seeds (below {MIN_SEEDS}), one depth, an effect within the variation over seeds, "
    "errors of an epoch that validation images selected, no recorded gradients, or steps that do not follow from them "
    "(another optimizer than sgd, clip_grad_norm, layer_decay or frozen_epochs)",
    "one seed cannot support a claim",
)
RULES: tuple[VerdictRule, ...] = (*FAILING, HEALTHY, NOT_ENOUGH)

LEARNT_RULE = (
    f"a network has learnt when its training error is below {100 * LEARNT_SHARE:g} % of the error of guessing: that of "
    "always predicting the most frequent class"
)
