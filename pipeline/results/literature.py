"""Published results on VGAF, and whether the paper's is reproduced."""

from dataclasses import dataclass

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import VAL
from pipeline.results.result_files import Provenance, Reproduced

# arXiv 2111.05890, on VGAF's validation split. It is no multiple of 1/766, so it was not computed over all clips once.
PAPER_ACCURACY = 0.6037
VGAF_VAL_CLIPS, VGAF_VAL_SOURCES = 766, 65


@dataclass(frozen=True)
class PublishedResult:
    """An accuracy on VGAF's validation split in percent, as published."""

    method: str
    accuracy: str
    note: str


# Results of single models and of ensembles.
PUBLISHED_RESULTS = [
    PublishedResult("majority class", "about 39", ""),
    PublishedResult("organisers' baseline, 2019", "52.1", "video; 50.2 with audio"),
    PublishedResult("hslrock, 2020", "55.2", "two ResNet-18, openSMILE"),
    PublishedResult(
        "Evtodienko, 2021 (arXiv 2111.05890)",
        f"{100 * PAPER_ACCURACY:.2f}",
        "end to end, cross-modal attention: the paper that is reproduced here",
    ),
    PublishedResult("VGAFNet, 2021", "61.61", "faces, scene, audio"),
    PublishedResult("Wang et al., 2020", "63.25", "K-injection network"),
    PublishedResult("Fusical, 2020", "64.0", "four modalities, frozen"),
    PublishedResult("CLIP B/16, frozen", "68.25", "15 whole frames, no sound"),
    PublishedResult("Savchenko, 2022", "70.23", "faces"),
    PublishedResult("Sun et al., 2020", "71.93", "14 models"),
    PublishedResult("gerhyperg, 2026", "76.21", "mean of five seeds, deviation 1.32; epoch chosen on a part of train"),
    PublishedResult("Augusma et al., 2023", "79.24", "CLIP L/14 and a mel CNN, cross-attention; winner of EmotiW 2023"),
    PublishedResult("VE-MD, 2026", "82.25", "the highest that is known"),
]


def is_reproduced(provenance: Provenance, accuracy_high: float) -> Reproduced:
    """Whether the paper's accuracy lies within or below the interval of the accuracy that ends at `accuracy_high`.

    "not applicable" unless the validation split has as many clips and sources as VGAF's, and the same classes, and the
    runs were not fitted on it. Label files of VGAF differ (`label_sha256`).
    """
    data, val = provenance.runs[0].config.dataset, provenance.data.val
    is_other = data.synthesize or data.classes != list(CLASSES) or provenance.reported != [VAL] or provenance.folds
    is_fitted = any(run.config.fit_on == "train_and_val" for run in provenance.runs)
    if is_other or is_fitted or (val.clips, val.sources) != (VGAF_VAL_CLIPS, VGAF_VAL_SOURCES):
        return "not applicable"
    return accuracy_high >= PAPER_ACCURACY
