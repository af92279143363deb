import pytest
import torch
from torch import nn

from resnetlab.config import DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.transforms import normalise
from resnetlab.evaluation.protocols import score_split
from resnetlab.models.zoo import build_model

DATA = open_data(DataConfig("digits"))


def test_score_equals_one_forward_pass_over_the_split():
    model = build_model("resnet8", 10, in_channels=1).train()
    score = score_split(model, DATA.train, DATA.preprocessing)
    assert model.training  # the mode is restored
    with torch.no_grad():
        logits = model.eval()(normalise(torch.as_tensor(DATA.train.images), DATA.preprocessing))
    wrong = int((logits.argmax(1) != DATA.train.labels).sum())
    assert (score.num_samples, score.num_wrong) == (1257, wrong)
    assert score.error_pct == pytest.approx(100 * wrong / 1257)
    assert score.loss == pytest.approx(nn.functional.cross_entropy(logits, DATA.train.labels).item(), rel=1e-4)


class Oracle(nn.Module):
    """Returns the labels of a split in order, except for the first `wrong` samples."""

    def __init__(self, labels, wrong):
        super().__init__()
        predictions = labels.clone()
        predictions[:wrong] = (predictions[:wrong] + 1) % 10
        self.logits, self.position = nn.functional.one_hot(predictions, 10).float(), 0

    def forward(self, images):
        self.position += len(images)
        return self.logits[self.position - len(images) : self.position]


@pytest.mark.parametrize("wrong", [0, 1, 270])
def test_error(wrong):
    assert score_split(Oracle(DATA.val.labels, wrong), DATA.val, DATA.preprocessing).num_wrong == wrong
