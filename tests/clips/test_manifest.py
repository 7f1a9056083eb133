"""The manifest: the table that the later stages read."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clips.manifest import Clip, read_manifest, read_summary, write_manifest
from pipeline.common.errors import UserError

# No lone carriage return: Python's csv writes it unquoted and reads it as the end of a line.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=30)
seconds = st.none() | st.floats(0, 1e6)


clips_of_any_kind = st.builds(Clip, names, names, names, names, st.integers(0, 10**12), names, seconds, seconds)


@given(st.lists(clips_of_any_kind, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_manifest_is_read_as_it_was_written(tmp_path, clips):
    write_manifest(clips, tmp_path / "train.csv")
    assert read_manifest(tmp_path, "train") == clips


@pytest.mark.parametrize("read", [lambda folder: read_manifest(folder, "train"), read_summary])
def test_a_manifest_that_is_not_there_names_the_stage_that_writes_it(read, tmp_path):
    with pytest.raises(UserError, match="is missing; run the index stage"):
        read(tmp_path)
