"""The execution of a run's steps: from its checkpoint, from an earlier measurement, or measured now."""

import dataclasses

from torch import Tensor

from resnetlab.config import RunConfig
from resnetlab.models.resnet import ResNet
from resnetlab.models.sync_batchnorm import convert_sync_batchnorm
from resnetlab.training.execution.execution import (
    Execution,
    Forward,
    check_execution,
    make_forward,
    with_configured,
)
from resnetlab.training.execution.select_execution import StepLoad, compiled_or_refused, select_execution
from resnetlab.training.execution.step_timer import random_batch
from resnetlab.training.loss import make_loss
from resnetlab.training.run_data import RunData
from resnetlab.training.run_files.checkpoint import Checkpoint


def resolve_execution(
    config: RunConfig, model: ResNet, data: RunData, *, macs: int, checkpoint: Checkpoint | None
) -> tuple[Execution, Forward]:
    """Return how steps are computed: as the checkpoint stores it, or as a measurement by the first process selects.

    What the configuration sets is used in both cases; it may have changed since the checkpoint.
    The network gets the memory format of the execution, and synchronised batch normalisation if configured. PyTorch
    gets its number of threads.
    """
    loss, group = make_loss(config.recipe, data.class_weights), data.options.process_group
    shares = group.size * config.grad_accum_steps
    load = StepLoad(macs, data.total_steps, config.recipe.batch_size, config.model.depth, shares)

    def sample_batch(num_images: int) -> tuple[Tensor, Tensor]:
        multi_label = data.dataset.train.is_multi_label
        return random_batch(model, num_images, data.preprocessing.image_size, multi_label=multi_label)

    def select() -> tuple[Execution, Forward]:
        return select_execution(
            config,
            model,
            sample_batch,
            load=load,
            loss=loss,
            log=data.options.log or (lambda line: None),
        )

    if checkpoint:
        saved = Execution(**checkpoint.state["execution"])
        execution = with_configured(saved, config)
        if shares > 1 or data.device.type != "cuda":  # a graph replays the same kernels; others go without, and say so
            execution = dataclasses.replace(execution, cuda_graph=False)
        check_execution(execution, data.device)
        if execution.compile and not saved.compile:
            forward = compiled_or_refused(model, execution, lambda: sample_batch(load.share_size), loss)
        else:
            forward = make_forward(model, execution, loss)
    elif data.options.execution is not None:
        execution = data.options.execution
        forward = make_forward(model, execution, loss)
    elif group.size == 1:
        execution, forward = select()
    else:
        execution = group.run_on_first(lambda: select()[0])
        forward = make_forward(model, execution, loss)
    if config.sync_bn and group.size > 1:  # after the measurement, which one process makes alone
        convert_sync_batchnorm(model)
    model.to(memory_format=execution.memory_format)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    execution.use_threads()
    return execution, forward


def without_graph(config: RunConfig, execution: Execution) -> str | None:
    """Return a warning for a run that continues without the CUDA graph that its configuration asks for."""
    if config.compile != "cuda-graph" or execution.cuda_graph:
        return None
    return (
        "continued without a CUDA graph: compile cuda-graph needs an NVIDIA GPU, and one process without "
        "--grad-accum-steps"
    )
