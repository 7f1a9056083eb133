import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import UserError
from pipeline.loading.plan import balanced_draw, plan_epoch, split_step


@given(
    clips_per_shard=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    share=st.integers(1, 6),
    world=st.integers(1, 8),
    micro_batches=st.integers(1, 3),
    shuffle_shards=st.integers(1, 5),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_an_epoch_visits_each_clip_at_most_once_in_equal_full_batches(
    clips_per_shard, share, world, micro_batches, shuffle_shards, seed, epoch
):
    """For any number of processes and of shards (also fewer than processes), and any batch size."""
    shards = np.repeat(np.arange(len(clips_per_shard)), clips_per_shard)
    batch_size = share * world * micro_batches
    if len(shards) < batch_size:
        with pytest.raises(UserError, match="lower it"):
            plan_epoch(shards, batch_size, shuffle_shards, seed, epoch)
        return
    plan = plan_epoch(shards, batch_size, shuffle_shards, seed, epoch)
    assert plan.shape == (len(shards) // batch_size, batch_size)
    parts = [split_step(batch_size, rank, world, micro_batches) for rank in range(world)]
    shares = [part for parts_of_rank in parts for part in parts_of_rank]
    assert {len(part) for part in shares} == {share}
    visited = [position for step in plan for part in shares for position in step[part]]
    assert len(visited) == len(set(visited)) == plan.size
    assert set(visited) <= set(range(len(shards)))


@given(shuffle_shards=st.integers(1, 6), epoch=st.integers(0, 5))
def test_shards_and_clips_are_shuffled_and_a_step_reads_from_few_shards(shuffle_shards, epoch):
    shards = np.repeat(np.arange(12), 10)
    order = shards[plan_epoch(shards, 10, shuffle_shards, 0, epoch)].ravel()
    windows = [order[start : start + 10 * shuffle_shards] for start in range(0, 120, 10 * shuffle_shards)]
    assert all(len(set(window)) <= shuffle_shards for window in windows)
    assert sorted(order) == sorted(shards)
    plans = [plan_epoch(shards, 10, shuffle_shards, 0, e).ravel() for e in (epoch, epoch + 1)]
    assert (plans[0] != plans[1]).any()
    assert plans[0].tolist() != sorted(plans[0])
    first_shards = {plan_epoch(shards, 10, shuffle_shards, 0, e)[0].min() // 10 for e in range(20)}
    assert len(first_shards) > 1, "the first shard is not always the same"
    if shuffle_shards == 1:
        assert (np.diff(plans[0][:10]) != 1).any(), "the clips of a shard are shuffled too"


def test_the_order_follows_from_seed_and_epoch():
    shards = np.repeat(np.arange(5), 20)
    same = [plan_epoch(shards, 10, 2, 1, 2) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert (plan_epoch(shards, 10, 2, 1, 3) != same[0]).any()
    assert (plan_epoch(shards, 10, 2, 2, 2) != same[0]).any()


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), epoch=st.integers(0, 5))
def test_a_balanced_draw_has_all_classes_and_their_clips_equally_often(counts, epoch):
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = balanced_draw(labels, 0, epoch)
    assert len(drawn) == len(labels)
    classes = np.bincount(labels[drawn], minlength=len(counts))
    assert np.ptp(classes) <= 1
    times = np.bincount(drawn, minlength=len(labels))
    assert all(np.ptp(times[labels == label]) <= 1 for label in range(len(counts)))


def test_a_balanced_draw_follows_from_seed_and_epoch():
    labels = np.repeat([0, 1], [40, 8])
    assert balanced_draw(labels, 1, 2).tolist() == balanced_draw(labels, 1, 2).tolist()
    assert balanced_draw(labels, 1, 2).tolist() != balanced_draw(labels, 1, 3).tolist()
    assert balanced_draw(labels, 1, 2).tolist() != balanced_draw(labels, 2, 2).tolist()


def test_groups_of_clips_stay_together_on_any_number_of_processes():
    for world, micro_batches in [(1, 1), (2, 1), (1, 2), (2, 2)]:
        parts = [part for rank in range(world) for part in split_step(16, rank, world, micro_batches, together=4)]
        groups = [group.tolist() for part in parts for group in part.reshape(-1, 4)]
        assert groups == np.arange(16).reshape(-1, 4).tolist()
    with pytest.raises(UserError, match=r"expected a multiple of 32: 2 processes .* times 8 clips that stay together"):
        split_step(16, 0, 2, 2, together=8)


def test_a_batch_that_processes_and_micro_batches_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size is 16, expected a multiple of 6: 3 processes times"):
        split_step(16, 0, 3, 2)


def test_refusals_name_settings_as_they_can_be_set():
    for refused in (lambda: split_step(16, 0, 3, 2), lambda: plan_epoch(np.zeros(4, np.int64), 16, 1, 0, 0)):
        with pytest.raises(UserError, match=r"^recipe\.training\.batch_size is 16") as error:
            refused()
        assert not re.search(r"(?<!recipe\.)\b(training|model)\.", str(error.value))
