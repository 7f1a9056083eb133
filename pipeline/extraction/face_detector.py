"""The file of the face detector: YuNet of the OpenCV Zoo (MIT licence), 230 kB."""

from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.files import expand_home, sha256_of
from pipeline.extraction.clip_settings import ClipSettings

# It takes pictures of any size through cv2.FaceDetectorYN. The version of May 2026 gives the same boxes.
DETECTOR_URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx"
)
DETECTOR_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


def check_detector(settings: ClipSettings) -> None:
    """Raise `UserError` if faces are looked for and the detector's file is missing or another one."""
    if not settings.features.people.most:
        return
    path = expand_home(Path(settings.limits.face_detector))
    if not path.is_file():
        raise UserError(
            f"the face detector {path} is missing, and recipe.features.people.most is "
            f"{settings.features.people.most}; run python -m stages.fetch_weights on a machine with a network, or "
            "set extract.face_detector to a copy"
        )
    if (sha256 := sha256_of(path)) != DETECTOR_SHA256:
        raise UserError(
            f"{path} has the SHA-256 {sha256}, but YuNet's is {DETECTOR_SHA256}: remove it and fetch it again"
        )


def fetch_detector(settings: ClipSettings) -> Path | None:
    """The detector's file, downloaded if it is missing; None if no faces are looked for.

    Raises `UserError` if it cannot be downloaded, or is another file.
    """
    if not settings.features.people.most:
        return None
    path = expand_home(Path(settings.limits.face_detector))
    if not path.is_file():
        from torch.hub import download_url_to_file

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(DETECTOR_URL, str(path), hash_prefix=DETECTOR_SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{DETECTOR_URL} could not be fetched ({reason}). Run python -m stages.fetch_weights on a machine with "
                f"a network, or fetch the file by hand, to {path}"
            ) from None
    check_detector(settings)
    return path
