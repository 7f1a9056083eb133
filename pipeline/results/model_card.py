"""What must be said of every model that is trained here, and the model card of one of them.

The report shows the statements too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from pipeline.clips.manifest import VAL
from pipeline.models.run_record import RunRecord
from pipeline.results.result_files import Metrics
from pipeline.shards.log_mel_units import LEVELS

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
STATEMENTS = {
    "What the labels are": (
        "Affect as annotators perceived it in the clip as a whole. It is not what the people in it feel, and it says "
        "nothing about any one of them."
    ),
    "Intended use": "Research on affective computing: comparing methods, and studying what such models depend on.",
    "Not for": (
        "Surveillance; decisions about people, as in hiring, schooling, policing, insurance or health; advertising by "
        "mood. Inferring emotions of people at work or in education is prohibited in some places, the European Union "
        "among them."
    ),
    "Limits": (
        "Perceived emotion depends on culture and on context that a clip does not show. The training clips represent "
        "certain kinds of videos, people and languages. On others, predictions are less accurate but no less "
        "confident. Errors have not been measured by age, gender or origin, because the data sets have no such labels."
    ),
}


INPUTS = {"frames": "frames of the whole scene", "people": "the faces in the frames", "log_mel": "the sound"}


def statements_of(classes: Sequence[str], inputs: Collection[str]) -> dict[str, str]:
    """The statements by their titles, for a model of these classes, whose streams take these inputs."""
    uses = [words for name, words in INPUTS.items() if name in inputs]
    used = f"{', '.join(uses[:-1])} and {uses[-1]}" if len(uses) > 1 else uses[0]
    alternatives = f"{', '.join(classes[:-1])} or {classes[-1]}"
    what_it_does = (
        "For a short clip of a group of people, it predicts whether the emotion that the group shows is "
        f"{alternatives}. It uses {used}."
    )
    return {"What it does": what_it_does, **STATEMENTS}


@dataclass(frozen=True)
class CardResult:
    """What was measured of a run alone, and on which split of which data set."""

    metrics: Metrics
    dataset: str
    split: str


def card_data(run: RunRecord, result: CardResult | None) -> ModelCardData:
    """The header of the card, from which Hugging Face's hub shows what the model is for and how accurate it is."""
    shown = result and EvalResult(
        task_type="video-classification",
        task_name="Group emotion recognition",
        dataset_type=result.dataset,
        dataset_name=result.dataset,
        dataset_split="validation" if result.split == VAL else result.split,
        metric_type="accuracy",
        metric_value=result.metrics.accuracy,
        verified=False,  # the hub did not measure it
    )
    return ModelCardData(
        license="other",
        license_name="that-of-the-training-data",
        library_name="group-emotion",
        pipeline_tag="video-classification",
        tags=["group-emotion-recognition", "audio-visual", "model_hub_mixin", "pytorch_model_hub_mixin"],
        model_name=f"{run.config.recipe.name} on {run.config.dataset.name}",
        eval_results=[shown] if shown else None,
    )


def render_card(run: RunRecord, result: CardResult | None, frames: Sequence[int]) -> str:
    """The model card of a run, as Markdown; `result` is None if none of this run alone is at hand.

    `frames` are the numbers of the stored frames that the network takes.
    """
    labels = run.config.dataset.classes
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text()).render(
        header=card_data(run, result).to_yaml(),
        run=run,
        recipe=run.config.recipe,
        features=run.config.recipe.features,
        frames=frames,
        result=result,
        labels=labels,
        levels=LEVELS[run.config.recipe.features.front_end],
        statements=statements_of(labels, run.config.recipe.model.taken),
    )
