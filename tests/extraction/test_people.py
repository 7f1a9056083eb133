"""Faces are found where they are, at the size of the decoded picture, and cut out."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import extraction_in_this_process, run_ffmpeg
from stand_in_detector import write_stand_in

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.extraction import face_detector, people
from pipeline.extraction.clip_reader import read_clip
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import DETECTOR_SHA256, check_detector
from pipeline.extraction.sandbox import Sandbox
from pipeline.extraction.splits import extract_splits
from pipeline.extraction.tasks import extract_shard, plan_tasks
from pipeline.shards.format import Sample, read_members

SETTINGS = {"most": 3, "size_px": 32, "margin": 0, "smallest_px": 16, "confidence": 0.7, "longest_side_px": 320}
SQUARES = [(64, 32), (256, 96)]  # left and top of each red square of 32 px
SIZE = (320, 192)


def red_squares(path, squares=SQUARES, size=SIZE, side=32, pixels="yuv444p"):
    """A clip of one second with red squares on grey, and a tone."""
    boxes = "".join(f",drawbox=x={x}:y={y}:w={side}:h={side}:color=red:t=fill" for x, y in squares)
    video = f"color=c=gray:s={size[0]}x{size[1]}:r=10:d=1{boxes}"
    codecs = ("-c:v", "libx264", "-qp", "10", "-pix_fmt", pixels, "-c:a", "aac")
    run_ffmpeg("-f", "lavfi", "-i", video, "-f", "lavfi", "-i", "sine=d=1", *codecs, path)
    return path


@pytest.fixture
def with_people(clip_settings, tmp_path):
    """Settings that look for people with the stand-in, with some of them changed."""
    detector = write_stand_in(tmp_path / "detector.onnx")

    def build(decoder="in_process", framing="full_frame", detector=detector, **changes):
        people_settings = clip_settings.features.people.model_copy(update=SETTINGS | changes)
        features = clip_settings.features.model_copy(
            update={"people": people_settings, "framing": framing, "frames": 2}
        )
        limits = clip_settings.limits.model_copy(update={"face_detector": str(detector), "decoder": decoder})
        return ClipSettings(features=features, limits=limits)

    return build


def decoded(person):
    return cv2.imdecode(np.frombuffer(person.jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_each_face_of_each_frame_is_found_where_it_is(with_people, tmp_path):
    clip = read_clip(red_squares(tmp_path / "clip.mp4"), with_people())
    assert [person.frame for person in clip.people] == [0, 0, 1, 1]
    boxes = {person.box for person in clip.people}
    assert boxes == {((x + 16) / 320, (y + 16) / 192, 32 / 320, 32 / 192) for x, y in SQUARES}
    for person in clip.people:
        crop = decoded(person)
        assert crop.shape == (32, 32, 3)
        assert crop[..., 2].mean() > 230, "the whole crop is the red square"
        assert crop[..., :2].mean() < 30
        assert person.score > 0.9


@pytest.mark.parametrize("framing", ["full_frame", "center_crop"])
def test_both_decoders_find_the_same(framing, with_people, tmp_path):
    path = red_squares(tmp_path / "clip.mp4", [(96, 32), (192, 96)])
    first, second = (read_clip(path, with_people(decoder, framing)) for decoder in ("in_process", "ffmpeg"))
    assert first.people
    assert first.people == second.people


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_faces_are_found_in_pictures_of_more_than_8_bits(decoder, with_people, tmp_path):
    path = red_squares(tmp_path / "clip.mp4", pixels="yuv444p10le")
    assert len(read_clip(path, with_people(decoder)).people) == 4


def test_a_box_is_a_share_of_what_the_frame_shows(with_people, tmp_path):
    """The central square begins at column 64, so the square at column 128 is 64 px from its edge."""
    path = red_squares(tmp_path / "clip.mp4", [(0, 0), (128, 64)])
    people = read_clip(path, with_people(framing="center_crop")).people
    assert {person.box for person in people} == {((64 + 16) / 192, (64 + 16) / 192, 32 / 192, 32 / 192)}


def test_larger_pictures_are_scaled_down_before_they_are_searched(with_people, tmp_path):
    path = red_squares(tmp_path / "clip.mp4", [(128, 64)], size=(640, 384), side=64)
    for decoder in ("in_process", "ffmpeg"):
        people = read_clip(path, with_people(decoder)).people
        assert {person.box for person in people} == {((64 + 16) / 320, (32 + 16) / 192, 32 / 320, 32 / 192)}


def test_pixels_that_are_not_square_make_no_narrow_faces(with_people, tmp_path):
    square, stretched = red_squares(tmp_path / "square.mp4"), tmp_path / "stretched.mp4"
    run_ffmpeg("-i", square, "-vf", "scale=160:192,setsar=2", "-c:v", "libx264", "-qp", "1", "-c:a", "copy", stretched)
    first, second = (read_clip(path, with_people()).people for path in (square, stretched))
    assert [person.box for person in first] == [person.box for person in second]


@pytest.mark.parametrize(("changes", "count"), [({"smallest_px": 33}, 0), ({"most": 1}, 2), ({"most": 0}, 0), ({}, 4)])
def test_the_settings_say_which_faces_are_kept(changes, count, with_people, tmp_path):
    assert len(read_clip(red_squares(tmp_path / "clip.mp4"), with_people(**changes)).people) == count


def test_a_clip_without_faces_is_a_clip(with_people, tmp_path):
    clip = read_clip(red_squares(tmp_path / "clip.mp4", []), with_people())
    assert (len(clip.jpegs), clip.people) == (2, [])


class Rows:
    """A detector that always gives these rows."""

    def __init__(self, rows):
        self.rows = np.array(rows, np.float32)

    def setInputSize(self, size):  # noqa: N802 - OpenCV's name
        self.size = size

    def detect(self, picture):
        return 1, self.rows


def row(left, top, width, height, score=0.9, tilt=0.0):
    """A row of the detector; the line through the eyes falls by `tilt` of its length."""
    eyes = [left + 0.3 * width, top + 0.4 * height, left + 0.7 * width, top + 0.4 * height + tilt * 0.4 * width]
    return [left, top, width, height, *eyes, *[0] * 6, score]


def cut(picture, face, settings, **changes):
    changed = settings.features.people.model_copy(update=changes)
    return people.cut_out(picture, np.array(face, np.float32), changed)


@pytest.fixture
def found(with_people, monkeypatch):
    """Finds people in a picture of 100 x 100 px in which the detector gives some rows."""

    def found(*rows, **changes):
        monkeypatch.setattr(people, "_load", lambda *_: Rows(rows))
        settings = with_people(**changes).features.people
        return people.find_people([np.zeros((100, 100, 3), np.uint8)], "", settings, 90)

    return found


def test_the_largest_faces_are_kept_the_largest_first(found):
    kept = found(row(0, 0, 20, 20), row(50, 0, 40, 40), row(0, 50, 30, 30), most=2)
    assert [person.box[2] for person in kept] == pytest.approx([0.4, 0.3])


def test_a_face_is_left_out_if_the_shorter_side_of_its_box_is_too_short(found):
    kept = found(row(0, 0, 40, 15), row(50, 0, 15, 40), row(0, 50, 16, 40), smallest_px=16)
    assert [person.box[2:] for person in kept] == [pytest.approx((0.16, 0.4))]


def test_a_face_has_the_score_that_the_detector_gives_it(found):
    kept = found(row(0, 0, 40, 40, score=0.75), row(50, 50, 30, 30, score=0.875))
    assert [person.score for person in kept] == [0.75, 0.875]


def test_a_crop_is_the_square_around_the_box_with_its_margin(with_people):
    """A picture whose red says the column and whose green says the row."""
    rows, columns = np.mgrid[:100, :100]
    picture = np.stack([np.zeros_like(rows), rows, columns], axis=-1).astype(np.uint8)
    crop = cut(picture, row(30, 40, 20, 32), with_people(), margin=0, size_px=32)
    np.testing.assert_array_equal(crop[0, 0], [0, 40, 24])
    np.testing.assert_array_equal(crop[-1, -1], [0, 71, 55])
    wider = cut(picture, row(30, 40, 20, 32), with_people(), margin=0.25, size_px=48)
    np.testing.assert_array_equal(wider[0, 0], [0, 32, 16])


def test_beyond_the_pictures_edge_the_edge_is_repeated(with_people):
    picture = np.full((100, 100, 3), 7, np.uint8)
    picture[:, 0] = 200
    crop = cut(picture, row(-16, 10, 32, 32), with_people(), margin=0, size_px=32)
    assert (crop[:, :17] == 200).all()
    assert (crop[:, 17:] == 7).all()


def test_an_aligned_crop_has_level_eyes(with_people):
    """The picture has a line through the eyes, which falls by 30 degrees."""
    picture = np.zeros((200, 200, 3), np.uint8)
    slope = np.tan(np.radians(30))
    face = row(60, 60, 80, 80, tilt=slope)
    right, left = ((round(float(x)), round(float(y))) for x, y in (face[4:6], face[6:8]))
    cv2.line(picture, right, left, (255, 255, 255), 3)
    rows, columns = np.nonzero(cut(picture, face, with_people(), aligned=True, size_px=80)[..., 0] > 128)
    level = np.polyfit(columns, rows, 1)[0]
    rows, columns = np.nonzero(cut(picture, face, with_people(), aligned=False, size_px=80)[..., 0] > 128)
    assert abs(level) < 0.03
    assert np.polyfit(columns, rows, 1)[0] == pytest.approx(slope, abs=0.03)


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_the_sandbox_gives_what_this_process_gives(decoder, with_people, tmp_path):
    """Its limits leave room for pictures that are much larger than the frames."""
    path = red_squares(tmp_path / "clip.mp4", size=(1280, 768))
    settings = with_people(decoder, longest_side_px=1280)
    expected, sandbox = read_clip(path, settings), Sandbox()
    try:
        media = sandbox.read_clip(path, settings)
    finally:
        sandbox.close()
    assert len(expected.people) == 4
    assert [person.facts() for person in media.people] == [person.facts() for person in expected.people]
    assert [bytes(person.jpeg) for person in media.people] == [person.jpeg for person in expected.people]
    np.testing.assert_array_equal(media.waveform, expected.waveform)


def manifest(paths, root):
    return [
        Clip(path.stem, "1", "Positive", str(path.relative_to(root)), path.stat().st_size, sha256_of(path))
        for path in paths
    ]


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


def test_a_shard_holds_the_faces_and_the_index_counts_them(with_people, tmp_path, monkeypatch):
    settings = with_people()
    monkeypatch.setattr(face_detector, "DETECTOR_SHA256", sha256_of(Path(settings.limits.face_detector)))
    paths = [red_squares(tmp_path / "1_1.mp4"), red_squares(tmp_path / "1_2.mp4", [])]
    with extraction_in_this_process():
        made = extract_splits({"train": manifest(paths, tmp_path)}, tmp_path, tmp_path / "shards", settings, 1)
    index = made.indexes["train"]
    entries = index.shards[0].entries
    assert [entry.people for entry in entries] == [4, 0]
    content = (index.folder / index.shards[0].name).read_bytes()
    members = [read_members(content[entry.offset : entry.offset + entry.size]) for entry in entries]
    assert ["people.mjpeg" in names for names in members] == [True, False]
    samples = [Sample.from_members(each) for each in members]
    expected = read_clip(paths[0], settings).people
    assert [bytes(person.jpeg) for person in samples[0].people] == [person.jpeg for person in expected]
    assert samples[1].people == ()


def test_a_missing_detector_is_one_sentence(with_people, tmp_path):
    settings = with_people(detector=tmp_path / "absent.onnx")
    with pytest.raises(UserError, match=r"absent\.onnx is missing, and recipe\.features\..*fetch_weights"):
        check_detector(settings)
    check_detector(with_people(detector=tmp_path / "absent.onnx", most=0))


def test_a_worker_without_the_detector_stops_instead_of_quarantining_all_clips(with_people, tmp_path):
    settings = with_people(detector=tmp_path / "absent.onnx")
    clips = manifest([red_squares(tmp_path / "1_1.mp4")], tmp_path)
    (task,) = plan_tasks("train", clips, tmp_path, tmp_path / "shards", settings)
    with pytest.raises(UserError, match=r"absent\.onnx is missing"):
        extract_shard(task)


def test_another_file_is_not_taken_for_the_detector(with_people):
    with pytest.raises(UserError, match=f"YuNet's is {DETECTOR_SHA256}"):
        check_detector(with_people())


@pytest.mark.slow
def test_shards_with_people_have_the_same_bytes_with_any_number_of_workers(with_people, limits, tmp_path):
    """The workers are processes of their own, so they run the real detector, which finds no face in these clips."""
    detector = Path(limits.face_detector).expanduser()
    if not detector.is_file():
        pytest.skip(f"{detector} is not there; python -m stages.fetch_weights fetches it")
    settings = with_people(detector=detector, confidence=0.05, smallest_px=1)
    settings = settings.model_copy(update={"limits": settings.limits.model_copy(update={"clips_per_shard": 1})})
    paths = [red_squares(tmp_path / f"1_{number}.mp4", [(32 * number, 32)]) for number in range(4)]
    clips = manifest(paths, tmp_path)
    for workers in (1, 2):
        made = extract_splits({"train": clips}, tmp_path, tmp_path / str(workers), settings, workers)
        assert not made.indexes["train"].quarantined
    assert shard_bytes(tmp_path / "1") == shard_bytes(tmp_path / "2")
