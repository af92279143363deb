"""Groups of synthetic runs with known effects of depth, and their verdicts."""

import dataclasses

from helpers.synthetic_runs import layer_stats, synthetic_run
from resnetlab.study.verdicts.verdict import verdicts


def grid(arm, shallow, deep, **deep_options):
    shallow_runs = [synthetic_run(arm, 20, seed, error) for seed, error in enumerate(shallow)]
    return shallow_runs + [synthetic_run(arm, 56, seed, error, **deep_options) for seed, error in enumerate(deep)]


def kinds(runs):
    return [(finding.arm, finding.kind) for finding in verdicts(runs)]


def sentence(runs):
    (finding,) = verdicts(runs)
    return finding.sentence


def with_recipe(run, **changes):
    recipe = dataclasses.replace(run.config.recipe, **changes)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=recipe))


DEGRADED = grid("plain", [1.0, 2.0, 1.5], [70.0, 72.0, 75.0])
VANISHED = grid("plain", [1.0, 2.0, 1.5], [90.0, 90.0, 89.9], gradient=1e-9, losses=(2.3,) * 8)
EXPLODED = [
    *(synthetic_run("plain", 20, seed, 1.0 + seed) for seed in range(3)),
    *(synthetic_run("plain", 56, seed, None, status="diverged", gradient=1e9 * (seed + 1)) for seed in range(3)),
]
OVERFITTED = [
    *(
        synthetic_run("residual", depth, seed, 0.0, test=25.0 + seed, train_images=50)
        for depth in (20, 56)
        for seed in range(3)
    ),
    *(synthetic_run("residual", depth, seed, 0.1, test=2.0 + seed / 2) for depth in (20, 56) for seed in range(3)),
]


FALLING = (2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.6, 1.5)
FLAT = (2.3, *[1.5] * 7)


def with_control(errors, first_layer=1700.0, **options):
    """Return plain networks whose first step overwrites their first convolution, and the control arm."""
    runs = grid("plain", [1.0, 2.0, 1.5], [70.0, 72.0, 75.0])
    steep = layer_stats(runs[0].config.model, grad_to_weight=[first_layer, 0.1, 0.1])
    runs = [dataclasses.replace(run, layer_stats=(steep, *run.layer_stats)) if run.depth == 56 else run for run in runs]
    control = []
    for run in runs:
        recipe = dataclasses.replace(run.config.recipe, max_update=0.05)
        changed = dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=recipe))
        if run.depth == 56:
            error = errors[run.seed]
            unseen = {"val_error_pct": error + 1, "test_error_pct": error + 1}
            result = run.result | {"train_error_pct": error} | unseen
            changed = dataclasses.replace(changed, result=result)
        control.append(changed)
    return runs, control


def three_depths(arm, errors, unseen=None):
    """Three seeds of 8, 20 and 56 layers."""
    return [
        synthetic_run(arm, depth, seed, error + seed / 10, test=(unseen or errors)[place] + seed / 10)
        for place, (depth, error) in enumerate(zip((8, 20, 56), errors, strict=True))
        for seed in range(3)
    ]
