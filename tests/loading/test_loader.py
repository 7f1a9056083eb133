import dataclasses
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import run_ffmpeg
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import index_split
from pipeline.common.errors import UserError
from pipeline.extraction.log_mel import LEVELS
from pipeline.extraction.tasks import extract_splits
from pipeline.loading import loader
from pipeline.loading.loader import (
    Memory,
    collate,
    eval_batches,
    hold_out_sources,
    locate,
    plan_epoch,
    read_batch,
    read_sample,
    shard_numbers,
    split_step,
    train_batches,
)
from pipeline.models import scoring as inference
from pipeline.models.model import GroupEmotionModel
from pipeline.models.scoring import score_clips


@pytest.fixture(scope="session")
def extracted(drawn_root, tmp_path_factory):
    """The drawn set's train clips in shards of four."""
    import yaml
    from conftest import REPOSITORY

    from pipeline.common.config import parse_config

    config = parse_config(yaml.safe_load((REPOSITORY / "params.yaml").read_text()), "params.yaml")
    clips, _ = index_split(drawn_root, "train")
    limits = config.extract.model_copy(update={"clips_per_shard": 4})
    folder = tmp_path_factory.mktemp("shards")
    run = extract_splits({"train": clips}, drawn_root, folder, config.recipe.features, limits, 1)
    return run.indexes["train"], clips


@pytest.fixture
def refs(extracted):
    return locate(*extracted)


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
    """Whatever the processes, the shards (also fewer than processes) and the batch size."""
    shards = np.repeat(np.arange(len(clips_per_shard)), clips_per_shard)
    batch_size = share * world * micro_batches
    if len(shards) < batch_size:
        with pytest.raises(UserError, match="lower it"):
            plan_epoch(shards, batch_size, shuffle_shards, seed, epoch)
        return
    plan = plan_epoch(shards, batch_size, shuffle_shards, seed, epoch)
    assert plan.shape == (len(shards) // batch_size, batch_size)
    parts = [split_step(batch_size, rank, world, micro_batches) for rank in range(world)]
    assert {len(part) for parts_of_rank in parts for part in parts_of_rank} == {share}
    visited = [position for step in plan for own in parts for part in own for position in step[part]]
    assert len(visited) == len(set(visited)) == plan.size
    assert set(visited) <= set(range(len(shards)))


@given(shuffle_shards=st.integers(1, 6), epoch=st.integers(0, 5))
def test_shards_and_clips_are_both_shuffled_and_only_some_shards_are_open_at_a_time(shuffle_shards, epoch):
    shards = np.repeat(np.arange(12), 10)
    order = shards[plan_epoch(shards, 10, shuffle_shards, 0, epoch)].ravel()
    windows = [order[start : start + 10 * shuffle_shards] for start in range(0, 120, 10 * shuffle_shards)]
    assert all(len(set(window)) <= shuffle_shards for window in windows)
    assert sorted(order) == sorted(shards)
    plans = [plan_epoch(shards, 10, shuffle_shards, 0, e).ravel() for e in (epoch, epoch + 1)]
    assert (plans[0] != plans[1]).any()
    assert plans[0].tolist() != sorted(plans[0])
    first_shards = {plan_epoch(shards, 10, shuffle_shards, 0, e)[0].min() // 10 for e in range(20)}
    assert len(first_shards) > 1, "it is not always the same shard that comes first"
    if shuffle_shards == 1:
        assert (np.diff(plans[0][:10]) != 1).any(), "the clips of a shard are shuffled too"


def test_the_order_follows_from_seed_and_epoch():
    shards = np.repeat(np.arange(5), 20)
    same = [plan_epoch(shards, 10, 2, 1, 2) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert (plan_epoch(shards, 10, 2, 1, 3) != same[0]).any()
    assert (plan_epoch(shards, 10, 2, 2, 2) != same[0]).any()


def test_a_batch_that_processes_and_micro_batches_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size is 16, expected a multiple of 6: 3 processes times"):
        split_step(16, 0, 3, 2)


@pytest.mark.parametrize("world", [1, 2, 3, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("threads", [1, 3])
def test_evaluation_scores_each_clip_exactly_once(refs, features, world, batch_size, threads):
    seen = [
        clip_id
        for rank in range(world)
        for batch in eval_batches(refs, batch_size, features, rank, world, threads)
        for clip_id in batch.clip_ids
    ]
    assert sorted(seen) == sorted(ref.clip_id for ref in refs)


@pytest.mark.parametrize("change", [lambda refs: refs[1:], lambda refs: [*refs, refs[0]]], ids=["less", "more"])
def test_a_clip_that_is_not_scored_exactly_once_ends_the_scoring(refs, config, monkeypatch, change):
    monkeypatch.setattr(inference, "eval_batches", lambda clips, *settings: eval_batches(change(clips), *settings))
    model = GroupEmotionModel(config.recipe.model, config.recipe.features)
    with pytest.raises(AssertionError, match=f"expected {len(refs)}: this is a bug"):
        score_clips(model, refs, config, Accelerator(cpu=True))


def batches_of(refs, features, rank, world, micro_batches=1, threads=2, start=0):
    plan = plan_epoch(shard_numbers(refs), 4, 2, 0, 0)[start:]
    return train_batches(refs, plan, split_step(4, rank, world, micro_batches), features, threads)


def test_processes_share_each_step_between_them(refs, features):
    alone = [batch.clip_ids for batch in batches_of(refs, features, 0, 1)]
    shares = [[batch.clip_ids for batch in batches_of(refs, features, rank, 2)] for rank in range(2)]
    halves = [batch.clip_ids for batch in batches_of(refs, features, 0, 1, micro_batches=2)]
    assert len(alone) == len(shares[0]) == len(shares[1]) == len(halves) / 2
    for step, whole in enumerate(alone):
        assert sorted(whole) == sorted(shares[0][step] + shares[1][step])
        assert sorted(whole) == sorted(halves[2 * step] + halves[2 * step + 1])


def test_the_number_of_threads_changes_nothing(refs, features):
    one, three = (list(batches_of(refs, features, 0, 1, threads=threads)) for threads in (1, 3))
    for first, second in zip(one, three, strict=True):
        assert first.clip_ids == second.clip_ids
        assert torch.equal(first.frames, second.frames)
        assert torch.equal(first.log_mel, second.log_mel)


def test_resuming_at_a_batch_reads_nothing_of_what_is_skipped(refs, features, monkeypatch):
    whole = [batch.clip_ids for batch in batches_of(refs, features, 0, 1)]
    read = []
    original = loader.read_sample
    monkeypatch.setattr(loader, "read_sample", lambda ref: (read.append(ref.clip_id), original(ref))[1])
    resumed = [batch.clip_ids for batch in batches_of(refs, features, 0, 1, start=1)]
    assert resumed == whole[1:]
    assert sorted(read) == sorted(clip_id for clip_ids in resumed for clip_id in clip_ids)


def test_all_threads_decode(refs, features, monkeypatch):
    working, most = [], []

    def read(*_):
        working.append(1)
        most.append(len(working))
        time.sleep(0.05)
        working.pop()

    monkeypatch.setattr(loader, "read_batch", read)
    list(loader.load([[refs[0]]] * 40, features, 12))
    assert max(most) == 12


def test_memory_is_used_again_only_when_nobody_holds_it():
    memory = Memory()
    first = memory.take((1000, 1000), np.uint8)
    first.zero_()
    kept = first[:10].view(-1)
    address = first.data_ptr()
    del first
    assert memory.take((1000, 1000), np.uint8).data_ptr() != address, "a view is still alive"
    del kept
    assert memory.take((1000, 1000), np.uint8).data_ptr() == address


def test_a_batch_holds_what_was_extracted(refs, features):
    batch = read_batch(refs, features, Memory())
    size = features.frame_size_px
    assert batch.frames.shape == (len(refs), features.frames, 3, size, size)
    assert batch.log_mel.shape == (len(refs), features.mel_bins, features.max_mel_frames)
    for row, ref in enumerate(refs):
        sample = read_sample(ref)
        hops = 0 if sample.log_mel is None else sample.log_mel.shape[1]
        assert batch.mel_frames[row] == hops
        assert (batch.log_mel[row, :, hops:] == LEVELS["librosa"].silence).all()
        if hops:
            np.testing.assert_array_equal(batch.log_mel[row, :, :hops], sample.log_mel)
    assert 0 in batch.mel_frames, "the drawn set has a clip without sound"


def test_a_batch_without_any_sound_goes_through_the_model(refs, config):
    silent = [ref for ref in refs if not ref.entry.has_audio]
    batch = read_batch(silent, config.recipe.features, Memory())
    assert not batch.mel_frames.any()
    logits = GroupEmotionModel(config.recipe.model, config.recipe.features)(batch)
    assert torch.isfinite(logits).all()


def test_a_clip_that_is_sound_alone_goes_from_its_file_through_the_model(drawn_root, config, tmp_path):
    config = config.model_copy(
        update={
            "recipe": config.recipe.model_copy(
                update={"features": config.recipe.features.model_copy(update={"require_video": False})}
            )
        }
    )
    features = config.recipe.features
    clips, _ = index_split(drawn_root, "train")
    source = next(clip for clip in clips if b"soun" in (drawn_root / clip.path).read_bytes())
    (tmp_path / "Train").mkdir()
    run_ffmpeg("-i", drawn_root / source.path, "-vn", "-c", "copy", tmp_path / source.path)
    run = extract_splits({"train": [source]}, tmp_path, tmp_path / "shards", features, config.extract, 1)
    batch = read_batch(locate(run.indexes["train"], [source]), features, Memory())
    assert batch.has_video.tolist() == [False]
    assert batch.mel_frames.item() > 0
    assert torch.isfinite(GroupEmotionModel(config.recipe.model, features)(batch)).all()


@pytest.mark.parametrize(
    ("damage", "named"), [(lambda jpeg: b"no picture", "not a whole JPEG"), (lambda jpeg: jpeg[:-400], "not a whole")]
)
def test_a_frame_that_is_no_whole_jpeg_is_named(refs, features, damage, named):
    whole = read_sample(refs[0])
    sample = dataclasses.replace(whole, jpegs=[damage(jpeg) for jpeg in whole.jpegs])
    with pytest.raises(UserError, match=f"a frame of clip {refs[0].clip_id} is {named}"):
        collate([sample], [0], features, Memory())


def test_a_frame_of_another_size_is_named(refs, features):
    larger = features.model_copy(update={"frame_size_px": features.frame_size_px + 2})
    with pytest.raises(UserError, match=r"it has 64x64 pixels, expected 66x66"):
        collate([read_sample(refs[0])], [0], larger, Memory())


def test_a_clip_without_video_is_a_row_that_is_masked(refs, features):
    sample = dataclasses.replace(read_sample(refs[0]), jpegs=[], frame_times_s=[])
    batch = collate([sample, read_sample(refs[1])], [0, 0], features, Memory())
    assert batch.has_video.tolist() == [False, True]
    assert not batch.frames[0].any()


def test_labels_come_from_the_manifest(extracted):
    index, clips = extracted
    labels = {clip.clip_id: CLASSES.index(clip.label) for clip in clips}
    assert {ref.clip_id: ref.label for ref in locate(index, clips)} == labels


def test_a_clip_that_is_nowhere_is_an_error(extracted):
    index, clips = extracted
    stray = type(clips[0])(**{**vars(clips[0]), "clip_id": "99_1"})
    with pytest.raises(UserError, match="99_1 among them, are not in"):
        locate(index, [*clips, stray])


def test_an_index_that_points_elsewhere_is_named(refs):
    ref = dataclasses.replace(refs[0], entry=dataclasses.replace(refs[0].entry, offset=refs[0].entry.offset + 512))
    with pytest.raises(UserError, match=rf"train-000000\.tar does not hold clip {ref.clip_id}"):
        read_sample(ref)


def test_whole_sources_are_held_out(refs):
    kept, held = hold_out_sources(refs, 0.3, 0)
    assert len(kept) + len(held) == len(refs)
    assert len({ref.source_id for ref in held}) == 1
    assert not {ref.source_id for ref in kept} & {ref.source_id for ref in held}


def test_a_single_source_cannot_be_held_out(refs):
    with pytest.raises(UserError, match="which has 1; expected two or more"):
        hold_out_sources([ref for ref in refs if ref.source_id == refs[0].source_id], 0.3, 0)
