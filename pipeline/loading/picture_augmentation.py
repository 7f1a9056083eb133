"""Random changes to the frames of a training batch: where the pictures are seen from, colours, an erased rectangle."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.loading.draws import Draws, inside

ERASED_SIDE = (0.1, 0.4)  # the erased rectangle's sides, as shares of the picture's


@dataclass(frozen=True)
class PictureChanges:
    """What is drawn for the pictures of each of B clips.

    view (B, 2, 3): the rectangle from which a clip is seen, as the affine map from the new picture to the old, whose
    sides reach from -1 to 1; None: all of the picture. color: the factors of brightness and contrast, each (B,), or
    None. erased (B, 2, 2): start and end of the erased rows and of the erased columns, as shares, which are equal in
    clips where nothing is erased; or None.
    """

    view: Tensor | None
    color: tuple[Tensor, Tensor] | None
    erased: Tensor | None


def draw_changes(settings: AugmentationSettings, draws: Draws) -> PictureChanges:
    """Draw what is changed in the pictures of the clips of a batch."""
    view = _draw_views(settings, draws)
    is_moved = settings.flip or settings.rotation_deg or settings.translation
    brightness, contrast = (1 + draws.around(settings.color_jitter, 2)).unbind(dim=1)
    return PictureChanges(
        view=view if is_moved or settings.min_crop < 1 or settings.max_crop > 1 else None,
        color=(brightness, contrast) if settings.color_jitter else None,
        erased=_draw_erased(settings, draws) if settings.erasing else None,
    )


def change_pictures(frames: Tensor, changes: PictureChanges) -> Tensor:
    """Change pictures of clips (B, N, 3, H, W), float32 in 0..255, which are frames or the crops of people."""
    return _erase(_jitter_color(_move(frames, changes.view), changes.color), changes.erased)


def change_boxes(boxes: Tensor, changes: PictureChanges) -> Tensor:
    """Boxes (B, ..., 4) as they are in the changed frames: (centre x, centre y, width, height) as shares.

    A turned box keeps its sides, in the new scale.
    """
    if changes.view is None:
        return boxes
    flat, turned = boxes.flatten(1, -2), changes.view[:, :, :2]
    scale = turned.norm(dim=1, keepdim=True)
    # The columns of the map are orthogonal, so this is the inverse. linalg.inv would wait for the GPU.
    centres = (2 * flat[..., :2] - 1 - changes.view[:, None, :, 2]) @ (turned / scale**2)
    return torch.cat([(centres + 1) / 2, flat[..., 2:] / scale], dim=-1).view(boxes.shape)


def _move(frames: Tensor, affine: Tensor | None) -> Tensor:
    """Show each clip from another rectangle, which may be turned, mirrored or reach beyond the picture's edge.

    Crop, mirroring, rotation and translation are one resampling. Beyond its edge the picture is reflected.
    """
    if affine is None:
        return frames
    # All frames of a clip move together, as channels of one picture.
    picture = frames.flatten(1, 2)
    grid = F.affine_grid(affine, list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False).reshape(frames.shape)


def _draw_views(settings: AugmentationSettings, draws: Draws) -> Tensor:
    """The rectangle from which each clip is seen (`PictureChanges`): (B, 2, 3)."""
    scale = settings.min_crop + (settings.max_crop - settings.min_crop) * draws.uniform(2)
    shift = (1 - scale) * draws.around(1.0, 2) + draws.apart("translation").around(2 * settings.translation, 2)
    mirrored = (draws.uniform() < 0.5) & settings.flip
    angle = draws.apart("rotation").around(math.radians(settings.rotation_deg))
    width, height = (scale * torch.stack([torch.where(mirrored, -1.0, 1.0), torch.ones_like(angle)], dim=1)).unbind(1)
    columns = [width * angle.cos(), -height * angle.sin(), shift[:, 0]]
    columns += [width * angle.sin(), height * angle.cos(), shift[:, 1]]
    return torch.stack(columns, dim=1).view(-1, 2, 3)


def _jitter_color(frames: Tensor, color: tuple[Tensor, Tensor] | None) -> Tensor:
    """Multiply brightness and contrast of each clip by its factors."""
    if color is None:
        return frames
    brightness, contrast = (factor.view(-1, 1, 1, 1, 1) for factor in color)
    mean = frames.mean(dim=(1, 2, 3, 4), keepdim=True)
    return ((frames - mean) * contrast + mean * brightness).clamp(0, 255)


def _draw_erased(settings: AugmentationSettings, draws: Draws) -> Tensor:
    """The rectangle that is erased in each clip (`PictureChanges`): (B, 2, 2)."""
    draws = draws.apart("erasing")
    smallest, largest = ERASED_SIDE
    chosen = draws.uniform() < settings.erasing
    size = smallest + (largest - smallest) * draws.uniform(2)
    start = (1 - size) * draws.uniform(2)
    return torch.stack([start, start + torch.where(chosen[:, None], size, 0.0)], dim=2)


def _erase(frames: Tensor, span: Tensor | None) -> Tensor:
    """In some clips, replace one rectangle, the same in all frames, with the clip's mean colour."""
    if span is None:
        return frames
    height, width = frames.shape[-2:]
    rows, columns = inside(height, height * span[:, 0]), inside(width, width * span[:, 1])
    erased = rows[:, :, None] & columns[:, None, :]
    mean = frames.mean(dim=(1, 3, 4), keepdim=True)
    return torch.where(erased[:, None, None], mean, frames)
