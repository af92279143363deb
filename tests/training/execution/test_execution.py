"""How a step is computed: a short run is not measured, a long one takes what is faster, and bf16 learns alike."""

import dataclasses
import itertools

import pytest
import torch

from resnetlab.config import ConfigError, ModelConfig, RunConfig
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.execution import select_execution as select_execution_module
from resnetlab.training.execution import step_timer
from resnetlab.training.execution.execution import Execution, default_execution, kept_threads, make_forward
from resnetlab.training.execution.select_execution import StepLoad, select_execution
from resnetlab.training.fit import fit
from resnetlab.training.loss import make_loss
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import Trainer

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("cifar-paper", steps=100))
LONG = 10**9


LOAD = StepLoad(macs=10**6, total_steps=LONG, batch_size=128)
SHORT = dataclasses.replace(LOAD, total_steps=100)


def batch(num_images=128):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_images, 3, 8, 8, generator=generator), torch.randint(10, (num_images,), generator=generator)


@pytest.fixture
def step_times(monkeypatch):
    """Seconds of a step by name of the execution, in place of measured ones; the names of the steps that were taken."""
    times, taken = {}, []

    def time_step(timer, way, _forward, num_images=None):
        taken.append(way.name)
        return times[way.name] * (num_images or len(timer.labels))

    monkeypatch.setattr(step_timer.StepTimer, "time_step", time_step)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that threads are not compared
    return times, taken


def images_of(speeds):
    return {name: pytest.approx(speed) for name, speed in speeds.items()}


def test_a_short_run_is_not_measured(step_times):
    way, _ = select_execution(CONFIG, build_model(CONFIG.model), batch, load=SHORT)
    assert way == Execution("fp32", "channels_last", compile=False)
    assert step_times[1] == []


def test_a_run_that_is_short_on_this_machine_compares_nothing(step_times):
    """Expected to take minutes on a slow machine, and a second on this one."""
    times, taken = step_times
    times["fp32"] = 1e-10
    way, _ = select_execution(CONFIG, build_model(CONFIG.model), batch, load=LOAD)
    assert (way.name, set(taken)) == ("fp32", {"fp32"})


def test_a_run_of_a_given_time_is_measured_on_a_fast_machine_too(step_times):
    """Its steps are not known yet: a fast machine takes more of them."""
    step_times[0].update({"fp32": 1e-10, "fp32 + NCHW": 1e-10, "bf16": 1e-11, "bf16 + NCHW": 1e-11})
    load = dataclasses.replace(LOAD, planned_s=90.0)
    way, _ = select_execution(dataclasses.replace(CONFIG, compile="off"), build_model(CONFIG.model), batch, load=load)
    assert way.precision == "bf16"


@pytest.mark.parametrize(("most_steps", "tried"), [(LONG, {"fp32", "fp32 + compile"}), (10**5, {"fp32"})])
def test_a_run_of_hours_tries_compilation(step_times, monkeypatch, most_steps, tried):
    """On a fast machine too, unless its longest length is a matter of minutes there."""
    monkeypatch.setattr(step_timer, "make_forward", lambda *_: print)
    step_times[0].update({"fp32": 1e-5, "fp32 + compile": 1e-6})
    load = dataclasses.replace(LOAD, total_steps=10**5, planned_s=36_000.0, most_steps=most_steps)
    config = dataclasses.replace(CONFIG, precision="fp32", layout="channels_last", device="cpu")
    select_execution(config, build_model(CONFIG.model), batch, load=load)
    assert set(step_times[1]) == tried


@pytest.mark.parametrize(("bf16", "selected"), [(500.0, "bf16"), (102.0, "fp32"), (50.0, "fp32")])
def test_a_long_run_takes_the_fastest_by_a_margin(step_times, bf16, selected):
    speeds = {"fp32": 100.0, "fp32 + NCHW": 90.0, "bf16": bf16, "bf16 + NCHW": bf16 / 1.2}
    step_times[0].update({name: 1 / speed for name, speed in speeds.items()})
    open_ways = dataclasses.replace(CONFIG, compile="off")
    way, _ = select_execution(open_ways, build_model(CONFIG.model), batch, load=LOAD)
    assert (way.precision, way.layout, way.images_per_s) == (selected, "channels_last", images_of(speeds))


@pytest.mark.parametrize(("load", "compiled"), [(LOAD, "off"), (SHORT, "on")])
def test_every_measured_step_has_the_loss_of_the_run(monkeypatch, load, compiled):
    """Images with several labels have a matrix of truth values, which cross-entropy does not take."""
    seen = []

    def time_step(timer, way, forward, num_images=None):
        logits, labels = torch.zeros(2, 10), torch.ones(2, 10, dtype=torch.bool)
        seen.append(float(timer.loss(logits, labels)))
        return 1e-10

    monkeypatch.setattr(step_timer.StepTimer, "time_step", time_step)
    monkeypatch.setattr(select_execution_module, "make_forward", lambda *_: print)
    config = dataclasses.replace(CONFIG, compile=compiled)
    select_execution(config, build_model(CONFIG.model), batch, load=load, loss=make_loss(CONFIG.recipe))
    assert seen
    assert seen == pytest.approx([0.6931] * len(seen), abs=1e-4)


def test_images_with_several_labels_are_measured(monkeypatch):
    """The steps of a long run on a processor are taken, not replaced."""
    monkeypatch.setattr(step_timer, "STEP_S", 1e-3)
    monkeypatch.setattr(select_execution_module, "LAYER_S", 1.0)
    network = build_model(model_config("resnet8", num_classes=3))
    way, _ = select_execution(
        dataclasses.replace(CONFIG, precision="fp32", layout="channels_last", compile="off", threads=1),
        network,
        lambda num_images: step_timer.random_batch(network, num_images, 8, multi_label=True),
        load=dataclasses.replace(LOAD, macs=1, total_steps=100, batch_size=4),
    )
    assert way.images_per_s


def test_a_slow_execution_is_left_after_its_first_steps(step_times):
    times, taken = step_times
    times.update({"fp32": 0.01, "fp32 + NCHW": 0.011, "bf16": 1.0, "bf16 + NCHW": 0.02})
    way, _ = select_execution(dataclasses.replace(CONFIG, compile="off"), build_model(CONFIG.model), batch, load=LOAD)
    assert way.name == "fp32"
    assert taken.count("bf16") == 2  # two images took as long as a whole step in fp32
    assert taken.count("bf16 + NCHW") == 3
    assert taken.count("fp32 + NCHW") > 5
    assert "bf16" not in way.images_per_s


def test_measuring_ends_with_its_budget(step_times, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(step_timer.time, "perf_counter", lambda: next(clock))  # each look at the clock is a second
    times, taken = step_times
    times.update(dict.fromkeys(("fp32", "fp32 + NCHW", "bf16", "bf16 + NCHW"), 0.01))
    select_execution(dataclasses.replace(CONFIG, compile="off"), build_model(CONFIG.model), batch, load=LOAD)
    assert len(taken) < 18  # eight of them decide how many images a step has


def test_threads_are_compared_and_restored(step_times, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(select_execution_module, "thread_counts", lambda current: (1, 2, 4))
    speeds = {"fp32": 100.0, "fp32 + 1 thread": 100.0, "fp32 + 2 threads": 150.0, "fp32 + 4 threads": 130.0}
    step_times[0].update({name: 1 / speed for name, speed in speeds.items()})
    chosen = dataclasses.replace(CONFIG, precision="fp32", layout="channels_last", compile="off")
    way, _ = select_execution(chosen, build_model(CONFIG.model), batch, load=LOAD)
    assert way.threads == 2
    assert way.images_per_s["fp32 + 2 threads"] == pytest.approx(150)
    assert Execution(**way.as_json()) == way
    before = torch.get_num_threads()
    with kept_threads():
        way.use_threads()
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_each_number_of_threads_is_tried_before_the_rest(step_times, monkeypatch):
    """Beside a busy process two threads may take all the time there is for measuring."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(select_execution_module, "thread_counts", lambda current: (1, 2))
    monkeypatch.setattr(select_execution_module, "MAX_BUDGET_S", 0.0)
    monkeypatch.setattr(select_execution_module.torch, "get_num_threads", lambda: 2)
    times, taken = step_times
    times.update({"fp32": 1.0, "fp32 + 2 threads": 1.0, "fp32 + 1 thread": 0.01, "bf16 + 1 thread": 0.02})
    way, _ = select_execution(dataclasses.replace(CONFIG, compile="off"), build_model(CONFIG.model), batch, load=LOAD)
    assert way.name == "fp32 + 1 thread"
    assert "bf16 + 1 thread" in taken
    assert "bf16 + 2 threads" not in taken


def test_a_resumed_run_has_the_threads_of_its_start(tmp_path):
    """The number of threads decides the order of sums, and with it the last bit."""
    config = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=2, batch_size=16))
    selected = RuntimeOptions(execution=Execution(threads=2))
    with kept_threads():
        trainer = Trainer(config, options=selected)
        assert torch.get_num_threads() == 2
        saved = Checkpoint(**trainer.state_dict())
    with kept_threads():
        resumed = Trainer(config, checkpoint=saved)
        assert (resumed.execution.threads, torch.get_num_threads()) == (2, 2)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("saved", "changes", "expected"),
    [
        ({}, {}, {}),
        ({"precision": "bf16", "compile": True, "threads": 1}, {}, {}),
        ({"precision": "bf16"}, {"precision": "fp32"}, {"precision": "fp32"}),
        ({}, {"precision": "bf16"}, {"precision": "bf16"}),
        ({}, {"layout": "contiguous"}, {"layout": "contiguous"}),
        ({"threads": 2}, {"threads": 1}, {"threads": 1}),
        ({"compile": True}, {"compile": "off"}, {"compile": False}),
        ({"compile": True, "layout": "contiguous"}, {"compile": "on", "layout": "contiguous"}, {}),
        ({"cuda_graph": True}, {"compile": "cuda-graph"}, {"cuda_graph": False}),  # there is none on a processor
        ({"cuda_graph": True}, {}, {"cuda_graph": False}),
        ({}, {"compile": "cuda-graph"}, {}),
    ],
)
def test_a_resumed_run_is_computed_as_the_configuration_says_now(monkeypatch, saved, changes, expected):
    """What is not set stays as the run had it."""
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    state = Trainer(CONFIG).state_dict()
    execution = Execution(**saved)
    checkpoint = Checkpoint({**state["state"], "execution": execution.as_json()}, state["tensors"])
    with kept_threads():
        resumed = Trainer(dataclasses.replace(CONFIG, **changes), checkpoint=checkpoint)
    assert resumed.execution == dataclasses.replace(execution, **expected)
    asks = changes.get("compile") == "cuda-graph"
    assert any("continued without a CUDA graph: " in warning for warning in resumed.warnings) == asks


WAYS = ({"cuda_graph": True}, {"compile": True}, {"compile": True, "cuda_graph": True})


def test_after_a_graph_that_cannot_be_captured_no_other_is_tried(step_times, monkeypatch):
    times, taken = step_times
    times.update({"fp32": 1e-2, "fp32 + compile": 1e-3})  # none for graphs: a KeyError in place of CUDA's error
    monkeypatch.setattr(select_execution_module, "_prepared", lambda *_, **__: WAYS)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    config, lines = dataclasses.replace(CONFIG, precision="fp32", layout="channels_last"), []
    way, _ = select_execution(config, build_model(CONFIG.model), batch, load=LOAD, log=lines.append)
    assert way.name == "fp32 + compile"
    assert "fp32 + compile + CUDA graph" not in taken
    assert "fp32 + CUDA graph does not work here ('fp32 + CUDA graph'); going on without" in lines


def test_after_a_compilation_that_fails_no_other_is_tried(step_times, monkeypatch):
    times, _ = step_times
    times.update({"fp32": 1e-2, "fp32 + CUDA graph": 1e-3})
    ways = ({"compile": True}, {"cuda_graph": True}, {"compile": True, "cuda_graph": True})
    monkeypatch.setattr(select_execution_module, "_prepared", lambda *_, **__: ways)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    config, lines = dataclasses.replace(CONFIG, precision="fp32", layout="channels_last"), []
    way, _ = select_execution(config, build_model(CONFIG.model), batch, load=LOAD, log=lines.append)
    assert way.name == "fp32 + CUDA graph"
    assert sum("does not work here" in line for line in lines) == 1


def test_a_configured_compilation_that_fails_in_a_long_run_ends_it_in_one_line(step_times, monkeypatch):
    step_times[0].update({"fp32": 1e-2})
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    config = dataclasses.replace(CONFIG, precision="fp32", layout="channels_last", compile="on")
    with pytest.raises(ConfigError, match=r"^--compile on does not work here \('fp32 \+ compile'\); leave it out"):
        select_execution(config, build_model(CONFIG.model), batch, load=LOAD)


def test_a_compilation_that_fails_ends_a_resumed_run_in_one_line(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nhere")

    checkpoint = Checkpoint(**Trainer(CONFIG).state_dict())
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    monkeypatch.setattr(step_timer.StepTimer, "images_per_s", broken)
    with pytest.raises(ConfigError, match=r"^--compile on does not work here \(no compiler\); leave it out"):
        Trainer(dataclasses.replace(CONFIG, compile="on"), checkpoint=checkpoint)


def test_what_is_set_by_hand_is_kept(step_times):
    times, taken = step_times
    times.update({"fp32": 1.0, "fp32 + NCHW": 1.0, "fp32 + NCHW + 3 threads": 1.0})
    chosen = dataclasses.replace(CONFIG, precision="fp32", compile="off")
    way, _ = select_execution(chosen, build_model(CONFIG.model), batch, load=LOAD)
    assert (way.precision, set(taken)) == ("fp32", {"fp32", "fp32 + NCHW"})
    all_set = dataclasses.replace(chosen, layout="contiguous", threads=3)
    way, _ = select_execution(all_set, build_model(CONFIG.model), batch, load=LOAD)
    assert dataclasses.replace(way, images_per_s={}) == default_execution(all_set)
    assert way.images_per_s == images_of({"fp32 + NCHW + 3 threads": 1.0})  # for the expected time of the run


def test_measuring_leaves_the_network_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = build_model(CONFIG.model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    few = dataclasses.replace(LOAD, batch_size=16)
    lines = []
    way, _ = select_execution(dataclasses.replace(CONFIG, compile="off"), model, batch, load=few, log=lines.append)
    assert "fp32" in way.images_per_s  # a busy machine may leave out others
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["measuring", "comparing"]


@pytest.mark.parametrize(
    ("start_s", "image_s", "num_images"),
    [
        (0, 0.0005, 128),
        (0, 0.004, 32),
        (0, 0.05, 4),
        (0, 5.0, 4),
        (0.05, 0.003, 64),
        (0.1, 0.004, 32),
        (0.1, 0.0, 128),
        (0.3, 0.01, 4),
    ],
)
def test_a_measured_step_takes_a_quarter_of_a_second_if_it_can(start_s, image_s, num_images):
    """The time that a step of any size takes, such as that of the update, does not count as that of the images."""
    found = step_timer.num_measured_images(lambda number: start_s + number * image_s, 128)
    assert found == num_images


def test_people_read_it():
    way = Execution("bf16", "channels_last", compile=True, images_per_s={"fp32": 515.2, "bf16 + compile": 1090.0})
    assert way.describe() == "bf16 + compile: 1,090 images/s; fp32: 515"
    assert Execution().describe() == "fp32"


def test_bf16_computes_in_bf16_and_gives_an_fp32_loss():
    model = build_model(CONFIG.model, generator=torch.Generator().manual_seed(0)).train()
    images, labels = batch()
    exact, _ = make_forward(model, Execution())(images, labels)
    seen = []
    model.get_submodule("layer1").register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    loss, wrong = make_forward(model, Execution("bf16"))(images, labels)
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert 0 <= wrong.item() <= 128


def test_a_run_says_how_it_was_computed(tmp_path):
    from resnetlab.training.run_files.record import read_record

    config = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=2, batch_size=16), precision="bf16")
    fit(config, tmp_path)
    assert read_record(tmp_path / "record.jsonl")[0]["execution"]["precision"] == "bf16"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # PyTorch's own, as inductor loads
def test_compiled_it_learns_the_same():
    """Weights after a few steps agree with the eager ones, for a network of one block: the compiler takes seconds."""
    model = ModelConfig("tiny", (1,), (4,), stem="cifar", num_classes=10)
    config = RunConfig(model, recipe=recipe("digits", steps=20, batch_size=64))
    eager, compiled = (fit(dataclasses.replace(config, compile=way)) for way in ("off", "on"))
    assert compiled.result["train_error_pct"] == pytest.approx(eager.result["train_error_pct"], abs=5)
    torch.testing.assert_close(eager.model.conv1.weight, compiled.model.conv1.weight, rtol=0.05, atol=0.02)


def test_a_configured_compilation_that_runs_out_of_memory_keeps_the_error_of_pytorch(monkeypatch):
    """It has the sizes; nothing says that --compile off would need less."""

    def broken(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    checkpoint = Checkpoint(**Trainer(CONFIG).state_dict())
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    monkeypatch.setattr(step_timer.StepTimer, "images_per_s", broken)
    with pytest.raises(torch.OutOfMemoryError, match="9 GiB"):
        Trainer(dataclasses.replace(CONFIG, compile="on"), checkpoint=checkpoint)
