"""The recipe of a training: a frozen, validated dataclass. `config.py` has the other parts of a run's configuration."""

import math
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal

from resnetlab.extension import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from resnetlab.serialization import OMIT_DEFAULT, at_least, check, one_of

Crop = Literal["pad", "scale", "resized"]
ClassWeights = Literal["none", "balanced"]
Loss = Literal["cross_entropy", "bce", "bce_sum"]


@dataclass(frozen=True)
class Recipe:
    """The training of a network: length, optimizer, schedule, augmentation and selection of the final weights.

    Raises:
        ConfigError: if a value is outside the range given at its field.
    """

    name: str = "custom"
    """A label for output and file names; it does not affect training."""
    epochs: int = 5
    """Passes over the training split, at least 1; ignored if `steps` is given."""
    steps: int | None = None
    """Length of the run in steps, at least 1, replacing `epochs` (sections 3.4 and 4.2 count iterations)."""
    batch_size: int = 16
    """Images per step, at least 2 (batch normalisation needs a variance)."""
    lr: float = 0.01
    """Highest learning rate, above 0."""
    scale_lr: bool = False
    """Whether another batch size scales `lr` in proportion, where no other `lr` is given (Goyal et al., 2017)."""
    momentum: float = 0.9
    """v = momentum * v + gradient, w = w - lr * v, as PyTorch does it; from 0 to below 1. The first beta of `adamw`,
    `lamb` and `muon`.

    Differs: the authors' release notes say v = momentum * v + lr * gradient, w = w - v. The two are equal while lr is
    constant, and differ for about 1 / (1 - momentum) steps after a change of it."""
    nesterov: bool = False
    """Nesterov's momentum: w = w - lr * (gradient + momentum * v). Needs a momentum above 0."""
    max_update: float | None = None
    """Longest step of a layer, as a share of the norm of its weights, above 0; longer steps are shortened to it, and
    their momentum too. It holds for kernels of convolutions and of the head; no limit if not given."""
    weight_decay: float = 1e-4
    """L2 penalty on every parameter, at least 0 (section 3.4). `adamw` and `muon` decouple it from the gradient
    (Loshchilov and Hutter, 2019), `lamb` from the moments only."""
    optimizer: str = "sgd"
    """`sgd`, `adamw`, `lamb` (`training/optimizers/lamb.py`), `muon` for kernels with AdamW for the rest
    (`training/optimizers/muon.py`), or a name registered with `register_optimizer`."""
    schedule: str = "step"
    """`constant`; `step` divides by 10 at `milestones`; `plateau` divides by 10 after `patience` epochs without a lower
    validation error (section 3.4); `linear` and `cosine` fall to 0 at the end; or a name registered with
    `register_schedule`."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Points at which `step` divides, as rising fractions of the run inside (0, 1); the paper: 32k and 48k of 64k."""
    patience: int = 5
    """Epochs without a lower validation error before `plateau` divides, at least 1."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0, at least 0."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises from 0, at least 0; ignored if `warmup_steps` is above 0."""
    label_smoothing: float = 0.0
    """Share of each label distributed over all classes, from 0 to below 1 (Szegedy et al., 2016)."""
    decay_norms: bool = True
    """Apply weight decay to biases and to the scale and shift of batch normalisation too, as the paper does."""
    initial_lr: float | None = None
    """Learning rate until the training error falls below `initial_lr_until_pct` (section 4.2, 110 layers: 0.01)."""
    initial_lr_until_pct: float = 80.0
    """Training error in % that ends the phase with `initial_lr`, above 0 and at most 100."""
    crop: Crop = "pad"
    """`pad`: pad by `crop_padding`, then a random crop; `scale`: random shorter side in `scale_range`, then a random
    crop (section 3.4); `resized`: a random box of 8 to 100 % of the area, sides 3:4 to 4:3 (Inception, torchvision)."""
    crop_padding: int = 0
    """Zero pixels added on each side before a random crop of the original size, at least 0 (section 4.2: 4)."""
    scale_range: tuple[int, int] = (256, 480)
    """Range of the shorter side in pixels for a crop of 224, at least 224; scaled for other crops (section 3.4)."""
    train_sizes: tuple[tuple[float, int], ...] = ()
    """Pairs of a fraction of the run and the side of training images from there on, in pixels; the first fraction is 0.
    If empty, training uses the evaluation size. With crop `pad`, images are resized after the crop."""
    flip: bool = False
    """Flip training images horizontally with probability one half (sections 3.4 and 4.2)."""
    alternate_flip: bool = False
    """With `flip`: flip one random half of the images in even epochs and the other half in odd epochs, so that two
    epochs in a row show both views of each image (Jordan, 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU")."""
    jitter: float = 0.0
    """Random factors for brightness, contrast and saturation lie within 1 ± jitter, from 0 to 1."""
    lighting: float = 0.0
    """Standard deviation of the PCA colour augmentation, at least 0 (section 3.4 and its reference [21]: 0.1)."""
    augmentations: tuple[str, ...] = ()
    """Names registered with `register_augmentation`, applied in this order to the normalised images."""
    normalise: Literal["channel", "pixel"] = "channel"
    """`channel`: mean and standard deviation per channel; `pixel`: subtract the mean per pixel only (section 4.2)."""
    frozen_epochs: int = 0
    """Epochs at the start that update only the head, at least 0."""
    layer_decay: float = 1.0
    """Factor on `lr` per group of layers below the head (last stage, …, first stage, stem), above 0 and at most 1."""
    freeze_bn: bool = False
    """Freeze the statistics, scale and shift of batch normalisation."""
    ema_decay: float = 0.0
    """Decay per step of an exponential moving average of the weights, from 0 to below 1; 0 for none. The average is
    evaluated, tested and saved in place of the weights. After n steps the decay is at most (1 + n) / (10 + n)."""
    keep: Literal["last", "best"] = "last"
    """Final weights, tested and saved: of the `last` epoch, or of the `best` (lowest) validation error."""
    class_weights: ClassWeights = field(default="none", metadata=OMIT_DEFAULT)
    """Weights of the classes in the training loss. `balanced`: each image's loss is multiplied by n / (k n_c), for n
    images, k classes with images, and n_c images of its class (King and Zeng, 2001, "Logistic regression in rare events
    data"); their mean over the training split is 1."""
    balanced_order: bool = field(default=False, metadata=OMIT_DEFAULT)
    """Draw every class equally often: each k images in a row are one of each of the k classes. An epoch stays as long
    as without; images of a small class come several times, those of a large class wait for a later epoch."""
    early_stop_epochs: int | None = field(default=None, metadata=OMIT_DEFAULT)
    """Epochs without a lower validation error after which the run ends, at least 1; never if not given. The learning
    rate follows the schedule of the whole length until then."""

    beta2: float = field(default=0.999, metadata=OMIT_DEFAULT)
    """Decay of the second moment of `adamw`, `lamb` and `muon`, from 0 to below 1."""
    clip_grad_norm: float | None = field(default=None, metadata=OMIT_DEFAULT)
    """Highest norm of all gradients together, above 0; longer ones are scaled to it. No limit if not given."""
    loss: Loss = field(default="cross_entropy", metadata=OMIT_DEFAULT)
    """Loss of the training: `cross_entropy`; `bce`: binary cross-entropy of each class, averaged over classes (Wightman
    et al., 2021, "ResNet strikes back"); `bce_sum`: summed over classes."""
    bce_threshold: float | None = field(default=None, metadata=OMIT_DEFAULT)
    """With `bce`: a class whose share in a mixed image is above this counts as present (1), any other as absent (0),
    from 0 to below 1. If not given, the shares are the targets."""
    mixup: float = field(default=0.0, metadata=OMIT_DEFAULT)
    """Alpha of mixup, at least 0; 0 for none. The images of a pair are averaged with a share drawn from Beta(alpha,
    alpha) for each batch, and their labels too (Zhang et al., 2018)."""
    cutmix: float = field(default=0.0, metadata=OMIT_DEFAULT)
    """Alpha of CutMix, at least 0; 0 for none. A box of each image comes from the other image of its pair, and labels
    are shared by area (Yun et al., 2019). With `mixup` too, each batch has one of the two, with equal probability."""
    trivial_augment: bool = field(default=False, metadata=OMIT_DEFAULT)
    """TrivialAugment, wide: one of 14 operations at a random strength (Müller and Hutter, 2021)."""
    rand_augment: float | None = field(default=None, metadata=OMIT_DEFAULT)
    """Strength of RandAugment, from 0 to 10: two of 15 operations, each applied with probability one half at about this
    strength (Cubuk et al., 2020; timm's `rand-mSTRENGTH-mstd0.5-inc1`). None if not given."""
    random_erasing: float = field(default=0.0, metadata=OMIT_DEFAULT)
    """Probability that a random box of an image is replaced by its mean colour, from 0 to 1 (Zhong et al., 2020)."""
    augment_repeats: int = field(default=1, metadata=OMIT_DEFAULT)
    """Differently augmented copies of each image in a batch, at least 1 (Hoffer et al., 2020). An epoch stays as long,
    and has fewer different images."""

    def with_warmup_steps(self, epoch_steps: int) -> "Recipe":
        """Return the recipe with its warm-up in steps, for epochs of `epoch_steps` steps."""
        if not self.warmup_epochs or self.warmup_steps:
            return self
        return replace(self, warmup_steps=round(self.warmup_epochs * epoch_steps))

    def __post_init__(self) -> None:
        SCHEDULES.check(self.schedule)
        OPTIMIZERS.check(self.optimizer)
        for augmentation in self.augmentations:
            AUGMENTATIONS.check(augmentation)
        one_of("keep", self.keep, Literal["last", "best"])
        one_of("class_weights", self.class_weights, ClassWeights)
        one_of("crop", self.crop, Crop)
        one_of("loss", self.loss, Loss)
        one_of("normalise", self.normalise, Literal["channel", "pixel"])
        at_least(0, self, "weight_decay", "lighting", "warmup_steps", "warmup_epochs", "crop_padding", "frozen_epochs")
        at_least(0, self, "mixup", "cutmix")
        at_least(1, self, "epochs", "steps", "patience", "early_stop_epochs", "augment_repeats")
        at_least(2, self, "batch_size")
        check(math.isfinite(self.lr) and self.lr > 0, f"lr must be above 0, not {self.lr}")
        check(0 <= self.momentum < 1, f"momentum must be from 0 to below 1, not {self.momentum}")
        check(not self.nesterov or self.momentum > 0, "nesterov needs a momentum above 0")
        limit = self.max_update
        check(limit is None or (math.isfinite(limit) and limit > 0), f"max_update must be above 0, not {limit}")
        check(0 < self.layer_decay <= 1, f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")
        first, until = self.initial_lr, self.initial_lr_until_pct
        check(first is None or (math.isfinite(first) and first > 0), f"initial_lr must be above 0, not {first}")
        check(0 < until <= 100, f"initial_lr_until_pct must be above 0 and at most 100, not {until}")
        check(
            len(self.scale_range) == 2 and 224 <= self.scale_range[0] <= self.scale_range[1],
            f"scale_range must be two rising sides of at least 224 pixels, not {self.scale_range}",
        )
        check(0 <= self.label_smoothing < 1, f"label_smoothing must be from 0 to below 1, not {self.label_smoothing}")
        starts = [start for start, _ in self.train_sizes]
        rising = starts == sorted(set(starts)) and all(0 <= start < 1 for start in starts)
        are_sides = all(isinstance(side, Integral) and side >= 8 for _, side in self.train_sizes)
        check(
            not starts or (starts[0] == 0 and rising and are_sides),
            f"train_sizes must be rising fractions of the run from 0 on, each with a whole side of 8 or more, not "
            f"{self.train_sizes}",
        )
        check(0 <= self.ema_decay < 1, f"ema_decay must be from 0 to below 1, not {self.ema_decay}")
        check(0 <= self.jitter <= 1, f"jitter must be from 0 to 1, not {self.jitter}")
        check(
            all(0 < m < 1 for m in self.milestones) and list(self.milestones) == sorted(set(self.milestones)),
            f"milestones must be rising fractions of the run between 0 and 1, not {self.milestones}",
        )
        self._check_order()
        self._check_mixing()

    def _check_order(self) -> None:
        """Check the fields that decide how often an image comes in an epoch."""
        check(self.flip or not self.alternate_flip, "alternate_flip needs flip")
        check(
            not (self.balanced_order and self.class_weights == "balanced"),
            "balanced_order and class_weights balanced both correct unequal classes, and together too much; set one",
        )
        repeated = "balanced_order" if self.balanced_order else "augment_repeats"
        check(
            not self.alternate_flip or (not self.balanced_order and self.augment_repeats == 1),
            f"alternate_flip needs each image once an epoch, which {repeated} does not give; set one",
        )
        check(
            self.augment_repeats <= self.batch_size // 2,
            f"augment_repeats must be at most half of batch_size, {self.batch_size // 2}, not {self.augment_repeats}",
        )

    def _check_mixing(self) -> None:
        """Check the fields of optimizer, loss and augmentation that recipes after 2017 have."""
        check(0 <= self.beta2 < 1, f"beta2 must be from 0 to below 1, not {self.beta2}")
        limit, threshold, strength = self.clip_grad_norm, self.bce_threshold, self.rand_augment
        check(limit is None or (math.isfinite(limit) and limit > 0), f"clip_grad_norm must be above 0, not {limit}")
        check(
            not self.nesterov or self.optimizer not in ("adamw", "lamb"),
            f"nesterov is of the optimizers sgd and muon, not {self.optimizer}; set nesterov=false",
        )
        is_bce = self.loss != "cross_entropy"
        check(threshold is None or 0 <= threshold < 1, f"bce_threshold must be from 0 to below 1, not {threshold}")
        check(threshold is None or is_bce, "bce_threshold needs the loss bce or bce_sum")
        check(
            not is_bce or self.class_weights == "none", f"class_weights balanced needs cross_entropy, not {self.loss}"
        )
        check(math.isfinite(self.mixup + self.cutmix), "mixup and cutmix must be finite")
        check(
            not (self.mixup or self.cutmix) or self.batch_size % 2 == 0,
            f"mixup and cutmix join the images of a batch in pairs; give an even batch_size, not {self.batch_size}",
        )
        check(strength is None or 0 <= strength <= 10, f"rand_augment must be from 0 to 10, not {strength}")
        check(not (self.trivial_augment and strength is not None), "set trivial_augment or rand_augment, not both")
        check(0 <= self.random_erasing <= 1, f"random_erasing must be from 0 to 1, not {self.random_erasing}")
