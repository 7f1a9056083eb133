import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.loading.draws import Draws


def draws(seed=0, clips=8, rows=None):
    rows = np.arange(clips) if rows is None else np.array(rows)
    return Draws(torch.Generator().manual_seed(seed), clips, rows, torch.device("cpu"))


def test_numbers_apart_follow_from_the_seed_and_the_name_alone():
    one, other = draws(), draws()
    other.uniform(3)
    expected = one.apart("erasing").uniform()
    assert torch.equal(other.apart("erasing").uniform(), expected)
    assert torch.equal(one.uniform(), draws().uniform()), "what is drawn apart changes no other number"
    assert not torch.equal(one.apart("noise").uniform(), expected)
    assert not torch.equal(draws(seed=-1).apart("erasing").uniform(), expected)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_clip_gets_the_same_numbers_in_any_part_of_a_step(kind):
    whole = getattr(draws(), kind)(4, 5)
    assert torch.equal(getattr(draws(rows=[6, 1]), kind)(4, 5), whole[[6, 1]])
    assert len(whole.unique()) == whole.numel()


def test_normal_and_beta_numbers_have_their_distributions():
    normal = draws(clips=40).normal(50).flatten()
    assert stats.kstest(normal.numpy(), "norm").pvalue > 0.01
    for alpha in (0.4, 1.0, 5.0):
        beta = draws(clips=2000).beta(alpha)
        assert stats.kstest(beta.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
