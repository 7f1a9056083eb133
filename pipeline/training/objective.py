"""What a training minimises: the loss of the model, and beside it the loss of each stream alone.

Trained jointly, networks tend to learn the stream that is learnt fastest and to leave the others as they are
(arXiv 2203.12221). A loss on each stream alone (arXiv 1905.12681, 2405.07930) makes each of them learn. How accurate a
stream is alone also shows which of them the model could use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.common.recipe import TrainingSettings
from pipeline.loading.batch import Batch
from pipeline.models.fusion import Tokens
from pipeline.models.model import GroupEmotionModel

MEASURES = 3  # columns of `StepLoss.streams`


@dataclass(frozen=True)
class StepLoss:
    """The losses of a batch.

    `total` is what is minimised, and `fused` the mean loss of the model's logits. A row of `streams` (streams, 3) holds
    the sum of the losses of a stream's own head, the number of clips that it gets right, and of clips that have it.
    """

    total: Tensor
    fused: Tensor
    streams: Tensor


class Objective(nn.Module):
    """The loss of a model on a batch.

    It adds `stream_loss` times the loss of each stream's own head: a linear one on the mean of the stream's tokens
    before they meet the others. A clip without the stream has the loss 0 there. With `stream_loss` 0, the heads learn
    and the model does not learn from them. The heads are no part of the model, and so of no export. The loss of a clip
    is multiplied by `class_weights` (classes,) of its class.
    """

    class_weights: Tensor

    def __init__(self, model: GroupEmotionModel, settings: TrainingSettings, class_weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights)
        self.model = model
        self.stream_loss, self.smoothing = settings.stream_loss, settings.label_smoothing
        widths = {name: network.interface.gives[-1] for name, network in model.backbones().items()}
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(model.labels)) for name, width in widths.items()})

    def forward(self, batch: Batch) -> StepLoss:
        """The losses of a batch, whose labels are classes (B,), or soft (B, classes)."""
        tokens = self.model.tokens(batch)
        fused = self.losses(self.model.fusion(tokens), batch.labels).mean()
        learns, rows, total = self.stream_loss > 0, [], fused
        for name, head in self.heads.items():
            mean, present = mean_token(tokens[name])
            logits = head(mean if learns else mean.detach()).float()
            losses = self.losses(logits, batch.labels) * present
            # Over all clips, not over those that have the stream: the mean over processes is then that over the step.
            total = total + (self.stream_loss if learns else 1.0) * losses.mean()
            right = (logits.argmax(dim=1) == hard_labels(batch.labels)) & present
            rows.append(torch.stack([losses.sum(), right.sum(), present.sum()]).detach())
        return StepLoss(total, fused.detach(), torch.stack(rows))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted loss (B,) of each clip in nats."""
        weights = self.class_weights[labels] if labels.dim() == 1 else labels @ self.class_weights
        return weights * F.cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")


def class_weights(labels: Sequence[int], classes: int, balance: str) -> Tensor:
    """The weight of each class: 1, or with the balance `weights` what makes all classes that occur weigh the same.

    The mean over the clips is 1.
    """
    if balance != "weights":
        return torch.ones(classes)
    counts = torch.bincount(torch.tensor(labels), minlength=classes)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0)


def mean_token(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The mean (B, D) of the tokens that are not padding, and whether there are any (B,); 0 where there are none."""
    weights = (~tokens.padding).to(tokens.values.dtype)[..., None]
    sums = (tokens.values.mean(dim=2) * weights).sum(dim=1)
    return sums / weights.sum(dim=1).clamp(min=1), ~tokens.padding.all(dim=1)


def hard_labels(labels: Tensor) -> Tensor:
    """The classes (B,) of labels that are classes (B,), or soft (B, classes)."""
    return labels if labels.dim() == 1 else labels.argmax(dim=1)
