"""A start from another run: its weights in a new model, with a record of which tensors fitted."""

from pathlib import Path

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.files import expand_home, sha256_of
from pipeline.common.recipe import Recipe
from pipeline.common.workspace import original_workspace
from pipeline.loading.selection import ROLES_KEY
from pipeline.models.later_settings import tensor_name_of_any_version
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import MODEL_NAME, RUN_NAME, InitialWeights, LoadedWeights, RunRecord, read_run_record
from pipeline.models.weight_files import WeightFile, read_tensors
from pipeline.models.weights import copy_fitting

HEADS = "fusion.heads."
# If one of these features differs, a network gets another log-mel of the same sound.
SOUND_FEATURES = ("front_end", "sample_rate_hz", "fft_size", "window_length", "hop_length", "mel_bins")


def load_initial_weights(
    model: GroupEmotionModel, config: Config, roles: str, run_folder: Path
) -> InitialWeights | None:
    """Copy the weights of the run that `recipe.init` names into the model; None if it is `none`.

    Each tensor that has the name and the shape of one of the model's is copied, BatchNorm's statistics too. Heads are
    copied only if they are of the same classes and of the same streams, each in the same order. `roles` is the digest
    of the clips of this training and their roles, and `run_folder` is where its run will lie. Raises `UserError` if
    there is no such run, if it lies in `run_folder`, if it may have been fitted on clips that are held out now, or if
    its log-mel or networks differ.
    """
    if config.recipe.init == "none":
        return None
    folder = find_run(config.recipe.init, run_folder)
    before = read_run_record(folder)
    trained_on = {
        **(before.initial.trained_on if before.initial else {}),
        before.config.dataset.name: before.identity.get(ROLES_KEY),
    }
    if trained_on.get(config.dataset.name, roles) != roles:
        raise UserError(
            f"recipe.init is {config.recipe.init}, whose weights were trained on {config.dataset.name} too, but with "
            "another split or fold, so they may have been fitted on clips that are held out now; name a run with the "
            "same splits.csv and fold, or a run of another data set"
        )
    _refuse_other_sound(before.config.recipe, config.recipe)
    tensors = {tensor_name_of_any_version(name): each for name, each in read_tensors(folder / MODEL_NAME).items()}
    if before.config.dataset.classes != list(model.labels) or _heads(before.config.recipe) != _heads(config.recipe):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEADS)}
    file = WeightFile(Path(config.recipe.init, MODEL_NAME), sha256_of(folder / MODEL_NAME))
    loaded = copy_fitting(model, tensors, file)
    _refuse_other_networks(before, config.recipe, loaded)
    return InitialWeights(loaded, trained_on)


def find_run(init: str, run_folder: Path) -> Path:
    """The folder that `recipe.init` names; raises `UserError` if there is no run in it, or if it is `run_folder`.

    A queued experiment runs in a copy of the workspace, which lacks earlier runs. So a relative path starts at the
    original workspace.
    """
    folder = original_workspace() / expand_home(Path(init))
    if not all((folder / name).is_file() for name in (RUN_NAME, MODEL_NAME)):
        raise UserError(
            f"recipe.init is {init}, but {folder} holds no {RUN_NAME} and {MODEL_NAME}; expected none, the folder of a "
            "finished run (runs/<dataset>/<recipe>/seed-<n>, with folds .../fold-<k>), or that of an exported model"
        )
    if folder.resolve() == (original_workspace() / run_folder).resolve():
        raise UserError(
            f"recipe.init is {init}, the folder that this training writes to; give the recipe another name "
            "(recipe.name), or name the run's folder in runs/by_fingerprint/"
        )
    return folder


def _refuse_other_sound(before: Recipe, now: Recipe) -> None:
    changes = [
        f"{name}: {getattr(before.features, name)} -> {getattr(now.features, name)}"
        for name in SOUND_FEATURES
        if getattr(before.features, name) != getattr(now.features, name)
    ]
    if changes and all("log_mel" in recipe.model.taken for recipe in (before, now)):
        raise UserError(
            f"recipe.init is {now.init}, which was trained on another log-mel ({'; '.join(changes)}); set "
            "recipe.features to its values, or name another run"
        )


def _heads(recipe: Recipe) -> tuple[bool, list[str]]:
    """What the heads of a model take: each one stream, or all of them side by side; and which streams."""
    return recipe.model.fusion == "late", list(recipe.model.used)


def _refuse_other_networks(before: RunRecord, now: Recipe, loaded: LoadedWeights) -> None:
    """Tensors of other networks may fit by chance: one network at least must be filled as its settings demand."""
    streams = now.model.used
    shares = {name: _share_of_network(name, loaded) for name in streams}
    if all(shares[name] < stream.min_matched for name, stream in streams.items()):
        theirs = ", ".join(f"{name} {each.network}" for name, each in before.config.recipe.model.used.items())
        ours = ", ".join(
            f"{name} {each.network} ({shares[name]:.0%} filled, min_matched {each.min_matched:.0%})"
            for name, each in streams.items()
        )
        raise UserError(
            f"recipe.init is {now.init}, which fills none of the networks: it has {theirs}, and the recipe {ours}; "
            "a stream takes the weights of the stream of its name: name a run with one of these networks, name the "
            "streams of the recipe as that run does, or set recipe.init to none"
        )


def _share_of_network(name: str, loaded: LoadedWeights) -> float:
    filled, missing = (
        sum(key.startswith(f"networks.{name}.") for key in keys) for keys in (loaded.matched, loaded.missing)
    )
    return filled / (filled + missing)
