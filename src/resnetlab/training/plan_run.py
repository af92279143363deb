"""Plan a run for a user's own images: survey them, measure the machine, and decide what the user has left open."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from resnetlab.config import ConfigError, ModelConfig, Recipe, RunConfig
from resnetlab.data.registry import LISTED_KINDS, detect_kind
from resnetlab.data.residency import MAX_NATIVE_SIZE, stays_resident
from resnetlab.data.rng import make_generator
from resnetlab.models.cost import cost_of_config
from resnetlab.models.model_card import read_card
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.models.pretrained.fetch import is_cached
from resnetlab.models.zoo import build_model, model_config
from resnetlab.planning.image_survey import ImageSurvey, survey_images
from resnetlab.system.cores import usable_cores
from resnetlab.training.default_plan import (
    LARGER_NETWORK_S,
    LIMIT_S,
    MAX_FACTOR,
    SIZES,
    ImageTimes,
    Length,
    StartNetwork,
    Work,
    fit_length,
    network_for,
    recipe_for,
    small_size,
)
from resnetlab.training.distributed import pick_device
from resnetlab.training.execution.execution import Execution
from resnetlab.training.execution.select_execution import COMPILE_PAYS_S, LONG_RUN_S, StepLoad, select_execution
from resnetlab.training.execution.step_timer import random_batch
from resnetlab.training.plan_request import SCRATCH, PlanRequest, RunPlan
from resnetlab.training.recipe_settings import named_recipe
from resnetlab.training.recipes import FITTED_FIELDS, change_recipe, default_recipe
from resnetlab.training.run_time import EVAL_SHARE

LARGER_FACTOR = 3.0
"""Time of a step of ResNet-50 over that of ResNet-18, before it is measured."""

Consent = Callable[[str], bool]
"""Receives the name of published weights; returns whether they are here, or were downloaded with the user's consent."""


def plan_run(
    request: PlanRequest,
    consent: Consent,
    *,
    log: Callable[[str], None] = lambda line: None,
    num_processes: int = 1,
    measures: bool = True,
) -> RunPlan:
    """Plan network, initial weights, recipe, image size and length of a run.

    The speed is measured if the length is open and the run would take a minute or more on a slow machine. The same
    request can give another plan later; the run directory stores the configuration that was planned.

    Args:
        request: What the user has set.
        consent: Asked for published weights before they are used; without them the weights are random.
        log: Receives lines about the progress.
        num_processes: Processes that share each step.
        measures: Whether the speed may be measured; the length is the usual one if not.

    Raises:
        ConfigError: for data that cannot be read, values out of range, and missing weights for a recipe that needs
            them.
    """
    log("counting the images …")
    survey = survey_images(request.data)
    planner = _Planner(request, survey, log, num_processes, measures)
    networks = planner.networks()
    if request.needs_weights and networks[0].weights is None:
        raise ConfigError(f"recipe {request.recipe} needs trained weights; name a model file with --from")
    chosen, speed = planner.select(networks)
    if chosen.weights is not None and request.weights is None and not consent(chosen.weights):
        if request.needs_weights:
            raise ConfigError(f"recipe {request.recipe} needs trained weights, such as --from {chosen.weights}")
        if chosen.model != networks[0].model:  # a large network is for pretrained weights
            speed = planner.measure(networks[0])
        chosen = replace(networks[0], weights=None)
    return planner.plan(chosen, speed)


@dataclass(frozen=True)
class _Speed:
    execution: Execution
    times: ImageTimes


@dataclass(frozen=True)
class _Planner:
    """The steps of `plan_run`, which share the request and the survey."""

    request: PlanRequest
    survey: ImageSurvey
    log: Callable[[str], None]
    num_processes: int
    measures: bool

    @property
    def accepted_s(self) -> float:
        """Seconds up to which a larger network is worth its time."""
        return LARGER_NETWORK_S if self.request.minutes is None else 60 * self.request.minutes

    def networks(self) -> list[StartNetwork]:
        """Return the networks to choose from, the default one first; one if the user has named it."""
        request = self.request
        weights = None if request.weights == SCRATCH else request.weights
        if weights is not None:
            card = read_card(weights)
            return [StartNetwork(request.model or card.model.name, weights, card.preprocessing.image_size)]
        found = network_for(self.survey)
        if request.model is not None:
            small = model_config(request.model).stem == "cifar"
            size = small_size(self.survey) if small else found[0].image_size
            found = [StartNetwork(request.model, None, size)]
        if detect_kind(request.data) not in LISTED_KINDS:
            found = [StartNetwork(request.model or "resnet20", None)]
        is_random = request.weights == SCRATCH or (request.recipe is not None and not request.needs_weights)
        return [replace(found[0], weights=None)] if is_random else found

    def select(self, networks: Sequence[StartNetwork]) -> tuple[StartNetwork, _Speed | None]:
        """Return the largest network that is fast enough on this machine, and its measured speed.

        A larger network whose weights are here is preferred to a smaller one that needs a download, up to an hour.
        """
        first, *larger = networks
        speed = self.measure(first)
        here = [self._is_here(network) for network in networks]
        for network, is_here in zip(larger, here[1:], strict=True):
            limit_s = LIMIT_S if is_here and not here[0] else self.accepted_s
            if speed is None or LARGER_FACTOR * self.length(first, speed).expected_s > limit_s:
                break
            measured = self.measure(network)
            if measured is not None and self.length(network, measured).expected_s <= limit_s:
                return network, measured
        return first, speed

    def model(self, network: StartNetwork) -> ModelConfig:
        """Return the configuration of a network, with the outputs of the data."""
        weights = self.request.weights if self.request.weights not in (None, SCRATCH) else None
        if weights is not None and self.request.model is None:
            base = read_card(weights).model
        elif network.weights in CATALOGUE:
            base = replace(CATALOGUE[network.weights].model, name=network.model)
        else:
            base = model_config(network.model)
        return replace(base, num_classes=self.survey.num_classes)

    def recipe(self, network: StartNetwork) -> Recipe:
        """Return the recipe of a start from this network, with the user's changes and the usual length."""
        request, model = self.request, self.model(network)
        if request.recipe is not None or detect_kind(request.data) not in LISTED_KINDS:
            named = named_recipe(request.recipe or default_recipe(request.data.name, model), model)
            return change_recipe(named, request.changes)
        name, fields = recipe_for(
            self.survey.num_train, is_pretrained=network.weights is not None, steps_given="steps" in request.changes
        )
        if request.changes.get("batch_size") is not None and "lr" not in request.changes:
            fields.pop("lr", None)
        recipe = change_recipe(change_recipe(named_recipe(name, model), fields), {"keep": "best", **request.changes})
        if recipe.steps and "frozen_epochs" not in request.changes:
            whole_epochs = recipe.steps // max(1, self.survey.num_train // recipe.batch_size)
            recipe = replace(recipe, frozen_epochs=max(0, min(recipe.frozen_epochs, whole_epochs - 1)))
        return recipe

    def work(self, network: StartNetwork) -> Work:
        """Return the images and usual epochs of a run from this network."""
        recipe, survey = self.recipe(network), self.survey
        epoch_steps = max(1, survey.num_train // recipe.batch_size)
        epochs = max(1, round(recipe.steps / epoch_steps)) if recipe.steps else recipe.epochs
        return Work(epoch_steps * recipe.batch_size, survey.num_val, survey.num_evaluated, epochs, recipe.batch_size)

    def size(self, network: StartNetwork) -> int:
        """Return the side of the network's input in pixels."""
        return self.request.data.image_size or network.image_size or self.survey.native_side or self.survey.side

    def sizes(self, network: StartNetwork) -> Sequence[int]:
        """Return the sides from which a time limit selects: standard ones for photographs, else the network's alone."""
        size = self.size(network)
        fixed = self.request.data.image_size is not None or self.recipe(network).train_sizes
        if fixed or self.model(network).stem == "cifar":
            return [size]
        return [size, *(other for other in SIZES if other < size)]

    def measure(self, network: StartNetwork) -> _Speed | None:
        """Measure how fast steps are, if the length is to be planned and the run is not short on any machine."""
        model, size, work, recipe = self.model(network), self.size(network), self.work(network), self.recipe(network)
        total_steps = work.epochs * max(1, work.num_train // work.batch_size)
        shares = self.num_processes * self.request.run_fields.get("grad_accum_steps", 1)
        load = StepLoad(cost_of_config(model, size).macs, total_steps, recipe.batch_size, model.depth, shares)
        if not self.measures or self.request.has_length or (load.slow_s < LONG_RUN_S and self.request.minutes is None):
            return None
        if self.request.minutes is not None:  # a short run too: its length follows from the speed
            step_s = load.slow_s / total_steps
            planned_s = 60 * self.request.minutes
            most_steps = MAX_FACTOR * total_steps
            total_steps = math.ceil(max(LONG_RUN_S, planned_s) / step_s)
            load = replace(load, total_steps=total_steps, planned_s=planned_s, most_steps=most_steps)
        config = self.config(network, recipe)
        device = pick_device(config.device)
        built = build_model(model, generator=make_generator(config.seed, "weights")).to(device)
        execution, _ = select_execution(
            config, built, lambda number: random_batch(built, number, size), load=load, log=self.log
        )
        speed = execution.images_per_s[execution.name] * self.num_processes
        eager = replace(execution, precision="fp32", layout="channels_last", compile=False, cuda_graph=False)
        eager_speed = execution.images_per_s.get(eager.name, speed) * self.num_processes
        times = ImageTimes(size, 1 / speed, EVAL_SHARE / eager_speed, **self._decoding(device, size, recipe))
        return _Speed(execution, times)

    def length(self, network: StartNetwork, speed: _Speed) -> Length:
        """Return length and image size within the time; the image size alone if the user has set the length."""
        return fit_length(speed.times, self.work(network), self.sizes(network), minutes=self.request.minutes)

    def plan(self, network: StartNetwork, speed: _Speed | None) -> RunPlan:
        """Return the planned run."""
        recipe, size = self.recipe(network), self.size(network)
        if speed is None:
            return RunPlan(self.config(network, recipe, size), self.survey)
        length, execution = self.length(network, speed), speed.execution
        recipe = self._fit_recipe(network, length)
        fields: dict[str, Any] = {"precision": execution.precision, "layout": execution.layout}
        if execution.threads:
            fields["threads"] = execution.threads
        config = self.config(network, recipe, length.image_size)
        return RunPlan(replace(config, **fields), self.survey, execution, length.expected_s)

    def _fit_recipe(self, network: StartNetwork, length: Length) -> Recipe:
        """Return the recipe with a planned length, and with what follows from it where the user has not set it."""
        recipe, work, given = self.recipe(network), self.work(network), self.request.changes
        set_fields = {name: given[name] for name in FITTED_FIELDS if name in given}
        fitted = change_recipe(recipe, {"epochs": length.epochs or 1, **set_fields})
        if length.steps is None:
            return fitted
        part = length.steps / max(1, work.num_train // work.batch_size)  # of an epoch
        warmup_epochs = fitted.warmup_epochs * (1 if "warmup_epochs" in given else part)
        return replace(fitted, epochs=recipe.epochs, steps=length.steps, warmup_epochs=warmup_epochs)

    def config(self, network: StartNetwork, recipe: Recipe, image_size: int | None = None) -> RunConfig:
        """Return a configuration; the image size is left out where file or images say the same."""
        request = self.request
        data = request.data
        if data.image_size is None and detect_kind(data) in LISTED_KINDS and image_size != self._own_size(network):
            data = replace(data, image_size=image_size)
        fields = dict(request.run_fields)
        if not request.has_length and 60 * (request.minutes or 0) <= COMPILE_PAYS_S:  # compiling takes a minute
            fields = {"compile": "off", **fields}
        return RunConfig(self.model(network), data, recipe, **fields, weights=network.weights, minutes=request.minutes)

    def _own_size(self, network: StartNetwork) -> int | None:
        """Return the image size of a run without one: that of the weights, or of the images if they have one size."""
        if network.weights is None:
            return self.survey.native_side if (self.survey.native_side or 0) <= MAX_NATIVE_SIZE else None
        return network.image_size if self.request.weights else CATALOGUE[network.weights].image_size

    def _is_here(self, network: StartNetwork) -> bool:
        return network.weights in CATALOGUE and is_cached(CATALOGUE[network.weights])

    def _decoding(self, device: torch.device, size: int, recipe: Recipe) -> dict[str, Any]:
        """Return the fields of `ImageTimes` about decoding: none for images that are decoded once."""
        resident = detect_kind(self.request.data) not in LISTED_KINDS or stays_resident(
            torch.tensor(self.survey.sizes),
            (size, size),
            self.request.data,
            keep_encoded=recipe.crop != "pad",
            num_images=self.survey.num_images,
        )
        decode_s = 0.0 if resident else self.survey.decode_s / usable_cores()
        return {"decode_s": decode_s, "is_parallel": device.type == "cuda"}
