"""Recipes for ResNet-50 on ImageNet that were published after 2020, with the source of every value.

What they do that these recipes do not is listed at each. Both evaluate at 224 pixels and train at fewer, because
crops of random size show objects larger than the evaluation does (Touvron et al., 2019).
"""

from resnetlab.config import Recipe

TORCHVISION_EMA_DECAY = 1 - (1 - 0.99998) * 1024 / 600
"""Per step. torchvision averages every 32 steps with 1 - (1 - 0.99998) * batch * 32 / epochs (its train.py)."""

# Wightman, Touvron and Jégou, 2021, "ResNet strikes back", procedure A3: 78.06 % top-1 for ResNet-50 (timm's
# resnet50.a3_in1k). Length, rate, decay, warm-up, mixup, CutMix, RandAugment, loss and no decay on BN and biases: as in
# mmpretrain, resnet50_8xb256-rsb-a3-100e_in1k. 160 pixels: timm's configuration of these weights.
TIMM_A3 = Recipe(
    name="timm-a3",
    epochs=100,
    batch_size=2048,
    lr=8e-3,
    optimizer="lamb",
    momentum=0.9,  # beta1; timm's Lamb: betas (0.9, 0.999)
    clip_grad_norm=1.0,  # timm's Lamb: max_grad_norm
    weight_decay=0.02,
    decay_norms=False,
    schedule="cosine",  # Differs: timm's cosine starts at epoch 0, under the warm-up, and ends at 1e-6
    warmup_epochs=5,  # Differs: timm's warm-up starts at 1e-4
    loss="bce",
    bce_threshold=0.2,  # every mixed class counts as present; the value is that of the A2 command of ML-Decoder
    mixup=0.1,
    cutmix=1.0,
    rand_augment=6.0,  # rand-m6-mstd0.5-inc1
    crop="resized",
    flip=True,
    train_sizes=((0, 160),),
)
"""Differs further: bicubic interpolation, and evaluation on 0.95 of the resized image; here it is 0.875."""

# torchvision's references/classification, command of ResNet50_Weights.IMAGENET1K_V2 (issue 3995 of pytorch/vision; 8
# processes of 128 images): 80.858 % top-1.
TORCHVISION_V2 = Recipe(
    name="torchvision-v2",
    epochs=600,
    batch_size=1024,
    lr=0.5,
    scale_lr=True,
    momentum=0.9,
    weight_decay=2e-5,
    decay_norms=False,  # Differs: torchvision excludes BN only, and decays the bias of the head
    schedule="cosine",
    warmup_epochs=5,  # Differs: torchvision's warm-up starts at 1 % of the rate
    label_smoothing=0.1,
    mixup=0.2,
    cutmix=1.0,
    trivial_augment=True,
    random_erasing=0.1,
    augment_repeats=4,
    ema_decay=TORCHVISION_EMA_DECAY,
    crop="resized",
    flip=True,
    train_sizes=((0, 176),),
)
"""Differs further: evaluation on 224 of 232 pixels; here it is 0.875 of the resized image."""

MODERN_RECIPES = (TIMM_A3, TORCHVISION_V2)
