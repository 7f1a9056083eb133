"""A soup (Wortsman et al. 2022, arXiv 2203.05482): a model whose weights are means over the seeds that help on dev."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.config import Config, RunId
from pipeline.common.metrics import log_loss
from pipeline.loading.selection import Subset, clips_by_role
from pipeline.models.runs import FinishedRun
from pipeline.models.scoring import Scorer
from pipeline.results.evaluation import open_matching_run
from pipeline.results.predictions import Predictions, concatenate, predictions_of

# Accuracy, then log loss with a minus: the higher, the better.
Rank = tuple[float, float]


def score_soup(config: Config, accelerator: Accelerator) -> tuple[Predictions, list[float]]:
    """The predictions of the soup of all seeds for the reported clips, and the share of each seed in it.

    With folds, each fold has a soup of its own; the shares are means over folds.
    """
    parts, shares = [], torch.zeros(len(config.seeds))
    for fold in config.fold_numbers:
        runs = [open_matching_run(config, RunId(seed, fold)) for seed in config.seeds]
        soups = Soups(config, accelerator, runs)
        clips, _ = clips_by_role(config, fold)
        chosen = soups.choose(clips["dev"])
        scored = soups.score(chosen, clips["test"])
        parts.append(predictions_of(clips["test"].clips, scored, config.dataset.classes, fold))
        shares[chosen] += 1 / len(chosen)
    return concatenate(parts), (shares / len(parts)).tolist()


class Soups:
    """Tries soups of the models of runs, which have one architecture."""

    def __init__(self, config: Config, accelerator: Accelerator, runs: Sequence[FinishedRun]) -> None:
        self._config, self._scorer = config, Scorer(runs[0].model, accelerator)
        # On the CPU: the scorer has moved the first model to its device, and a mean needs all of them in one place.
        self._weights = [
            {name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()} for run in runs
        ]

    def choose(self, dev: Subset) -> list[int]:
        """Numbers of the models in the soup: the best one on dev, and each further one that makes dev no worse."""
        ranks = {number: self._rank([number], dev) for number in range(len(self._weights))}
        order = sorted(ranks, key=lambda number: ranks[number], reverse=True)
        chosen, best = order[:1], ranks[order[0]]
        for number in order[1:]:
            if (rank := self._rank([*chosen, number], dev)) >= best:
                chosen, best = [*chosen, number], rank
        return chosen

    def score(self, chosen: Sequence[int], clips: Subset) -> dict[str, NDArray[np.float64]]:
        """Class probabilities of the soup of the chosen models, (classes,), by clip id."""
        self._scorer.model.load_state_dict(mean_weights([self._weights[number] for number in chosen]))
        probabilities = self._scorer.score(clips.located, self._config)
        return {clip.clip_id: row for clip, row in zip(clips.located, probabilities, strict=True)}

    def _rank(self, chosen: Sequence[int], dev: Subset) -> Rank:
        predictions = predictions_of(dev.clips, self.score(chosen, dev), self._config.dataset.classes)
        scored = predictions.scored
        return predictions.accuracy, -log_loss(predictions.labels[scored], predictions.probabilities[scored])


def mean_weights(models: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the weights and buffers of models; whole numbers, such as BatchNorm's counts, are the first's."""
    first = models[0]
    return {
        name: torch.stack([model[name] for model in models]).mean(dim=0) if value.is_floating_point() else value
        for name, value in first.items()
    }
