"""Random changes to the frames of a training batch: where the pictures are seen from, colours, an erased rectangle."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.loading.draws import Draws, inside

ERASED_SIDE = (0.1, 0.4)  # the erased rectangle's sides, as shares of the picture's


def change_pictures(frames: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Frames (B, N, 3, H, W) in 0..255, float32, changed."""
    return _erase(_jitter_color(_move(frames, settings, draws), settings, draws), settings, draws)


def _move(frames: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Show each clip from another rectangle, which may be turned, mirrored or reach beyond the picture's edge.

    Crop, mirroring, rotation and translation are one resampling. Beyond its edge the picture is reflected.
    """
    affine = _views(settings, draws)
    is_moved = settings.flip or settings.rotation_deg or settings.translation
    if settings.min_crop == settings.max_crop == 1 and not is_moved:
        return frames
    # All frames of a clip move together, as channels of one picture.
    picture = frames.flatten(1, 2)
    grid = F.affine_grid(affine, list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False).reshape(frames.shape)


def _views(settings: AugmentationSettings, draws: Draws) -> Tensor:
    """The rectangle from which each clip is seen, as the affine map from the new picture to the old: (B, 2, 3).

    A picture's sides reach from -1 to 1.
    """
    scale = settings.min_crop + (settings.max_crop - settings.min_crop) * draws.uniform(2)
    shift = (1 - scale) * draws.around(1.0, 2) + draws.apart("translation").around(2 * settings.translation, 2)
    mirrored = (draws.uniform() < 0.5) & settings.flip
    angle = draws.apart("rotation").around(math.radians(settings.rotation_deg))
    width, height = (scale * torch.stack([torch.where(mirrored, -1.0, 1.0), torch.ones_like(angle)], dim=1)).unbind(1)
    columns = [width * angle.cos(), -height * angle.sin(), shift[:, 0]]
    columns += [width * angle.sin(), height * angle.cos(), shift[:, 1]]
    return torch.stack(columns, dim=1).view(-1, 2, 3)


def _jitter_color(frames: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Multiply brightness and contrast of each clip by a factor within 1 +- `color_jitter`."""
    brightness, contrast = (1 + draws.around(settings.color_jitter, 2, 1, 1, 1, 1)).unbind(dim=1)
    if not settings.color_jitter:
        return frames
    mean = frames.mean(dim=(1, 2, 3, 4), keepdim=True)
    return ((frames - mean) * contrast + mean * brightness).clamp(0, 255)


def _erase(frames: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """In some clips, replace one rectangle, the same in all frames, with the clip's mean colour."""
    if not settings.erasing:
        return frames
    draws = draws.apart("erasing")
    smallest, largest = ERASED_SIDE
    chosen = draws.uniform() < settings.erasing
    size = smallest + (largest - smallest) * draws.uniform(2)
    start = (1 - size) * draws.uniform(2)
    span = torch.stack([start, start + size], dim=2)
    height, width = frames.shape[-2:]
    rows, columns = inside(height, height * span[:, 0]), inside(width, width * span[:, 1])
    erased = chosen[:, None, None] & rows[:, :, None] & columns[:, None, :]
    mean = frames.mean(dim=(1, 3, 4), keepdim=True)
    return torch.where(erased[:, None, None], mean, frames)
