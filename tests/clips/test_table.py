"""A table of clips: what a line may say, which id it gets, and which line is refused."""

import csv

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clips.table import TABLE_CLIP_ID, list_table
from pipeline.common.errors import UserError

CLASSES = ["angry", "happy"]


@pytest.fixture
def folder(tmp_path):
    """A folder with two clips of the same name, and one beside it."""
    for name in ("set/a/clip.mp4", "set/b/clip.mp4", "set/long.mp4", "elsewhere.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "set"


@pytest.fixture
def listed(folder):
    """Gives the listings of a table with these lines; the first one is the header."""

    def listed(*lines, classes=CLASSES):
        (folder / "clips.csv").write_text("\n".join(lines))
        return list_table(folder / "clips.csv", classes)

    return listed


def ids(listings):
    return [clip.clip_id for clip in listings["train"].clips]


def test_a_table_says_where_each_clip_is_and_what_it_is(listed):
    listings = listed(
        "source,path,label,split,start_s,end_s,note",
        "anna,a/clip.mp4,happy,train,,,x",
        'anna,long.mp4,2,val,0.5,2.25,"two\nlines, quoted"',
        "ben,../elsewhere.mp4,ANGRY,Val,,,",
    )
    assert listings["train"].file.as_posix() == "clips.csv"
    (anna,) = listings["train"].clips
    assert (anna.clip_id, anna.source_id, anna.label, anna.path.as_posix()) == ("clip", "anna", "happy", "a/clip.mp4")
    assert (anna.start_s, anna.end_s) == (None, None)
    part, ben = listings["val"].clips
    assert (part.clip_id, part.label, part.start_s, part.end_s) == ("long-500-2250", "happy", 0.5, 2.25)
    assert (ben.path.as_posix(), ben.label) == ("../elsewhere.mp4", "angry")


def test_without_a_column_split_all_clips_are_in_train(listed):
    listings = listed("path,label,source", "a/clip.mp4,happy,anna", "long.mp4,angry,ben")
    assert (len(listings["train"].clips), listings["val"].clips) == (2, [])


def test_an_absolute_path_may_lie_anywhere(listed, folder):
    path = folder.parent / "elsewhere.mp4"
    (clip,) = listed("path,label,source", f"{path},happy,anna")["train"].clips
    assert clip.path == path


def test_what_spreadsheets_add_to_a_table_is_tolerated(folder):
    content = '\ufeffpath, label ,source\r\n"a/clip.mp4", happy ,"anna, the first"\r\n,,\r\n\r\n'
    (folder / "clips.csv").write_bytes(content.encode())
    (clip,) = list_table(folder / "clips.csv", CLASSES)["train"].clips
    assert (clip.source_id, clip.label) == ("anna, the first", "happy")


def test_equal_names_get_ids_from_their_paths_and_a_column_clip_id_overrules_names(listed, folder):
    assert ids(listed("path,label,source", "a/clip.mp4,1,x", "b/clip.mp4,1,x", "long.mp4,1,x")) == [
        "a-clip",
        "b-clip",
        "long",
    ]
    assert ids(listed("path,label,source,clip_id", "a/clip.mp4,1,x,first", "b/clip.mp4,1,x,2_2")) == ["first", "2_2"]
    long_name = folder / f"{'x' * 80}.v1.mp4"
    long_name.touch()
    assert ids(listed("path,label,source", f"{long_name.name},1,x")) == ["x" * 61 + "-v1"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["path,label,source", "a/clip.mp4,happy,x", "a/none.mp4,happy,x"], "line 3: file .*a/none.mp4 does not exist"),
        (["path,label,source", "a/clip.mp4,sad,x"], r"line 2: the label is 'sad', expected one of 1 \(angry\), 2"),
        (["path,label,source", "a/clip.mp4,0,x"], "line 2: the label is '0'"),
        (["path,label,source", "a/clip.mp4,3,x"], "line 2: the label is '3'"),
        (["path,label,source,n", 'long.mp4,1,x,"a\nb"', ",1,x,"], "line 4: the path is empty"),
        (["path,label,source", "a/clip.mp4,happy,"], "line 2: the source is empty"),
        (["path,label,source", "a/clip.mp4,happy,x,y"], "line 2: 4 cells, expected 3"),
        (["path,label,source", 'a/clip.mp4,"happy"y,x'], "line 2: .*save the table as CSV again"),
        (["path,label,source,split", "a/clip.mp4,1,x,test"], "line 2: the split is 'test', expected train or val"),
        (["path,label,source,start_s,end_s", "long.mp4,1,x,1,"], "line 2: start_s is '1' and end_s is ''"),
        (["path,label,source,start_s", "long.mp4,1,x,1"], "line 2: start_s is '1' and end_s is ''"),
        (["path,label,source,start_s,end_s", "long.mp4,1,x,2,2"], "expected two numbers of seconds"),
        (["path,label,source,start_s,end_s", "long.mp4,1,x,-1,2"], "expected two numbers of seconds"),
        (["path,label,source,start_s,end_s", "long.mp4,1,x,0,inf"], "expected two numbers of seconds"),
        (["path,label,source,start_s,end_s", "long.mp4,1,x,nan,2"], "expected two numbers of seconds"),
        (["path,label,source,clip_id", "long.mp4,1,x,a.b"], "line 2: the clip_id is 'a.b'"),
        (["path,label,source,clip_id", "long.mp4,1,x,"], "line 2: the clip_id is ''"),
        (["path,label,source,clip_id", "long.mp4,1,x,a", "a/clip.mp4,1,x,a"], "line 3: .* the id a, as that of line 2"),
        (["path,label,source", "long.mp4,1,x", "a/../long.mp4,2,y"], "line 3: .* the same file as line 2"),
        (
            ["path,label,source,start_s,end_s", "long.mp4,1,x,1,2", "long.mp4,1,x,1.0,2.0"],
            "line 3: .* the same file as line 2",
        ),
        (
            ["path,label,source,start_s,end_s", "long.mp4,1,x,1,2", "long.mp4,1,x,1.0001,2"],
            "line 3: .*the id long-1000-2000, as that of line 2; .* in a column clip_id",
        ),
        (["path;label;source", "a/clip.mp4;1;x"], "the first line is 'path;label;source', expected columns"),
        (["path,label,source,label", "a/clip.mp4,1,x,1"], "has several columns label"),
        (["path,label,source"], "lists no clip of train"),
        ([""], "the first line is ''"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(listed, lines, named):
    with pytest.raises(UserError, match=rf"table .*clips\.csv:? .*{named}"):
        listed(*lines)


def test_a_table_that_is_not_there_or_not_text_is_named(folder):
    with pytest.raises(UserError, match=r"table .*none\.csv does not exist; set dataset\.table"):
        list_table(folder / "none.csv", CLASSES)
    (folder / "clips.csv").write_bytes("path,label,source\né".encode("latin-1"))
    with pytest.raises(UserError, match=r"clips\.csv is not UTF-8 text"):
        list_table(folder / "clips.csv", CLASSES)


def test_without_classes_the_labels_are_listed_with_the_setting_to_add(listed):
    with pytest.raises(UserError, match=r"clips\.csv has the labels happy, sad; .* -S 'dataset\.classes="):
        listed("path,label,source", "a/clip.mp4,sad,x", "b/clip.mp4,happy,x", classes=[])


columns = {
    "path": st.sampled_from(["long.mp4", "a/clip.mp4", "b/clip.mp4", "../elsewhere.mp4"]),
    "label": st.sampled_from(["happy", "ANGRY", "1", "2"]),
    "source": st.text(min_size=1, max_size=5),
    "split": st.sampled_from(["train", "val"]),
    "start_s": st.sampled_from(["", "0", "0.5"]),
    "end_s": st.sampled_from(["", "1", "9e3"]),
}
lines = st.tuples(*columns.values()) | st.lists(st.text(max_size=5), max_size=7)


@given(st.lists(lines, min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_table_is_listed_or_refused_with_a_sentence(folder, lines):
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(columns), *lines])
    try:
        listings = list_table(folder / "clips.csv", CLASSES)
    except UserError:
        return
    for clip in [clip for listing in listings.values() for clip in listing.clips]:
        assert TABLE_CLIP_ID.fullmatch(clip.clip_id)
        assert clip.label in CLASSES
