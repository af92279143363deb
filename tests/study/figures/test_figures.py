"""Figures of a study agree with their legends and captions, and nothing in them is cut or hidden."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from helpers.synthetic_runs import layer_stats, synthetic_run
from resnetlab.study.arms import ARMS, CAPPED, arm_recipe
from resnetlab.study.figures.all_figures import draw_figures
from resnetlab.study.figures.captions import (
    alternative_text,
    depth_caption,
    gradients_caption,
    responses_caption,
    training_caption,
)
from resnetlab.study.figures.colours import ARM_COLOURS, network_colour
from resnetlab.study.figures.curves import plot_error_curves
from resnetlab.study.figures.depth import plot_depth
from resnetlab.study.figures.gradients import COLOUR_LIMITS, plot_gradients
from resnetlab.study.figures.responses import plot_responses

ARMS_OF_DEFAULT = ("plain", "plain-capped", "residual")


def arm_run(arm, depth, seed, train, **changes):
    """Return a synthetic run; that of a control arm has the limit of its recipe."""
    run = synthetic_run(arm, depth, seed, train, **changes)
    return replace(run, config=replace(run.config, recipe=arm_recipe(arm, run.config.recipe)))


def default_study(**changes):
    """Return three arms of two depths and two seeds, with errors of 0 and 100 %."""
    return [
        arm_run(arm, depth, seed, (0.0, 3.0 * seed, 100.0)[index] if depth == 20 else 100.0 - seed, **changes)
        for index, arm in enumerate(ARMS_OF_DEFAULT)
        for depth in (20, 56)
        for seed in (0, 1)
    ]


def drawn(figure):
    """Return a figure that must exist, after its layout."""
    assert figure is not None
    figure.canvas.draw()
    return figure


def assert_whole(figure):
    """Assert that legends and texts are inside the figure, and no legend lies on a panel."""
    for axes in figure.axes:
        renderer = figure.canvas.get_renderer()
        legend = axes.get_legend()
        boxes = [axes.title.get_window_extent(renderer), axes.get_tightbbox(renderer)]
        if legend:
            boxes.append(legend.get_window_extent(renderer))
            assert boxes[-1].y1 <= axes.get_window_extent(renderer).y0
        for box in boxes:
            assert box.x0 >= -1
            assert box.y0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1
            assert box.y1 <= figure.bbox.y1 + 1


def with_responses(run, values):
    stats = tuple({**line, "response_std": list(values)} for line in run.layer_stats)
    return replace(run, layer_stats=stats)


def test_every_arm_has_its_own_colour():
    arms = [arm + suffix for arm in ARMS for suffix in ("", CAPPED)]
    assert set(ARM_COLOURS) == set(arms)
    assert len(set(ARM_COLOURS.values())) == len(arms)


def test_deeper_networks_have_darker_shades_of_the_colour_of_their_arm():
    depths = [20, 32, 44, 56, 110]
    for arm in ARM_COLOURS:
        brightness = [sum(to_rgb(network_colour(arm, depth, depths))) for depth in depths]
        assert brightness == sorted(brightness, reverse=True)
        assert len(set(brightness)) == len(depths)
        assert network_colour(arm, 20, [20]) == ARM_COLOURS[arm]


def hue(colour):
    """Return the place of a colour on the circle of hues, rounded."""
    red, green, blue = to_rgb(colour)
    return round(np.degrees(np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue)) / 20)


def test_a_colour_means_the_same_arm_in_every_figure():
    runs = default_study()
    curves, depth, responses = (drawn(plot(runs, False)) for plot in (plot_error_curves, plot_depth, plot_responses))
    expected = {arm: hue(ARM_COLOURS[arm]) for arm in ARMS_OF_DEFAULT}
    assert len(set(expected.values())) == 3
    for axes in curves.axes:
        arm = axes.get_title(loc="left").removesuffix(" networks")
        assert {hue(line.get_color()) for line in axes.lines} == {expected[arm]}
    for axes in depth.axes:
        bars = [item for item in axes.containers if isinstance(item, ErrorbarContainer)]
        assert {bar.get_label(): hue(bar.lines[0].get_color()) for bar in bars} == expected
    for axes in responses.axes:
        assert {str(line.get_label()).removesuffix("-56"): hue(line.get_color()) for line in axes.lines} == expected


@pytest.mark.parametrize("tall", [False, True])
def test_the_legend_of_the_error_curves_has_both_lines_as_drawn(tall):
    figure = drawn(plot_error_curves(default_study(), tall))
    assert_whole(figure)
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is not None
        arm = axes.get_title(loc="left").removesuffix(" networks")
        assert [text.get_text() for text in legend.get_texts()] == [f"{arm}-20", f"{arm}-56"]
        shown = [(line.get_linestyle(), line.get_color()) for line in legend.findobj(Line2D)]
        assert shown == [(line.get_linestyle(), line.get_color()) for line in axes.lines]
        assert [style for style, _ in shown] == ["--", "-"] * 2
        assert isinstance(legend.get_legend_handler_map()[tuple], HandlerTuple)


@pytest.mark.parametrize(("error", "top"), [(3.0, 20), (12.0, 30), (30.0, 60), (49.0, 100), (85.0, 100)])
def test_the_axis_of_the_curves_ends_at_twice_the_highest_final_error(error, top):
    runs = [synthetic_run("plain", 20, 0, 2.0), synthetic_run("plain", 56, 0, error)]
    figure = plot_error_curves(runs, False)
    assert figure is not None
    assert figure.axes[0].get_ylim() == pytest.approx((-0.02 * top, 1.02 * top))


def test_curves_at_0_and_100_pct_are_whole():
    (axes, *_) = drawn(plot_error_curves(default_study(), False)).axes
    low, high = axes.get_ylim()
    half_a_line = 0.8 * axes.figure.dpi / 72 / axes.bbox.height * (high - low)
    assert low < -half_a_line
    assert high > 100 + half_a_line


@pytest.mark.parametrize("tall", [False, True])
def test_markers_and_error_bars_against_depth_are_whole(tall):
    figure = drawn(plot_depth(default_study(), tall))
    assert_whole(figure)
    for axes in figure.axes:
        inside = axes.get_window_extent()
        for bar in (item for item in axes.containers if isinstance(item, ErrorbarContainer)):
            line, caps, stems = bar.lines
            for artist in (line, *caps):
                points = axes.transData.transform(np.asarray(artist.get_xydata()))
                radius = artist.get_markersize() / 2 * figure.dpi / 72
                assert (points[:, 0] - radius > inside.x0).all()
                assert (points[:, 0] + radius < inside.x1).all()
                assert (points[:, 1] - line.get_markersize() / 2 * figure.dpi / 72 > inside.y0).all()
                assert (points[:, 1] + 1 < inside.y1).all()
            assert stems


def test_errors_of_zero_are_not_drawn_on_an_axis_of_hundredths():
    runs = [synthetic_run("residual", depth, 0, 0.0, test=0.0) for depth in (20, 56)]
    assert drawn(plot_depth(runs, False)).axes[0].get_ylim()[1] >= 1


def test_bars_of_two_arms_do_not_lie_on_each_other():
    axes = drawn(plot_depth(default_study(), False)).axes[0]
    places = [
        np.asarray(item.lines[0].get_xydata())[0, 0] for item in axes.containers if isinstance(item, ErrorbarContainer)
    ]
    assert len(set(places)) == 3
    assert max(abs(np.array(places) / 20 - 1)) < 0.02


@pytest.mark.parametrize("gradient", [0.001, 1.0, 1e-30, 1e30, None])
def test_the_colours_of_gradients_do_not_depend_on_the_data(gradient):
    figure = drawn(plot_gradients(default_study(gradient=gradient), False))
    meshes = [mesh for axes in figure.axes[:3] for mesh in axes.collections]
    assert len(meshes) == 3
    assert {(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes} == {COLOUR_LIMITS}
    labels = [text.get_text() for text in figure.axes[-1].get_yticklabels()]
    assert (labels[0], labels[-1]) == ("10⁻⁸ or less", "10⁴ or more")
    assert_whole(figure)


def test_gradients_of_a_healthy_network_are_far_from_the_ends_of_the_colours():
    (low, high), margin = COLOUR_LIMITS, 2
    assert low + margin < -4 < 2 <= high - margin  # gradients of the residual networks on digits: -3.3 to 1.1


def test_runs_that_ended_early_share_the_axis_of_steps():
    long = synthetic_run("plain", 8, 0, 1.0)
    long = replace(long, layer_stats=tuple(layer_stats(long.config.model, step) for step in range(1, 402, 20)))
    short = synthetic_run("plain", 56, 0, None, status="diverged")
    short = replace(short, layer_stats=short.layer_stats[:1])
    figure = drawn(plot_gradients([long, short], False))
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    (mesh,) = figure.axes[1].collections
    assert isinstance(mesh, QuadMesh)
    x = np.asarray(mesh.get_coordinates())[0, :, 0]
    assert x[-1] - x[0] == 20  # as wide as the other cells, so it can be seen
    assert "Grey: nothing was recorded, because a run had ended." in gradients_caption([long, short], "digits")
    assert "Grey" not in gradients_caption([long], "digits")


def test_crossed_out_cells_are_named_only_where_there_are_any():
    assert "Crossed-out" in gradients_caption(default_study(gradient=None), "digits")
    assert "Crossed-out" not in gradients_caption(default_study(), "digits")


def test_responses_that_cover_each_other_have_a_close_up():
    runs = [
        with_responses(synthetic_run("plain", 20, 0, 1.0), [1.002, 1.0, 1.001]),
        with_responses(synthetic_run("plain", 56, 0, 1.0), [6.0, 1.001, 1.003]),
        with_responses(synthetic_run("residual", 20, 0, 1.0), [1.0, 1.004, 1.002]),
        with_responses(synthetic_run("residual", 56, 0, 1.0), [1.01, 0.99, 0.98]),
    ]
    figure = drawn(plot_responses(runs, False))
    assert_whole(figure)
    original, close_up, ordered = figure.axes
    assert original.get_ylim()[0] == 0
    assert original.get_ylim()[1] > 6
    assert close_up.get_ylim() == ordered.get_ylim()
    low, high = close_up.get_ylim()
    assert low < 0.98
    assert 1.01 < high < 1.1
    for line in ordered.lines:
        values = np.asarray(line.get_ydata())
        assert values.tolist() == sorted(values.tolist(), reverse=True)
    widths = [line.get_linewidth() for line in original.lines]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4  # a curve below another one stays visible
    caption = responses_caption(runs, "digits")
    assert "11 of 12 responses are within 10 % of 1, where the curves cover each other" in caption
    assert "all values" not in caption


@pytest.mark.parametrize(
    ("residual_56", "first", "second"),
    [
        (0.5, "as in the paper", "as in the paper"),
        (0.79, "as in the paper", "within 10 % of each other, so these runs do not show it"),
        (1.5, "in part as in the paper", "not as in the paper"),
    ],
)
def test_medians_stand_beside_the_statements_of_the_paper(residual_56, first, second):
    runs = [
        with_responses(synthetic_run("plain", 20, 0, 1.0), [1.0, 1.2, 9.0]),
        with_responses(synthetic_run("plain", 56, 0, 1.0), [1.1, 1.3, 1.2]),
        with_responses(synthetic_run("residual", 20, 0, 1.0), [0.8, 0.1, 9.0]),
        with_responses(synthetic_run("residual", 56, 0, 1.0), [residual_56, 0.0, 9.0]),
    ]
    caption = responses_caption(runs, "digits")
    assert f"are 0.8 and 1.2 with 20 layers, {residual_56} and 1.2 with 56 layers: {first}." in caption
    assert f"are 0.8 with 20 layers, {residual_56} with 56 layers: {second}." in caption
    one = responses_caption(runs[:1], "digits")
    assert "In the paper" not in one


def test_responses_that_differ_have_no_close_up():
    runs = [
        with_responses(synthetic_run("plain", 20, 0, 1.0), [1.0, 2.0, 3.0]),
        with_responses(synthetic_run("residual", 20, 0, 1.0), [0.3, 0.6, 0.9]),
    ]
    assert len(drawn(plot_responses(runs, False)).axes) == 2
    assert "close-up" not in responses_caption(runs, "digits")


def test_responses_without_normalisation_are_not_said_to_be_normalised():
    runs = [with_responses(synthetic_run("plain", depth, 0, 1.0), [1.0, 1e4, 1e9]) for depth in (20, 56)]
    bare = [replace(run, config=replace(run.config, model=replace(run.config.model, norm="none"))) for run in runs]
    caption = responses_caption(bare, "digits")
    assert "atch normalisation" not in caption
    assert "The axis is logarithmic." in caption
    assert "BN" not in drawn(plot_responses(bare, False)).get_suptitle()
    assert "after batch normalisation" in responses_caption(runs, "digits")
    assert "running averages" in training_caption(runs, "digits")
    assert "running averages" not in training_caption(bare, "digits")


def test_responses_that_are_not_finite_are_named():
    runs = [
        with_responses(synthetic_run("plain", 20, 0, 1.0), [1.0, 2.0, 3.0]),
        with_responses(synthetic_run("plain", 56, 0, 1.0), [1.0, None, 3.0]),
    ]
    assert "The responses of plain-56 are not finite and have no curve." in responses_caption(runs, "digits")


def test_the_figures_say_that_shallow_networks_are_left_out():
    for caption in (gradients_caption, responses_caption):
        assert "Of each arm only the deepest network is drawn." in caption(default_study(), "digits")
        two_arms = [run for run in default_study() if run.arm != "plain-capped"]
        assert "only the deepest" not in caption(two_arms, "digits")


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (0, "There is no test set."),
        (1, "The test set was evaluated at the end of each run."),
        (2, "at the end of each run, and up to 2 times because finished runs were continued."),
    ],
)
def test_how_often_the_test_set_was_evaluated(count, sentence):
    run = replace(synthetic_run("plain", 20, 0, 1.0), num_test_evaluations=count)
    caption = training_caption([run], "digits")
    assert sentence in caption


def test_unfinished_runs_were_not_evaluated_on_the_test_set():
    run = synthetic_run("plain", 20, 0, None, status="diverged")
    assert "The test set was not evaluated." in training_caption([run], "digits")


def test_networks_without_a_curve_or_point_are_named():
    ended = replace(synthetic_run("plain", 56, 0, None, status="failed"), epochs=())
    runs = [synthetic_run("plain", 20, 0, 1.0), ended]
    assert "plain-56 ended before the first epoch did, so there is no curve." in training_caption(runs, "digits")
    assert "plain-56 did not finish and has no point." in depth_caption(runs, "digits")


def with_epochs(run, num_epochs, error):
    """Return the run with epochs of 100 steps, and a point of its curve at every tenth."""
    epochs = tuple(
        {
            "step": 100 * number,
            "val_error_pct": error,
            "curve": {
                "step": list(range(100 * number - 90, 100 * number + 1, 10)),
                "loss": [1.0] * 10,
                "train_error_pct": [error] * 10,
            },
        }
        for number in range(1, num_epochs + 1)
    )
    return replace(run, epochs=epochs)


def one_ended_in_nan():
    """Return three seeds of two depths; one deep run ends in NaN in its second epoch of four."""
    shallow = [with_epochs(synthetic_run("plain", 20, seed, 2.0), 4, 2.0) for seed in range(3)]
    deep = [with_epochs(synthetic_run("plain", 56, seed, 10.0), 4, 10.0 + 10 * seed) for seed in range(2)]
    return [*shallow, *deep, with_epochs(synthetic_run("plain", 56, 2, None, status="diverged"), 1, 90.0)]


def test_a_run_that_ended_in_nan_does_not_cut_the_curves_of_the_others():
    runs = one_ended_in_nan()
    figure = drawn(plot_error_curves(runs, False))
    thick = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines if line.get_linewidth() > 1]
    thin = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines if line.get_linewidth() < 1]
    assert [points[-1, 0] for points in thick] == [400] * 4
    assert {points[-1, 1] for points in thick} == {2.0, 15.0}  # the mean of 10 and 20
    assert [points[-1].tolist() for points in thin] == [[100, 90.0]] * 2
    assert "mean of 2 to 3 seeds" in figure.get_suptitle()
    assert figure.get_suptitle().endswith("thin: one run")
    caption = training_caption(runs, "digits")
    assert "a thin line is one run that did not finish" in caption
    assert "Ended in NaN: 1 of 3 runs of plain-56." in caption
    assert "thin" not in training_caption(default_study(), "digits")
    assert "thin" not in drawn(plot_error_curves(default_study(), False)).get_suptitle()


def test_a_run_that_stopped_early_does_not_cut_the_curves_of_the_others():
    runs = [with_epochs(synthetic_run("plain", 20, seed, 2.0), seed + 2, 2.0 + seed) for seed in range(3)]
    figure = drawn(plot_error_curves(runs, False))
    dashed = [np.asarray(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [(steps[0], steps[-1]) for steps in dashed] == [(10, 200), (200, 300), (200, 400)]
    assert "thin line is one run" in training_caption(runs, "digits")


def test_a_network_whose_runs_all_ended_in_nan_has_curves():
    runs = [with_epochs(synthetic_run("plain", 56, seed, None, status="diverged"), 1, 90.0) for seed in range(2)]
    figure = drawn(plot_error_curves(runs, False))
    assert len(figure.axes[0].lines) == 4
    assert "seed" not in figure.get_suptitle()
    assert plot_depth(runs, False) is None


def test_a_run_that_ended_in_nan_counts_as_the_worst_against_depth():
    runs = one_ended_in_nan()
    figure = drawn(plot_depth(runs, False))
    (bar,) = [item for item in figure.axes[0].containers if isinstance(item, ErrorbarContainer)]
    assert np.asarray(bar.lines[0].get_ydata()).tolist() == [2.0, 40.0]  # of 10, 10 and 100
    assert_whole(figure)
    caption = depth_caption(runs, "digits")
    assert "A run that ended in NaN counts as 100 %: 1 of 3 runs of plain-56." in caption
    assert "did not finish" not in caption
    assert "NaN" not in depth_caption(default_study(), "digits")


def test_the_number_of_seeds_is_that_of_each_network():
    runs = [*default_study(), synthetic_run("plain", 20, 2, 1.0)]
    assert "mean of 2 to 3 seeds" in drawn(plot_error_curves(runs, False)).get_suptitle()
    assert "mean of 2 seeds" in drawn(plot_depth(default_study(), False)).get_suptitle()
    assert "one seed" in drawn(plot_depth([r for r in runs if r.seed == 0], False)).get_suptitle()


def test_the_alternative_text_names_the_errors_that_are_drawn():
    runs = [replace(run, result={**run.result, "test_error_pct": None}) for run in default_study()]
    assert alternative_text("depth", runs, "digits").startswith("Final training error and validation error on digits")
    assert [axes.get_title(loc="left") for axes in drawn(plot_depth(runs, False)).axes] == [
        "training error",
        "validation error",
    ]


@pytest.mark.slow  # three arms are drawn below
def test_all_arms_with_their_controls_can_be_drawn(tmp_path):
    arms = [arm + suffix for arm in ARMS for suffix in ("", CAPPED)]
    runs = [arm_run(arm, depth, 0, 5.0) for arm in arms for depth in (20, 56)]
    files = draw_figures(runs, tmp_path)
    assert [file.kind for file in files] == ["training", "depth", "gradients", "responses"]
    assert all(file.caption and file.alt for file in files)


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("plot", [plot_error_curves, plot_depth, plot_responses])
def test_many_arms_and_depths_leave_legends_and_panels_whole(plot, tall):
    arms = [arm + suffix for arm in ("plain", "residual", "B") for suffix in ("", CAPPED)]
    depths = (20, 32, 44, 56, 110)
    assert_whole(drawn(plot([arm_run(arm, depth, 0, 5.0) for arm in arms for depth in depths], tall)))
