"""Samples that the tests make: a small one, and random ones from hypothesis."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline.shards.format import Person, Quarantined, Sample


def made_sample(clip_id, has_audio=True):
    log_mel = np.full((4, 10), -20.0, np.float16) if has_audio else None
    return Sample(clip_id, 1.0, 25.0, [b"jpeg-a", b"jpeg-bc"], [0.25, 0.75], log_mel)


boxes = st.tuples(*[st.integers(-20_000, 20_000).map(lambda side: side / 10_000)] * 4)
people = st.builds(
    Person, st.integers(0, 7), boxes, st.integers(0, 1000).map(lambda score: score / 1000), st.binary(max_size=500)
)
clip_ids = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
log_mels = st.none() | st.integers(0, 30).map(lambda hops: np.full((4, hops), -20, np.float16))
samples = st.builds(
    lambda clip_id, duration_s, jpegs, *rest: Sample(clip_id, duration_s, 25.0, jpegs, [0.5] * len(jpegs), *rest),
    clip_ids,
    st.floats(0.1, 10),
    st.lists(st.binary(max_size=2000), min_size=1, max_size=8),
    log_mels,
    st.lists(st.sampled_from(["muted", "black", "still"]), unique=True),
    st.lists(people, max_size=4).map(tuple),
)
quarantined = st.builds(Quarantined, clip_ids, st.sampled_from(["unreadable", "timeout"]), st.text(max_size=50))
any_outcomes = st.lists(samples | quarantined, max_size=6, unique_by=lambda outcome: outcome.clip_id)
in_one_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
