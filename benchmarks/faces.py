"""How many small faces are found, and what that costs: YuNet as the extract stage runs it, beside MTCNN.

`.venv/bin/python benchmarks/faces.py` needs the face detector (`python -m stages.fetch_weights strong`), and a
photograph of a face, which scikit-image has. MTCNN takes part if facenet-pytorch, whose wheel holds its weights, is
installed (`make benchmarks`). Neither package is in the lock file.

It draws groups: copies of that face of one width, turned by up to 20 degrees, mirrored, brighter or darker, on noise. A
face counts as found if the centre of a box is in the middle half of the face, and the box is from half to twice as
wide. All faces are one person in one photograph, so this tells how recall falls with the size, and nothing about other
people.

It prints a table and, as JSON, for each detector the share of the faces that it finds by their width in px, the boxes
per picture that are no face, and the CPU time in ms for a picture of 360p and of 720p, on one thread.
"""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from footage import noise_texture
from numpy.typing import NDArray

from pipeline.common.config import load_config
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import check_detector
from pipeline.extraction.people import find_faces

Picture = NDArray[np.uint8]
# Left, top, width and height of faces: (faces, 4).
Boxes = NDArray[np.floating[Any]]
Finder = Callable[[Picture], Boxes]

FACE = (178, 63, 90, 113)  # in the photograph, of 512 x 512
HEAD = (128, 3, 190, 210)  # what is copied: the face with hair and neck
WIDTHS_PX = (10, 12, 14, 16, 20, 24, 32, 48)
SIZES = {"360p": (640, 360), "720p": (1280, 720)}
PICTURES, COLUMNS, ROWS = 10, 6, 3


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    finders: dict[str, Finder] = {"yunet": yunet()} | mtcnn()
    result: dict[str, dict[str, Any]] = {name: {"recall": {}} for name in finders}
    others: dict[str, list[int]] = {name: [] for name in finders}
    for width in WIDTHS_PX:
        groups = [draw_group(number, width, SIZES["360p"]) for number in range(PICTURES)]
        for name, find in finders.items():
            counts = [count_found(find(picture), faces) for picture, faces in groups]
            found, wrong = np.sum(counts, axis=0)
            result[name]["recall"][width] = round(found / (PICTURES * COLUMNS * ROWS), 3)
            others[name].append(wrong)
    for name, find in finders.items():
        result[name]["others_per_picture"] = round(sum(others[name]) / PICTURES / len(WIDTHS_PX), 3)
        for size, shape in SIZES.items():
            pictures = [draw_group(number, 32, shape)[0] for number in range(PICTURES)]
            result[name][f"cpu_ms_{size}"] = round(median(cpu_ms(find, picture) for picture in pictures), 1)
    print("face width " + "".join(f"{width:>7}" for width in WIDTHS_PX))
    for name, values in result.items():
        print(f"{name:11}" + "".join(f"{share:7.2f}" for share in values["recall"].values()))
    print(json.dumps(result))


def yunet() -> Finder:
    """The detector of the extract stage."""
    config = load_config()
    people = config.recipe.features.people.model_copy(update={"most": 1000, "smallest_px": 1})
    features = config.recipe.features.model_copy(update={"people": people})
    check_detector(ClipSettings(features=features, limits=config.extract))
    return lambda picture: find_faces(picture, config.extract.face_detector, people)[:, :4]


def mtcnn() -> dict[str, Finder]:
    """MTCNN with its usual thresholds and a smallest face of 10 px, by its name; nothing if it is not installed."""
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        print(f"mtcnn: not measured ({error})")
        return {}
    network = MTCNN(min_face_size=10, keep_all=True)

    def find(picture: Picture) -> Boxes:
        boxes, _ = network.detect(np.ascontiguousarray(picture[..., ::-1]))
        if boxes is None:
            return np.zeros((0, 4))
        return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])

    return {"mtcnn": find}


def draw_group(seed: int, width: int, size: tuple[int, int]) -> tuple[Picture, Boxes]:
    """A picture of `size` (width, height) with faces of a width in px, and their boxes (faces, 4)."""
    rng = np.random.default_rng(seed)
    picture = noise_texture(rng, size[1], size[0]).clip(0, 255)
    half = np.array([width, width * FACE[3] / FACE[2]]) / 2
    boxes = []
    for number in range(COLUMNS * ROWS):
        centre = np.array([number % COLUMNS + 0.5, number // COLUMNS + 0.5]) / (COLUMNS, ROWS) * size
        picture = paste_head(picture, centre, width / FACE[2], rng)
        boxes.append([*(centre - half), *(2 * half)])
    return picture.astype(np.uint8), np.array(boxes)


def paste_head(
    picture: NDArray[np.float32], centre: NDArray[np.float64], scale: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The picture with the head of the photograph in it, its face about `centre`, in x and y."""
    from skimage.data import astronaut

    photograph, head = np.ascontiguousarray(astronaut()[..., ::-1]), np.zeros((512, 512), np.float32)
    left, top, width, height = HEAD
    cv2.ellipse(head, (left + width // 2, top + height // 2), (width // 2, height // 2), 0, 0, 360, 1, -1)
    middle = (FACE[0] + FACE[2] / 2, FACE[1] + FACE[3] / 2)
    # The map from the photograph to the picture: turned and scaled about the middle of the face, which then moves.
    affine = np.asarray(cv2.getRotationMatrix2D(middle, rng.uniform(-20, 20), scale), np.float64)
    affine[0] *= rng.choice([-1, 1])
    affine[:, 2] += centre - affine @ [*middle, 1]
    size = picture.shape[1::-1]
    # Smoothed first, because a warp that makes a picture smaller skips pixels.
    smooth = cv2.GaussianBlur(photograph, (0, 0), max(0.1, 0.4 / scale - 0.4))
    pasted = cv2.warpAffine(smooth, affine, size).astype(np.float32) * rng.uniform(0.6, 1.3)
    share = cv2.warpAffine(head, affine, size)[..., None]
    mixed: NDArray[np.float32] = share * pasted.clip(0, 255) + (1 - share) * picture
    return mixed


def count_found(boxes: Boxes, faces: Boxes) -> tuple[int, int]:
    """How many of the faces have a box, and how many boxes have no face."""
    offset = (boxes[:, None, :2] + boxes[:, None, 2:] / 2 - faces[:, :2] - faces[:, 2:] / 2) / faces[:, 2:]
    wider = boxes[:, None, 2] / faces[:, 2]
    fits = (np.abs(offset) < 0.25).all(axis=2) & (wider > 0.5) & (wider < 2)
    return int(fits.any(axis=0).sum()), int((~fits.any(axis=1)).sum())


def cpu_ms(find: Finder, picture: Picture) -> float:
    """CPU time of one call in ms."""
    start = time.process_time()
    find(picture)
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main()
