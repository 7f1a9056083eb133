"""Which of the stored frames of a clip a model takes, in training and in evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loading import batch as batches
from pipeline.loading.batch import collate
from pipeline.loading.loader import Loader, PlannedBatch, read_batch, read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.plan import plan_epoch, shard_numbers, split_step
from pipeline.loading.sampling import FrameSampling

STORED_AND_USED = st.integers(1, 20).flatmap(lambda stored: st.tuples(st.just(stored), st.integers(1, stored)))


def part_of(frame, sampling):
    """The number of the part in which a frame lies, counted by hand."""
    borders = [number * sampling.stored // sampling.used for number in range(sampling.used)]
    return sum(frame >= border for border in borders) - 1


@given(STORED_AND_USED)
def test_parts_cover_the_stored_frames_and_differ_by_at_most_one(sizes):
    sampling = FrameSampling(*sizes, views=1)
    parts = [part_of(frame, sampling) for frame in range(sampling.stored)]
    assert parts == sorted(parts)
    assert sampling.lengths.tolist() == [parts.count(number) for number in range(sampling.used)]
    assert sampling.lengths.max() - sampling.lengths.min() <= 1


@given(STORED_AND_USED, st.integers(0, 9), st.integers(0, 9))
def test_a_training_step_takes_one_frame_of_each_part_in_their_order(sizes, seed, step):
    sampling = FrameSampling(*sizes, views=1)
    frames = sampling.draw(seed, step, 5)
    assert frames.shape == (5, sampling.used)
    for row in frames:
        assert [part_of(frame, sampling) for frame in row] == list(range(sampling.used))


def test_over_the_steps_every_stored_frame_is_taken_equally_often():
    sampling = FrameSampling(stored=10, used=4, views=1)  # parts of 2, 3, 2 and 3 frames
    counts = np.bincount(np.concatenate([sampling.draw(0, step, 8).ravel() for step in range(300)]), minlength=10)
    assert counts / 2400 == pytest.approx(np.repeat([1 / 2, 1 / 3, 1 / 2, 1 / 3], [2, 3, 2, 3]), abs=0.05)


def test_the_frames_follow_from_seed_and_step_and_differ_between_the_clips_of_a_step():
    sampling = FrameSampling(stored=32, used=8, views=1)
    frames = sampling.draw(1, 2, 4)
    np.testing.assert_array_equal(frames, sampling.draw(1, 2, 4))
    others = (sampling.draw(1, 3, 4), sampling.draw(2, 2, 4), np.roll(frames, 1, axis=0))
    assert all((frames != other).any() for other in others)
    assert (sampling.draw(1, 22, 4) != sampling.draw(12, 2, 4)).any()


@given(st.integers(1, 20), st.integers(1, 5))
def test_a_model_that_takes_all_stored_frames_takes_them_in_every_step_and_view(stored, views):
    sampling, everything = FrameSampling(stored, stored, views), list(range(stored))
    assert sampling.draw(0, 0, 2).tolist() == [everything, everything]
    assert [sampling.of_view(view).tolist() for view in range(views)] == [everything] * views
    assert sampling.evaluated.tolist() == everything


@pytest.mark.parametrize(("stored", "used", "views", "expected"), [
    (16, 8, 1, [[1, 3, 5, 7, 9, 11, 13, 15]]),
    (9, 3, 1, [[1, 4, 7]]),
    (7, 3, 1, [[1, 3, 5]]),  # parts of 2, 2 and 3 frames
    (9, 3, 2, [[1, 4, 7]] * 2),
    (8, 2, 4, [[2, 6], [2, 6], [0, 4], [0, 4]]),
    (6, 2, 5, [[1, 4], [1, 4], [2, 5], [2, 5], [0, 3]]),
])  # fmt: skip
def test_views_begin_in_the_middle_of_each_part_and_go_round_in_it_evenly(stored, used, views, expected):
    sampling = FrameSampling(stored, used, views)
    assert [sampling.of_view(view).tolist() for view in range(views)] == expected
    assert sampling.evaluated.tolist() == sorted({frame for frames in expected for frame in frames})


def test_a_view_has_its_own_frames_and_times_and_every_second_one_is_mirrored(refs, features):
    sampling, everything = FrameSampling(features.frames, 2, views=4), np.arange(features.frames)
    whole = read_batch(PlannedBatch(refs, everything), features, Memory())
    batch = read_batch(PlannedBatch(refs, sampling.evaluated), features, Memory())
    for number, view in enumerate(sampling.views_of(batch)):
        frames = sampling.of_view(number)
        expected = whole.frames[:, frames]
        assert torch.equal(view.frames, expected.flip(-1) if number in (1, 3) else expected)
        assert torch.equal(view.frame_times_s, whole.frame_times_s[:, frames])
        assert view.log_mel is batch.log_mel


def test_the_only_view_is_the_batch_itself(refs, features):
    for used in (2, features.frames):
        sampling = FrameSampling(features.frames, used, views=1)
        batch = read_batch(PlannedBatch(refs, sampling.evaluated), features, Memory())
        assert [view is batch for view in sampling.views_of(batch)] == [True]


def test_only_the_chosen_frames_are_decoded_each_into_its_place(refs, features, monkeypatch):
    sample, decode, decoded = read_sample(refs[0]), batches.decode_jpeg, []
    monkeypatch.setattr(batches, "decode_jpeg", lambda *given: (decoded.append(bytes(given[0])), decode(*given))[1])
    chosen = np.array([[4, 1], [0, 5]])
    batch = collate([sample, sample], [0, 0], chosen, features, Memory())
    assert decoded == [bytes(sample.jpegs[number]) for number in (4, 1, 0, 5)]
    pictures = np.stack([decode(jpeg, sample.clip_id) for jpeg in sample.jpegs])
    np.testing.assert_array_equal(batch.frames.permute(0, 1, 3, 4, 2), pictures[chosen])
    np.testing.assert_array_equal(batch.frame_times_s, np.float32(sample.frame_times_s)[chosen])


@pytest.mark.parametrize(("world", "micro_batches", "start"), [(1, 1, 0), (2, 1, 0), (2, 2, 0), (1, 1, 1)])
def test_a_clip_has_the_same_frames_on_any_number_of_processes_and_after_a_resume(
    refs, features, world, micro_batches, start
):
    sampling = FrameSampling(features.frames, 2, views=1)
    plan = plan_epoch(shard_numbers(refs), 4, 2, 0, 0)
    frames = np.stack([sampling.draw(0, step, 4) for step in range(len(plan))])
    expected = {}
    for step, chosen in zip(plan[start:], frames[start:], strict=True):
        for position, numbers in zip(step, chosen, strict=True):
            expected[refs[position].clip_id] = torch.tensor(read_sample(refs[position]).frame_times_s)[numbers]
    seen = {}
    for rank in range(world):
        parts = split_step(4, rank, world, micro_batches)
        for batch in Loader(features, 2).train_batches(refs, plan[start:], frames[start:], parts):
            seen |= dict(zip(batch.clip_ids, batch.frame_times_s, strict=True))
    assert seen.keys() == expected.keys()
    for clip_id, times_s in seen.items():
        torch.testing.assert_close(times_s, expected[clip_id])
