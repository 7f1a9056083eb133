"""What a prediction depends on: attention over time, and the prediction from each stream alone."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.loading.batch import Batch
from pipeline.models.fusion import Tokens
from pipeline.models.model import GroupEmotionModel, every_nth
from pipeline.models.scoring import ScoredClip, Scorer


@dataclass(frozen=True)
class AttentionCurve:
    """Times of a stream's tokens in seconds, (moments,), and their shares of the attention, (moments,)."""

    times_s: NDArray[np.float64]
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """What a prediction depends on, by stream.

    `attention` is empty for a fusion without attention. `faces` are the shares of the attention that each face gets,
    (N, K) as in `People`; None without attention to people. `alone` holds the class probabilities (classes,) when all
    other streams are hidden; it is empty for a model of one stream.
    """

    attention: dict[str, AttentionCurve]
    faces: NDArray[np.float64] | None
    alone: dict[str, NDArray[np.float64]]


def explain(clip: ScoredClip, scorer: Scorer) -> Explanation:
    """The explanation of a prediction that `scorer` made: the attention is that of the first view."""
    batch = clip.batch.to(scorer.accelerator.device)
    has_several = len(scorer.model.fusion.used) > 1
    view = scorer.model.sampling.view_of(batch, 0)
    tokens, shares = attention_of_tokens(scorer.model, view)
    return Explanation(
        attention={name: _curve(tokens[name], share) for name, share in shares.items()},
        faces=_attention_to_faces(view, scorer.model, shares),
        alone=predictions_alone(batch, scorer) if has_several else {},
    )


def attention_of_tokens(model: GroupEmotionModel, batch: Batch) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
    """The tokens of a clip by stream, and the attention (time,) to them; the batch of one is on the model's device.

    Shares are means over blocks, heads and queries, summed over places in the picture or spectrum. Those of one stream
    add up to less than 1, because its summary token gets attention too. A fusion without attention has no shares.
    """
    maps: list[Tensor] = []
    with torch.no_grad():
        tokens = model.tokens(batch)
        model.fusion(tokens, maps)
    if not maps:
        return tokens, {}
    counts = {name: 1 + each.values.shape[1:3].numel() for name, each in tokens.items()}
    received = attention_received(maps, counts, model.fusion.kind)
    # The first share is that of the summary token.
    return tokens, {name: received[name][1:].view(each.values.shape[1:3]).sum(dim=1) for name, each in tokens.items()}


def attention_received(maps: Sequence[Tensor], counts: Mapping[str, int], kind: str) -> dict[str, Tensor]:
    """The attention (tokens,) that each stream gets, as the mean over the blocks that attend to it.

    `maps` are those of a clip (`Fusion.forward`), and `counts` are the tokens of each stream, with its summary token.
    """
    names = list(counts)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for number, weights in enumerate(maps):
        attended = names
        if kind == "cross_attention":  # a layer has one block per stream, which attends to all other streams
            querying = names[number % len(names)]
            attended = [name for name in names if name != querying]
        received = weights[0].float().mean(dim=(0, 1)).cpu()
        for name, part in zip(attended, torch.split(received, [counts[name] for name in attended]), strict=True):
            parts[name].append(part)
    return {name: torch.stack(received).mean(0) for name, received in parts.items()}


def _attention_to_faces(
    batch: Batch, model: GroupEmotionModel, shares: Mapping[str, Tensor]
) -> NDArray[np.float64] | None:
    """The attention (N, K) to the faces of a clip, from the shares (time,) of all streams that take people."""
    names = [name for name in shares if model.takes[name] == "people"]
    if batch.people is None or not names:
        return None
    together = np.zeros(batch.people.present.shape[1:])
    for name in names:
        taken = together[every_nth(model.steps[name])]
        taken += shares[name].view(taken.shape).double().numpy()
    return together


def _curve(tokens: Tokens, shares: Tensor) -> AttentionCurve:
    """The curve of a clip's tokens that are not padding; those of one moment, as of the people in a frame, together."""
    is_valid = ~tokens.padding[0].cpu()
    token_times_s = tokens.times_s.expand(tokens.padding.shape)[0].cpu()[is_valid].double().numpy()
    times_s, moments = np.unique(token_times_s, return_inverse=True)
    summed = np.bincount(moments, shares[is_valid].double().numpy(), len(times_s))
    return AttentionCurve(times_s, summed.astype(np.float64))


def predictions_alone(batch: Batch, scorer: Scorer) -> dict[str, NDArray[np.float64]]:
    """The class probabilities (classes,) from each stream alone, for the streams that a batch of one clip has.

    A stream of people is left out if a view of the clip has no face in the frames that it takes: it would be alone
    with nothing, and a model shows the other streams then.
    """
    model, takes = scorer.model, scorer.model.takes
    views = list(model.sampling.views_of(batch))
    names = [name for name in takes if all(model.frames_of(name, view).available[takes[name]].all() for view in views)]
    return {name: scorer.probabilities(hide_all_but(name, batch, takes))[0] for name in names}


def hide_all_but(stream: str, batch: Batch, streams: Iterable[str]) -> Batch:
    """The batch with all streams hidden but one."""
    everywhere = torch.ones_like(batch.has_video)
    return dataclasses.replace(batch, hidden={name: everywhere & (name != stream) for name in streams})
