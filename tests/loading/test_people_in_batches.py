"""The faces of a batch: those of the chosen frames, in their places, and changed as the frames are."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from augmented import OFF, PICTURES

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.loading.augmentation import augment
from pipeline.loading.batch import Batch, collate
from pipeline.loading.draws import Draws
from pipeline.loading.memory import Memory
from pipeline.loading.people import People
from pipeline.shards.format import Person, Sample

SIZE = 16


def crop(level):
    """The JPEG of a grey crop."""
    return cv2.imencode(".jpg", np.full((SIZE, SIZE, 3), level, np.uint8))[1].tobytes()


def person(frame, level):
    """A face whose box and crop both say `level`."""
    return Person(frame, (level / 255, 0.5, 0.1, 0.2), 0.9, crop(level))


@pytest.fixture
def with_people(features):
    """Features of four frames with up to two people each."""
    people = features.people.model_copy(update={"most": 2, "size_px": SIZE})
    return features.model_copy(update={"frames": 4, "people": people})


def collated(features, *people, chosen=(0, 1, 2, 3)):
    """A batch of clips with these people."""
    frame = cv2.imencode(".jpg", np.zeros((features.frame_size_px,) * 2 + (3,), np.uint8))[1].tobytes()
    samples = [
        Sample(f"1_{i}", 2.0, 25.0, [frame] * 4, [0.25, 0.75, 1.25, 1.75], None, people=each)
        for i, each in enumerate(people)
    ]
    return collate(samples, [0] * len(samples), np.array(chosen), features, Memory())


def levels(people):
    """The mean of each crop: (B, N, K)."""
    return people.crops.float().mean(dim=(3, 4, 5)).round().int().tolist()


def test_each_face_is_in_the_place_of_its_frame_and_rank(with_people):
    people = collated(with_people, (person(0, 100), person(0, 150), person(2, 200))).people
    assert people.present.tolist() == [[[True, True], [False, False], [True, False], [False, False]]]
    assert [row[0][rank] for row, rank in ((levels(people)[0][:1], 0), (levels(people)[0][:1], 1))] == [100, 150]
    assert levels(people)[0][2][0] == 200
    assert people.boxes[0, 2, 0].tolist() == pytest.approx([200 / 255, 0.5, 0.1, 0.2])


def test_only_faces_of_the_chosen_frames_are_in_the_batch(with_people):
    people = collated(with_people, (person(0, 100), person(2, 200)), chosen=(1, 2)).people
    assert people.present.tolist() == [[[False, False], [True, False]]]
    assert levels(people) == [[[200, 200], [200, 200]]]


def test_an_empty_place_repeats_a_face_of_the_clip_for_the_statistics_of_batch_norm(with_people):
    people = collated(with_people, (person(0, 100), person(2, 200)), ()).people
    assert levels(people)[0] == [[100, 100], [200, 100], [200, 200], [100, 200]]
    assert levels(people)[1] == [[0, 0]] * 4
    assert people.boxes[0, 1].tolist() == [[0.0] * 4] * 2


def test_a_clip_without_faces_lacks_people_and_nothing_else(with_people):
    available = collated(with_people, (person(1, 100),), ()).available
    assert {name: has_it.tolist() for name, has_it in available.items()} == {
        "frames": [True, True],
        "people": [True, False],
        "log_mel": [False, False],
    }


def test_the_memory_of_an_earlier_batch_leaves_no_faces(with_people):
    memory = Memory()
    for people, expected in (((person(0, 200),), True), ((), False)):
        frame = cv2.imencode(".jpg", np.zeros((with_people.frame_size_px,) * 2 + (3,), np.uint8))[1].tobytes()
        sample = Sample("1_1", 2.0, 25.0, [frame] * 4, [0.5] * 4, None, people=people)
        batch = collate([sample], [0], np.arange(4), with_people, memory)
        assert bool(batch.people.crops.any()) == expected
        del batch


def test_mirrored_people_are_on_the_other_side(with_people):
    batch = collated(with_people, (person(0, 51),))
    mirrored = batch.mirrored().people
    assert mirrored.boxes[0, 0, 0].tolist() == pytest.approx([0.8, 0.5, 0.1, 0.2])
    torch.testing.assert_close(mirrored.crops, batch.people.crops.flip(-1))


def changed(batch, features, seed=0, **settings):
    """The batch, augmented."""
    rows = np.arange(len(batch.clip_ids))
    draws = Draws(torch.Generator().manual_seed(seed), len(rows), rows, torch.device("cpu"))
    return augment(batch, AugmentationSettings(**(OFF | settings)), features, 3, draws)


@pytest.fixture
def squares(features):
    """A batch of clips with one bright square in the dark, which is the one face, upright and in the middle third."""
    count, side = 8, 64
    frames = torch.zeros(count, 1, 3, side, side, dtype=torch.uint8)
    boxes = torch.zeros(count, 1, 1, 4)
    for number in range(count):
        top, left = 20 + number, 30 - number
        frames[number, :, :, top : top + 12, left : left + 8] = 200
        boxes[number, 0, 0] = torch.tensor([left + 4, top + 6, 8, 12]) / side
    present = torch.ones(count, 1, 1, dtype=torch.bool)
    crops = torch.full((count, 1, 1, 3, SIZE, SIZE), 200, dtype=torch.uint8)
    crops[..., : SIZE // 2] = 0  # its left half is dark
    return Batch(
        clip_ids=["1_1"] * count,
        frames=frames,
        frame_times_s=torch.zeros(count, 1),
        has_video=torch.ones(count, dtype=torch.bool),
        log_mel=torch.zeros(count, features.mel_bins, 100),
        mel_frames=torch.full((count,), 100),
        labels=torch.tensor([0, 1] * (count // 2)),
        people=People(crops, boxes, present),
    )


@pytest.mark.parametrize(
    "settings",
    [{"flip": True}, {"min_crop": 0.8, "max_crop": 1.3}, {"translation": 0.1}, {"rotation_deg": 20.0}, PICTURES],
    ids=["flip", "crop", "translation", "rotation", "all"],
)
def test_a_box_stays_on_its_face_however_the_picture_is_changed(settings, squares, features):
    after = changed(squares, features, **{**settings, "erasing": 0.0, "color_jitter": 0.0})
    light = after.frames[:, 0, 0]
    position = (torch.arange(64) + 0.5) / 64
    total = light.sum(dim=(1, 2))
    centres = torch.stack([(light.sum(1) * position).sum(1) / total, (light.sum(2) * position).sum(1) / total], dim=1)
    torch.testing.assert_close(after.people.boxes[:, 0, 0, :2], centres, atol=0.004, rtol=0)
    area = after.people.boxes[:, 0, 0, 2:].prod(dim=1)
    torch.testing.assert_close(area, total / 200 / 64**2, atol=0.0, rtol=0.06)


def test_crops_are_mirrored_when_their_frames_are(squares, features):
    after = changed(squares, features, flip=True)
    was_mirrored = (after.people.boxes[:, 0, 0, 0] - squares.people.boxes[:, 0, 0, 0]).abs() > 0.01
    assert was_mirrored.any()
    assert not was_mirrored.all()
    dark_on_the_right = after.people.crops[:, 0, 0, 0, 8, -1] < after.people.crops[:, 0, 0, 0, 8, 0]
    assert dark_on_the_right.tolist() == was_mirrored.tolist()


def test_people_do_not_change_what_is_drawn_for_frames_and_sound(squares, features):
    settings = PICTURES | {"gain_db": 6.0, "mixup_alpha": 0.4}
    with_them, without = (
        changed(each, features, **settings) for each in (squares, dataclasses.replace(squares, people=None))
    )
    assert torch.equal(with_them.frames, without.frames)
    assert torch.equal(with_them.log_mel, without.log_mel)
    assert torch.equal(with_them.labels, without.labels)


def test_mixup_mixes_faces_that_are_in_the_same_place(squares, features):
    people = squares.people
    crops, present = people.crops.clone(), people.present.clone()
    crops[::2], present[4] = 100, False
    both = dataclasses.replace(squares, people=People(crops, people.boxes, torch.ones_like(present)))
    mixed = changed(both, features, mixup_alpha=0.4)
    assert not torch.equal(mixed.people.crops[:2], crops[:2].float())
    lacking = dataclasses.replace(squares, people=People(crops, people.boxes, present))
    unmixed = changed(lacking, features, mixup_alpha=0.4)
    assert torch.equal(unmixed.people.crops[4:6], crops[4:6].float()), "a pair is not mixed if one lacks the stream"
    assert torch.equal(unmixed.people.crops[:2], mixed.people.crops[:2])


def test_a_face_without_one_in_the_place_of_the_other_clip_is_not_mixed(with_people):
    batch = collated(with_people, (person(0, 100), person(0, 150)), (person(0, 250),))
    mixed = changed(batch, with_people, mixup_alpha=0.4)
    assert [levels(mixed.people)[clip][0][1] for clip in (0, 1)] == [150, 250]
    assert 100 < levels(mixed.people)[0][0][0] < 250
