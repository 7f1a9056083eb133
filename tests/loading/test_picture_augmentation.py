"""What happens to a picture: a spot of light is found again where a change of its view puts it."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from augmented import EVERYTHING

SEEDS = range(10)


def spots(batch, x, y, radius=0.08):
    """The batch with a bright spot at (x, y) of each frame, whose sides reach from -1 to 1."""
    side = torch.linspace(-1, 1, batch.frames.shape[-1])
    light = 200 * torch.exp(-((side - x) ** 2 + (side[:, None] - y) ** 2) / (2 * radius**2))
    return dataclasses.replace(batch, frames=light.expand_as(batch.frames))


def measured(frames):
    """Of the spot of each clip: x, y, and its area as a share of the picture's: (clips, 3)."""
    light = frames[:, 0, 0]
    side = torch.linspace(-1, 1, light.shape[-1])
    total = light.sum(dim=(1, 2))
    x, y = (light * side).sum(dim=(1, 2)) / total, (light * side[:, None]).sum(dim=(1, 2)) / total
    return torch.stack([x, y, total / 200 / light[0].numel()], dim=1)


def seen(changed, batch, x, y, **settings):
    """The spot at (x, y) before, and as it is seen with many seeds: (seeds * clips, 3)."""
    original = spots(batch, x, y)
    after = [measured(changed(seed, original=original, **settings).frames) for seed in SEEDS]
    return measured(original.frames)[0], torch.cat(after)


def test_a_rotation_turns_pictures_around_their_centre_by_up_to_its_angle(changed, batch):
    before, after = seen(changed, batch, 0.5, 0.0, rotation_deg=30.0)
    torch.testing.assert_close(after[:, :2].norm(dim=1), before[:2].norm().expand(len(after)), atol=0.01, rtol=0)
    torch.testing.assert_close(after[:, 2], before[2].expand(len(after)), atol=0, rtol=0.02)
    angles = torch.rad2deg(torch.atan2(after[:, 1], after[:, 0]))
    assert angles.abs().max() <= 30.5
    assert angles.min() < -15
    assert angles.max() > 15


def test_a_translation_shifts_pictures_by_up_to_its_share_of_the_side(changed, batch):
    before, after = seen(changed, batch, 0.1, -0.1, translation=0.2)
    moved = (after - before)[:, :2] / 2
    assert moved.abs().max() <= 0.205
    assert moved.abs().amax(dim=0).min() > 0.1
    torch.testing.assert_close(after[:, 2], before[2].expand(len(after)), atol=0, rtol=0.02)


@pytest.mark.parametrize(("crop", "smallest", "largest"), [("min_crop", 1.0, 1 / 0.8**2), ("max_crop", 1 / 1.5**2, 1)])
def test_a_crop_enlarges_pictures_and_one_beyond_the_edge_makes_them_smaller(changed, batch, crop, smallest, largest):
    before, after = seen(changed, batch, 0.0, 0.0, **{crop: 0.8 if crop == "min_crop" else 1.5})
    areas = after[:, 2] / before[2]
    assert areas.min() >= smallest - 0.03
    assert areas.max() <= largest + 0.03
    assert areas.max() - areas.min() > (largest - smallest) / 2
    assert after[:, :2].abs().max() > 0.05, "the crop is not always in the middle"


def test_half_of_the_clips_are_mirrored(changed, batch):
    before, after = seen(changed, batch, 0.5, 0.3, flip=True)
    mirrored = after[:, 0] < 0
    assert 0.2 < mirrored.float().mean() < 0.8
    torch.testing.assert_close(after[:, 0].abs(), before[0].expand(len(after)), atol=0.01, rtol=0)
    torch.testing.assert_close(after[:, 1], before[1].expand(len(after)), atol=0.01, rtol=0)


def test_beyond_its_edge_a_picture_is_reflected_and_never_black(changed, batch):
    white = dataclasses.replace(batch, frames=torch.full_like(batch.frames, 255))
    for seed in SEEDS:
        frames = changed(seed, original=white, max_crop=1.8, translation=0.4, rotation_deg=45.0).frames
        torch.testing.assert_close(frames, white.frames.float(), atol=0.01, rtol=0)


def test_all_changes_of_the_view_are_one_resampling(changed, monkeypatch):
    calls, sample = [], F.grid_sample
    monkeypatch.setattr(F, "grid_sample", lambda *a, **k: (calls.append(1), sample(*a, **k))[1])
    changed(**EVERYTHING)
    assert len(calls) == 1


def test_one_rectangle_of_a_tenth_to_four_tenths_of_each_side_gets_the_mean_colour(changed, batch):
    side = batch.frames.shape[-1]
    erased_clips, sides = 0, []
    for seed in SEEDS:
        frames = changed(seed, erasing=0.5).frames
        different = frames != batch.frames
        for clip, before, after in zip(different.any(dim=2), batch.frames.float(), frames, strict=True):
            place = clip.any(dim=0)
            if not place.any():
                continue
            erased_clips += 1
            rows, columns = place.any(dim=1), place.any(dim=0)
            assert place.sum() == rows.sum() * columns.sum(), "a whole rectangle, the same in all frames"
            sides += [int(rows.sum()), int(columns.sum())]
            mean = before.mean(dim=(0, 2, 3))[:, None].expand(-1, int(place.sum()))
            assert all(torch.allclose(frame[:, place], mean) for frame in after)
    assert 0.25 < erased_clips / (4 * len(SEEDS)) < 0.75
    assert min(sides) >= math.floor(0.1 * side)
    assert max(sides) <= math.ceil(0.4 * side)
    assert max(sides) - min(sides) > 0.2 * side
