"""Clips that are parts of a file: the same samples as of clips that were cut out beforehand."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import clips_of, dataset_at, extraction_in_this_process, run_ffmpeg
from numbered_clips import with_limits

from pipeline.clips.indexing import index_dataset
from pipeline.extraction.splits import extract_splits
from pipeline.extraction.tasks import shard_fingerprint
from pipeline.shards.format import Sample, read_members
from pipeline.shards.index import read_index


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten seconds of a moving picture with a sweep, and what lies from 2 to 5 s of it and from 6.48 to 8.48 s.

    All three are encoded without loss (x264's qp 0, PCM), so the cuts hold the very pictures and samples of the long
    file, whether they begin on one of its key frames (2 s) or between two (6.48 s). A lossy cut would not.
    """
    folder = tmp_path_factory.mktemp("parts")
    lossless = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", "-g", "25", "-c:a", "pcm_s16le")
    picture = ("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=10")
    sweep = ("-f", "lavfi", "-i", "aevalsrc=0.4*sin(300*t*t):s=44100:d=10")
    run_ffmpeg(*picture, *sweep, *lossless, folder / "long.mov")
    run_ffmpeg("-ss", "2", "-t", "3", "-i", folder / "long.mov", *lossless, folder / "cut_on_key.mov")
    run_ffmpeg("-ss", "6.48", "-t", "2", "-i", folder / "long.mov", *lossless, folder / "cut_between.mov")
    return folder


@pytest.fixture
def extract(folder, clip_settings, tmp_path):
    """Extracts the clips that the lines of a table list; returns the indexes of the splits."""

    def extract(*lines, settings=clip_settings):
        (folder / "clips.csv").write_text("\n".join(["path,label,source,start_s,end_s", *lines]))
        dataset = dataset_at(folder, table=str(folder / "clips.csv"))
        clips, _ = index_dataset(dataset)
        with extraction_in_this_process():
            return extract_splits(clips, dataset.clips_folder, tmp_path, settings, 1).indexes

    return extract


def samples(index):
    content = {shard.name: (index.folder / shard.name).read_bytes() for shard in index.shards}
    return {
        entry.clip_id: Sample.from_members(read_members(content[shard.name][entry.offset : entry.offset + entry.size]))
        for shard in index.shards
        for entry in shard.entries
    }


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_a_part_of_a_file_is_the_clip_that_was_cut_out_beforehand(decoder, extract, clip_settings):
    lines = ("long.mov,1,a,2,5", "cut_on_key.mov,1,a,,", "long.mov,1,a,6.48,8.48", "cut_between.mov,1,a,,")
    of = samples(extract(*lines, settings=with_limits(clip_settings, decoder=decoder))["train"])
    for part, cut in (("long-2000-5000", "cut_on_key"), ("long-6480-8480", "cut_between")):
        assert of[part].duration_s == of[cut].duration_s
        assert of[part].frame_times_s == of[cut].frame_times_s
        assert [bytes(jpeg) for jpeg in of[part].jpegs] == [bytes(jpeg) for jpeg in of[cut].jpegs]
        np.testing.assert_array_equal(of[part].log_mel, of[cut].log_mel)


def test_the_limit_of_the_duration_is_that_of_the_part_not_of_the_file(extract):
    index = extract("long.mov,1,a,0,5.5", "long.mov,1,a,2,9", "long.mov,1,a,,", "long.mov,1,a,11,12")["train"]
    assert list(samples(index)) == ["long-0-5500"]
    reasons = {clip.clip_id: clip.reason for clip in index.quarantined}
    assert reasons == {"long": "too_long", "long-2000-9000": "too_long", "long-11000-12000": "no_video"}


def test_another_part_of_the_same_file_changes_the_fingerprint(drawn_root, clip_settings):
    clips = clips_of(drawn_root, "train")[:1]
    part, longer = (replace(clips[0], start_s=0.0, end_s=end_s) for end_s in (1.0, 1.5))
    assert len({shard_fingerprint([clip], clip_settings) for clip in (clips[0], part, longer)}) == 3


def test_an_empty_split_has_a_valid_index_without_shards(extract, features):
    val = extract("cut_on_key.mov,1,a,,")["val"]
    assert read_index(val.folder, features) == val
    assert val.shards == []
