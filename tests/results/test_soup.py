"""A soup: a model whose weights are means over the seeds that help on dev."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from recipes import put_on_device
from short_trainings import train_and_evaluate
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.clips.manifest import Clip, read_manifest
from pipeline.common.config import RunId
from pipeline.loading.selection import Subset, clips_by_role
from pipeline.results import soup
from pipeline.results.soup import Soups, mean_weights, score_soup


def with_ranks(monkeypatch, models, ranks):
    """Soups of some models that ranks a soup as `ranks` says of its sorted members; other soups are bad."""
    soups = Soups.__new__(Soups)
    soups._weights = [{}] * models
    monkeypatch.setattr(
        soups, "_rank", lambda chosen, dev: ranks.get(tuple(sorted(chosen)), (0.0, -9.0)), raising=False
    )
    return soups


def test_weights_are_averaged_and_whole_numbers_are_the_firsts():
    models = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(8)},
    ]
    mean = mean_weights(models)
    assert mean["w"].tolist() == [2.0, 4.0]
    assert (mean["n"].item(), mean["n"].dtype) == (3, torch.int64)
    assert mean_weights(models[:1])["w"].tolist() == [1.0, 2.0]


def test_the_models_of_a_gpu_are_averaged_though_only_the_first_was_moved_to_it(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.nn.Linear, "to", lambda model, device: (put_on_device(model, device), model)[1])
    with FakeTensorMode():
        runs = [SimpleNamespace(model=torch.nn.Linear(2, 2)) for _ in range(2)]
        soups = Soups(None, SimpleNamespace(device=gpu, autocast=None), runs)
        assert runs[0].model.weight.device.type == "cuda"
        assert mean_weights(soups._weights)["weight"].shape == (2, 2)


def test_a_model_joins_only_if_dev_gets_no_worse(monkeypatch):
    ranks = {(0,): (0.5, -1.0), (1,): (0.7, -0.8), (2,): (0.6, -0.9), (1, 2): (0.7, -0.8), (0, 1, 2): (0.7, -0.81)}
    assert with_ranks(monkeypatch, 3, ranks).choose(None) == [1, 2]


def test_of_equally_accurate_models_the_log_loss_decides(monkeypatch):
    ranks = {(0,): (0.7, -1.0), (1,): (0.7, -0.8), (0, 1): (0.7, -0.9)}
    assert with_ranks(monkeypatch, 2, ranks).choose(None) == [1]


def test_of_models_that_are_right_as_often_the_one_that_is_surer_of_the_label_is_the_better(config, monkeypatch):
    sure = {(0,): 0.6, (1,): 0.9, (1, 0): 0.7, (0, 1): 0.7}
    monkeypatch.setattr(
        Soups,
        "score",
        lambda _, chosen, dev: {each.clip_id: np.array([sure[tuple(chosen)], 0.1, 0.0]) for each in dev.clips},
    )
    soups = Soups.__new__(Soups)
    soups._config, soups._weights = config, [{}, {}]
    assert soups.choose(Subset([Clip("1_1", "1", config.dataset.classes[0], "1_1.mp4", 1, "")], [])) == [1]


@pytest.mark.parametrize("case", range(5))
def test_a_soup_is_never_worse_on_dev_than_its_best_model(case, monkeypatch):
    rng = np.random.default_rng(case)
    subsets = [tuple(np.flatnonzero([number >> bit & 1 for bit in range(4)]).tolist()) for number in range(1, 16)]
    ranks = {subset: (float(rng.integers(5)) / 4, -float(rng.random())) for subset in subsets}
    chosen = with_ranks(monkeypatch, 4, ranks).choose(None)
    assert ranks[tuple(sorted(chosen))] >= max(ranks[subset] for subset in subsets if len(subset) == 1)


def test_the_soup_is_chosen_on_dev_and_scored_on_the_reported_clips(split_workspace, monkeypatch):
    config = split_workspace(seeds=[0, 1])
    evaluations = [train_and_evaluate(config, seed) for seed in config.seeds]
    scored = []
    original = Soups.score
    monkeypatch.setattr(Soups, "score", lambda *a: (scored.append((tuple(a[1]), a[2].clips)), original(*a))[1])
    predictions, shares = score_soup(config, Accelerator(cpu=True))
    *tried, (chosen, reported) = scored
    dev = set(evaluations[0].dev.clip_ids)
    assert all({clip.clip_id for clip in clips} == dev for _, clips in tried)
    assert [clip.clip_id for clip in reported] == predictions.clip_ids == evaluations[0].predictions.clip_ids
    assert shares == [(seed in chosen) / len(chosen) for seed in (0, 1)]
    np.testing.assert_array_equal(predictions.scored, evaluations[0].predictions.scored)
    monkeypatch.setattr(Soups, "choose", lambda *_: [1])
    alone, shares = score_soup(config, Accelerator(cpu=True))
    assert shares == [0.0, 1.0]
    np.testing.assert_allclose(alone.probabilities, evaluations[1].predictions.probabilities, atol=1e-6)


def test_with_folds_each_has_a_soup_of_its_own_runs_that_is_chosen_on_its_own_dev(split_workspace, monkeypatch):
    config, asked = split_workspace(folds=3, seeds=[0, 1]), []

    class OneSoup:
        def __init__(self, config, accelerator, runs):
            self.runs = runs

        def choose(self, dev):
            asked.append((self.runs, dev.clips))
            return [[0], [0], [0, 1]][len(asked) - 1]

        def score(self, chosen, clips):
            return {clip.clip_id: np.eye(3)[len(asked) - 1] for clip in clips.located}

    monkeypatch.setattr(soup, "Soups", OneSoup)
    monkeypatch.setattr(soup, "open_matching_run", lambda config, run: run)
    predictions, shares = score_soup(config, Accelerator(cpu=True))
    folds = (1, 2, 3)
    dev = [clips_by_role(config, fold)[0]["dev"].clips for fold in folds]
    assert asked == [([RunId(0, fold), RunId(1, fold)], dev[fold - 1]) for fold in folds]
    assert sorted(predictions.clip_ids) == sorted(clip.clip_id for clip in read_manifest(config.manifests, "train"))
    assert [fold - 1 for fold in predictions.folds] == predictions.predicted.tolist()
    assert shares == pytest.approx([(1 + 1 + 1 / 2) / 3, (1 / 2) / 3]), "means over the folds"
