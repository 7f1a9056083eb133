"""Faces in the frames of a clip: YuNet finds them in pictures of at most `longest_side_px`, and they are cut out.

Faces are not tracked, named or matched: nothing says whether two crops show the same person.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import expand_home
from pipeline.common.people_settings import PeopleSettings
from pipeline.shards.format import Person

# Of two boxes that overlap by more than this share, the one with the lower score is dropped, among this many boxes.
OVERLAP, CANDIDATES = 0.3, 5000
# In a row of the detector: left, top, width and height; x and y of the right and the left eye of five points; a score.
BOX, RIGHT_EYE, LEFT_EYE, SCORE = slice(0, 4), slice(4, 6), slice(6, 8), 14


def find_people(
    pictures: Sequence[NDArray[np.uint8]], detector: str, settings: PeopleSettings, jpeg_quality: int
) -> list[Person]:
    """The faces in the pictures (H, W, 3) BGR of a clip's frames, by frame, and the largest of a frame first.

    `detector` is the file of the network (`pipeline.extraction.face_detector`).
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    people = []
    for frame, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        for face in find_faces(picture, detector, settings):
            left, top, box_width, box_height = map(float, face[BOX])
            centre_x, centre_y = left + box_width / 2, top + box_height / 2
            box = (centre_x / width, centre_y / height, box_width / width, box_height / height)
            jpeg = cv2.imencode(".jpg", cut_out(picture, face, settings), quality)[1].tobytes()
            people.append(Person(frame, box, float(face[SCORE]), jpeg))
    return people


def find_faces(picture: NDArray[np.uint8], detector: str, settings: PeopleSettings) -> NDArray[np.float32]:
    """Rows of the detector for the largest faces of a picture: (faces, 15), the largest first."""
    network = _load(detector, settings.confidence)
    network.setInputSize(picture.shape[1::-1])
    _, rows = network.detect(picture)
    if rows is None:
        return np.zeros((0, SCORE + 1), np.float32)
    rows = rows[rows[:, 2:4].min(axis=1) >= settings.smallest_px]
    order = np.argsort(-rows[:, 2] * rows[:, 3], kind="stable")
    largest: NDArray[np.float32] = rows[order[: settings.most]]
    return largest


@functools.cache
def _load(detector: str, confidence: float) -> cv2.FaceDetectorYN:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns that a target is left at its default
    path = expand_home(Path(detector))
    return cv2.FaceDetectorYN.create(str(path), "", (320, 320), confidence, OVERLAP, CANDIDATES)


def cut_out(picture: NDArray[np.uint8], face: NDArray[np.float32], settings: PeopleSettings) -> NDArray[np.uint8]:
    """The square around a face, a row of the detector, scaled to (size, size, 3); with level eyes if `aligned`.

    What lies beyond the picture's edge repeats the edge.
    """
    left, top, width, height = face[BOX]
    side = max(1, round(float(max(width, height)) * (1 + 2 * settings.margin)))
    across, down = face[LEFT_EYE] - face[RIGHT_EYE]
    turn = math.atan2(down, across) if settings.aligned else 0.0
    # The map from a pixel of the crop to one of the picture, turned about the middle of the box. A box is measured from
    # the picture's edge, but OpenCV measures from the middle of the first pixel, half a pixel further in.
    columns = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = np.array([left + width / 2, top + height / 2]) - 0.5
    affine = np.column_stack([columns, middle - columns @ np.full(2, (side - 1) / 2)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = cv2.warpAffine(picture, affine, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    # Area averages a larger face without aliasing; for a smaller one it would only repeat pixels.
    method = cv2.INTER_AREA if side > settings.size_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (settings.size_px, settings.size_px), interpolation=method), np.uint8)
