"""What the clips of a split are like."""

from pipeline.results.data_card import describe_clips
from pipeline.shards.format import Entry, Quarantined, Shard
from pipeline.shards.index import ShardIndex


def entry(clip_id, duration_s=5.0, frame_rate_hz=25.0, has_audio=True, suspect=()):
    return Entry(clip_id, 0, 1000, has_audio, duration_s, frame_rate_hz, list(suspect))


def card_of(features, folder, entries, quarantined=()):
    return describe_clips(ShardIndex(folder, features, [Shard("a.tar", "f", 1, "0", entries, list(quarantined))]))


def test_clips_are_counted_by_what_became_of_them(features, tmp_path):
    entries = [entry("1_1", 3.0), entry("1_2", 4.0, 29.97003), entry("1_3", 5.0, has_audio=False)]
    card = card_of(features, tmp_path, entries, [Quarantined("1_4", "timeout", ""), Quarantined("1_5", "timeout", "")])
    assert (card.extracted, card.without_sound, card.quarantined) == (3, 1, {"timeout": 2})
    assert (card.duration_s, card.frame_rates_hz) == ([3.0, 4.0, 5.0], [(25.0, 2), (30.0, 1)])


def test_suspect_clips_are_listed_by_kind(features, tmp_path):
    entries = [entry("1_1", suspect=["muted", "black"]), entry("1_2"), entry("1_3", suspect=["muted"])]
    assert card_of(features, tmp_path, entries).suspect == {"black": ["1_1"], "muted": ["1_1", "1_3"]}


def test_an_empty_split_has_a_card(features, tmp_path):
    card = card_of(features, tmp_path, [])
    assert (card.extracted, card.duration_s, card.suspect) == (0, [], {})
