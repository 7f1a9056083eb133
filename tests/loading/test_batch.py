import dataclasses
from collections import deque

import numpy as np
import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.loading.batch import collate
from pipeline.loading.loader import PlannedBatch, read_batch, read_sample
from pipeline.loading.memory import Memory
from pipeline.models.model import GroupEmotionModel
from pipeline.shards.log_mel_units import LEVELS


def test_memory_is_reused_only_when_no_tensor_lies_in_it():
    memory = Memory()
    first = memory.take((1000, 1000), np.uint8)
    first.zero_()
    kept = first[:10].view(-1)
    address = first.data_ptr()
    del first
    assert memory.take((1000, 1000), np.uint8).data_ptr() != address, "a view is still alive"
    del kept
    assert memory.take((1000, 1000), np.uint8).data_ptr() == address


def test_memory_serves_tensors_of_any_length():
    memory, lengths = Memory(), np.random.default_rng(0).integers(500, 6000, 1000)
    ahead, addresses = deque(maxlen=6), set()
    for length in lengths:
        ahead.append(memory.take((4, 80, int(length)), np.float16))
        assert (ahead[-1].shape, ahead[-1].dtype) == ((4, 80, length), torch.float16)
        addresses.add(ahead[-1].data_ptr())
    assert len(addresses) <= 4 * 7, "no more than are in use at once of each power of two"


def test_a_batch_holds_what_was_extracted(refs, features):
    batch = read_batch(PlannedBatch(refs, np.arange(features.frames)), features, Memory())
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


def test_the_model_accepts_a_batch_without_any_sound(refs, config):
    silent = [ref for ref in refs if not ref.entry.has_audio]
    batch = read_batch(PlannedBatch(silent, np.arange(config.recipe.model.frames)), config.recipe.features, Memory())
    assert not batch.mel_frames.any()
    logits = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)(batch)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("damage", "named"), [(lambda jpeg: b"no picture", "not a whole JPEG"), (lambda jpeg: jpeg[:-400], "not a whole")]
)
def test_a_frame_that_is_not_a_whole_jpeg_is_named(refs, features, damage, named):
    whole = read_sample(refs[0])
    sample = dataclasses.replace(whole, jpegs=[damage(jpeg) for jpeg in whole.jpegs])
    with pytest.raises(UserError, match=f"a picture of clip {refs[0].clip_id} is {named}"):
        collate([sample], [0], np.arange(features.frames), features, Memory())


def test_a_frame_of_another_size_is_named(refs, features):
    larger = features.model_copy(update={"frame_size_px": features.frame_size_px + 2})
    with pytest.raises(UserError, match=r"it has 64x64 pixels, expected 66x66"):
        collate([read_sample(refs[0])], [0], np.arange(larger.frames), larger, Memory())


def test_a_clip_without_video_is_masked(refs, features):
    sample = dataclasses.replace(read_sample(refs[0]), jpegs=[], frame_times_s=[])
    batch = collate([sample, read_sample(refs[1])], [0, 0], np.arange(features.frames), features, Memory())
    assert batch.has_video.tolist() == [False, True]
    assert not batch.frames[0].any()
