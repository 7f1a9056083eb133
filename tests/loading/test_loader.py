import dataclasses
import time

import numpy as np
import pytest
import torch
from helpers import clips_of, extraction_in_this_process, run_ffmpeg

from pipeline.common.errors import UserError
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.loading import loader
from pipeline.loading.loader import Loader, PlannedBatch, read_batch, read_sample
from pipeline.loading.memory import Memory
from pipeline.loading.plan import plan_epoch, shard_numbers, split_step
from pipeline.loading.selection import locate
from pipeline.models.model import GroupEmotionModel


@pytest.mark.parametrize("world", [1, 2, 3, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("threads", [1, 3])
def test_evaluation_scores_each_clip_exactly_once(refs, features, world, batch_size, threads):
    seen = [
        clip_id
        for rank in range(world)
        for batch in Loader(features, threads).eval_batches(refs, np.arange(2), batch_size, rank, world)
        for clip_id in batch.clip_ids
    ]
    assert sorted(seen) == sorted(ref.clip_id for ref in refs)


def batches_of(refs, features, rank, world, micro_batches=1, threads=2, start=0):
    plan = plan_epoch(shard_numbers(refs), 4, 2, 0, 0)[start:]
    frames = np.broadcast_to(np.arange(features.frames), (*plan.shape, features.frames))
    return Loader(features, threads).train_batches(refs, plan, frames, split_step(4, rank, world, micro_batches))


def test_processes_share_each_step_between_them(refs, features):
    alone = [batch.clip_ids for batch in batches_of(refs, features, 0, 1)]
    shares = [[batch.clip_ids for batch in batches_of(refs, features, rank, 2)] for rank in range(2)]
    halves = [batch.clip_ids for batch in batches_of(refs, features, 0, 1, micro_batches=2)]
    assert len(alone) == len(shares[0]) == len(shares[1]) == len(halves) / 2
    for step, whole in enumerate(alone):
        assert sorted(whole) == sorted(shares[0][step] + shares[1][step])
        assert sorted(whole) == sorted(halves[2 * step] + halves[2 * step + 1])


def test_the_log_mels_of_a_step_end_soon_after_its_longest_clip_in_every_process(refs, features):
    longer = features.model_copy(update={"max_duration_s": 60.0})
    durations_s = [ref.entry.duration_s + number for number, ref in enumerate(refs)]
    entries = [dataclasses.replace(ref.entry, duration_s=s) for ref, s in zip(refs, durations_s, strict=True)]
    refs = [dataclasses.replace(ref, entry=entry) for ref, entry in zip(refs, entries, strict=True)]
    plan = plan_epoch(shard_numbers(refs), 4, 2, 0, 0)
    frames = np.broadcast_to(np.arange(features.frames), (*plan.shape, features.frames))
    shares = [
        list(Loader(longer, 1, any_length=True).train_batches(refs, plan, frames, split_step(4, rank, 2, 1)))
        for rank in range(2)
    ]
    whole = list(Loader(longer, 1).train_batches(refs, plan, frames, split_step(4, 0, 2, 1)))
    for step, *batches in zip(plan, *shares, strict=True):
        longest_s = max(refs[position].entry.duration_s for position in step)
        hops = {batch.log_mel.shape[-1] for batch in batches}
        assert len(hops) == 1
        assert longest_s + 0.5 <= (hops.pop() - 1) * features.hop_length / features.sample_rate_hz < longest_s + 1
    for batch, full in zip(shares[0], whole, strict=True):
        assert full.log_mel.shape[-1] == longer.max_mel_frames
        assert torch.equal(batch.log_mel, full.log_mel[..., : batch.log_mel.shape[-1]])
        assert torch.equal(batch.mel_frames, full.mel_frames)


def test_no_log_mel_is_longer_than_that_of_the_longest_clip_allowed(refs, features):
    longest = dataclasses.replace(refs[0].entry, duration_s=features.max_duration_s)
    hops = Loader(features, 1, any_length=True).hops_of([dataclasses.replace(refs[0], entry=longest), refs[1]])
    assert hops == features.max_mel_frames


def test_the_number_of_threads_changes_nothing(refs, features):
    one, three = (list(batches_of(refs, features, 0, 1, threads=threads)) for threads in (1, 3))
    for first, second in zip(one, three, strict=True):
        assert first.clip_ids == second.clip_ids
        assert torch.equal(first.frames, second.frames)
        assert torch.equal(first.log_mel, second.log_mel)


def test_resuming_at_a_step_reads_none_of_the_skipped_clips(refs, features, monkeypatch):
    whole = [batch.clip_ids for batch in batches_of(refs, features, 0, 1)]
    read = []
    original = loader.read_sample
    monkeypatch.setattr(loader, "read_sample", lambda ref: (read.append(ref.clip_id), original(ref))[1])
    resumed = [batch.clip_ids for batch in batches_of(refs, features, 0, 1, start=1)]
    assert resumed == whole[1:]
    assert sorted(read) == sorted(clip_id for clip_ids in resumed for clip_id in clip_ids)


def test_all_threads_decode_at_the_same_time(refs, features, monkeypatch):
    working, most = [], []

    def read(*_):
        working.append(1)
        most.append(len(working))
        time.sleep(0.05)
        working.pop()

    monkeypatch.setattr(loader, "read_batch", read)
    list(Loader(features, 12).load([PlannedBatch([refs[0]], np.arange(6))] * 40))
    assert max(most) == 12


def test_a_file_with_sound_alone_is_extracted_loaded_and_accepted_by_the_model(drawn_root, config, tmp_path):
    config = config.model_copy(
        update={
            "recipe": config.recipe.model_copy(
                update={"features": config.recipe.features.model_copy(update={"require_video": False})}
            )
        }
    )
    features = config.recipe.features
    clips = clips_of(drawn_root, "train")
    source = next(clip for clip in clips if b"soun" in (drawn_root / clip.path).read_bytes())
    (tmp_path / "Train").mkdir()
    run_ffmpeg("-i", drawn_root / source.path, "-vn", "-c", "copy", tmp_path / source.path)
    settings = ClipSettings(features=features, limits=config.extract)
    with extraction_in_this_process():
        extraction = extract_splits({"train": [source]}, tmp_path, tmp_path / "shards", settings, 1)
    refs = locate(extraction.indexes["train"], [source], config.dataset.classes)
    batch = read_batch(PlannedBatch(refs, np.arange(features.frames)), features, Memory())
    assert batch.has_video.tolist() == [False]
    assert batch.mel_frames.item() > 0
    assert torch.isfinite(GroupEmotionModel(config.recipe.model, features, config.dataset.classes)(batch)).all()


def test_an_index_that_points_to_the_wrong_bytes_is_named(refs):
    ref = dataclasses.replace(refs[0], entry=dataclasses.replace(refs[0].entry, offset=refs[0].entry.offset + 512))
    with pytest.raises(UserError, match=rf"train-000000\.tar does not hold clip {ref.clip_id}"):
        read_sample(ref)
