"""The baseline of `study_speed.py`: the default study's twelve trainings in a plain PyTorch loop, one after another.

`TensorDataset`, `DataLoader`, SGD, evaluation after each epoch and at the end, two threads. Networks, images, batch
size, steps and learning rates are the same; there is no process pool, no record and no report.
"""

import sys

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from resnetlab.config import DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.transforms import normalise
from resnetlab.models.zoo import build_model
from resnetlab.training.optimizers.lr_schedule import lr_at
from resnetlab.training.recipes import recipe as named_recipe


def main(num_threads: int, seeds: int) -> None:
    """Train plain and residual networks of 20 and 56 layers with each seed, and print their final errors."""
    torch.set_num_threads(num_threads)
    recipe = named_recipe("digits")
    data = open_data(DataConfig("digits"))
    sets = {
        name: TensorDataset(normalise(torch.as_tensor(split.images), data.preprocessing), split.labels)
        for name, split in data.splits.items()
    }
    for name in ("plain20", "resnet20", "plain56", "resnet56"):
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = build_model(name, 10, in_channels=1)
            optimizer = torch.optim.SGD(
                model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
            )
            loader = DataLoader(sets["train"], recipe.batch_size, shuffle=True, drop_last=True)
            total_steps, step = recipe.epochs * len(loader), 0
            for _ in range(recipe.epochs):
                model.train()
                for images, labels in loader:
                    for group in optimizer.param_groups:
                        group["lr"] = lr_at(step, total_steps, recipe)
                    loss = F.cross_entropy(model(images), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    step += 1
                error_pct(model, sets["val"])
            errors = {split: error_pct(model, dataset) for split, dataset in sets.items()}
            print(name, seed, *(f"{split} {error:.2f} %" for split, error in errors.items()), flush=True)


@torch.no_grad()
def error_pct(model: torch.nn.Module, dataset: TensorDataset) -> float:
    """Return the top-1 error on a data set, in %."""
    model.eval()
    wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in DataLoader(dataset, batch_size=512))
    return 100 * wrong / len(dataset)


if __name__ == "__main__":
    main(num_threads=int(sys.argv[1]), seeds=int(sys.argv[2]))
