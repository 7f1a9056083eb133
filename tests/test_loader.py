import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.extraction import extract_splits
from pipeline.features import LEVELS
from pipeline.labels import CLASSES
from pipeline.loader import (
    collate,
    eval_batches,
    hold_out_sources,
    locate,
    plan_epoch,
    read_batch,
    read_sample,
    train_batches,
)
from pipeline.manifest import index_split
from pipeline.model import GroupEmotionModel


@pytest.fixture(scope="session")
def extracted(drawn_root, tmp_path_factory):
    """The drawn set's train clips in shards of four."""
    import yaml
    from conftest import REPOSITORY

    from pipeline.config import parse_config

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
    clips=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
    world=st.integers(1, 8),
)
def test_an_epoch_visits_each_clip_at_most_once_in_equal_full_steps(clips, batch_size, seed, epoch, world):
    batch_size *= world
    if clips < batch_size:
        with pytest.raises(UserError, match="lower it"):
            plan_epoch(clips, batch_size, seed, epoch)
        return
    plan = plan_epoch(clips, batch_size, seed, epoch)
    assert plan.shape == (clips // batch_size, batch_size)
    assert len(set(plan.ravel())) == plan.size
    assert set(plan.ravel()) <= set(range(clips))
    shares = [plan[:, rank::world] for rank in range(world)]
    assert {share.shape for share in shares} == {(len(plan), batch_size // world)}


def test_the_order_follows_from_seed_and_epoch():
    same = [plan_epoch(100, 10, 1, 2) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert (plan_epoch(100, 10, 1, 3) != same[0]).any()
    assert (plan_epoch(100, 10, 2, 2) != same[0]).any()


@pytest.mark.parametrize("world", [1, 2, 3, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_evaluation_scores_each_clip_exactly_once(refs, features, world, batch_size):
    seen = [
        clip_id
        for rank in range(world)
        for batch in eval_batches(refs, batch_size, features, rank, world)
        for clip_id in batch.clip_ids
    ]
    assert sorted(seen) == sorted(ref.clip_id for ref in refs)


def test_processes_share_each_step_between_them(refs, features):
    plan = plan_epoch(len(refs), 4, 0, 0)
    alone = [batch.clip_ids for batch in train_batches(refs, plan, features, 0, 1)]
    shares = [[b.clip_ids for b in train_batches(refs, plan, features, r, 2)] for r in range(2)]
    for step, whole in enumerate(alone):
        assert sorted(whole) == sorted(shares[0][step] + shares[1][step])


def test_a_batch_holds_what_was_extracted(refs, features):
    batch = read_batch(refs, features)
    size = features.frame_size_px
    assert batch.frames.shape == (len(refs), features.frames, 3, size, size)
    assert batch.log_mel.shape == (len(refs), features.mel_bins, features.max_mel_frames)
    for row, ref in enumerate(refs):
        sample = read_sample(ref)
        hops = 0 if sample.log_mel is None else sample.log_mel.shape[1]
        assert batch.mel_frames[row] == hops
        assert (batch.log_mel[row, :, hops:] == LEVELS["librosa"].silence).all()
        if hops:
            np.testing.assert_array_equal(batch.log_mel[row, :, :hops], sample.log_mel.astype(np.float32))
    assert 0 in batch.mel_frames, "the drawn set has a clip without sound"


def test_a_batch_without_any_sound_goes_through_the_model(refs, config):
    silent = [ref for ref in refs if read_sample(ref).log_mel is None]
    batch = read_batch(silent, config.recipe.features)
    logits = GroupEmotionModel(config.recipe.model, config.recipe.features)(batch)
    assert torch.isfinite(logits).all()


def test_a_frame_that_is_no_jpeg_is_named(refs, features):
    sample = dataclasses.replace(read_sample(refs[0]), jpegs=[b"not a picture"] * features.frames)
    with pytest.raises(UserError, match=f"a frame of clip {refs[0].clip_id} is not a JPEG"):
        collate([sample], [0], features)


def test_labels_come_from_the_manifest(extracted):
    index, clips = extracted
    labels = {clip.clip_id: CLASSES.index(clip.label) for clip in clips}
    assert {ref.clip_id: ref.label for ref in locate(index, clips)} == labels


def test_a_clip_that_is_nowhere_is_an_error(extracted):
    index, clips = extracted
    stray = type(clips[0])(**{**vars(clips[0]), "clip_id": "99_1"})
    with pytest.raises(UserError, match="99_1 among them, are not in"):
        locate(index, [*clips, stray])


def test_a_damaged_shard_is_named(refs, tmp_path):
    content = bytearray(refs[0].shard.read_bytes())
    content[refs[0].entry.offset : refs[0].entry.offset + 512] = bytes(512)
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(content)
    ref = type(refs[0])(**{**vars(refs[0]), "shard": damaged})
    with pytest.raises(UserError, match=rf"damaged\.tar does not hold clip {ref.clip_id}"):
        read_sample(ref)


def test_whole_sources_are_held_out(refs):
    kept, held = hold_out_sources(refs, 0.3, 0)
    assert len(kept) + len(held) == len(refs)
    assert len({ref.source_id for ref in held}) == 1
    assert not {ref.source_id for ref in kept} & {ref.source_id for ref in held}


def test_a_single_source_cannot_be_held_out(refs):
    with pytest.raises(UserError, match="which has 1; expected two or more"):
        hold_out_sources([ref for ref in refs if ref.source_id == refs[0].source_id], 0.3, 0)
