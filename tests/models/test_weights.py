"""Pretrained weights: fitted into a network by their names and shapes, with a record of what fitted."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.common.model_settings import StreamSettings
from pipeline.models.small import SmallBackbone, SmallSpectrogramNetwork
from pipeline.models.weight_files import WeightFile
from pipeline.models.weights import fit, load_weights


class FewConvolutions(SmallBackbone):
    """Nine tensors and no counters."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False), nn.GroupNorm(8, outputs), nn.GELU())
                for inputs, outputs, kernel in ((3, 32, 7), (32, 64, 3), (64, 128, 3))
            )
        )


@pytest.fixture
def network():
    return FewConvolutions()


@pytest.fixture
def state():
    """Weights of another network than `network`."""
    torch.manual_seed(7)
    return FewConvolutions().network.state_dict()


@pytest.fixture
def load(network, tmp_path):
    def load(path, **changes):
        settings = {
            "input": "frames",
            "network": "small",
            "weights": str(path),
            "sha256": None,
            "min_matched": 0.9,
            "frames": None,
            "grid": 1,
        }
        return load_weights(network, StreamSettings(**(settings | changes)), tmp_path / "fetched")

    return load


def equal(network, state):
    return all(torch.equal(value, state[key]) for key, value in network.network.state_dict().items())


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "Lightning": lambda state: {
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "state_dict": {f"model.backbone.{key}": value for key, value in state.items()},
    },
    "the smoothed weights, if there are both": lambda state: {
        "state_dict": {key: torch.zeros_like(value) for key, value in state.items()},
        "model_ema": {"state_dict": state},
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_recognised_in_the_usual_wrappings(wrapping, state, network, load, tmp_path):
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "weights.pth")
    assert not equal(network, state)
    loaded = load(tmp_path / "weights.pth")
    assert equal(network, state)
    assert (len(loaded.matched), loaded.missing, loaded.unexpected) == (len(state), [], [])


def test_a_finished_run_of_this_project_gives_weights_to_another(state, network, features, load, tmp_path):
    audio = SmallSpectrogramNetwork(features).network.state_dict()  # has all the names that video has, and more
    others = {f"networks.audio.network.{key}": value for key, value in audio.items()}
    run = {f"networks.scene.network.{key}": value for key, value in state.items()}
    save_file(others | run, tmp_path / "model.safetensors")
    load(tmp_path / "model.safetensors")
    assert equal(network, state)


def test_the_record_lists_what_fitted_and_what_did_not(state, load, tmp_path):
    first, second, *_ = state
    changed = {key: value for key, value in state.items() if key != first}
    changed[second] = torch.zeros(1000)
    save_file(changed | {"classifier.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors", min_matched=0.1)
    assert loaded.missing == sorted([first, second])
    assert loaded.unexpected == sorted([second, "classifier.weight"])
    assert len(loaded.matched) == len(state) - 2
    assert loaded.sha256 == sha256_of(tmp_path / "w.safetensors")
    assert f"{len(state) - 2} of {len(state)} tensors" in str(loaded)
    assert first in str(loaded)
    assert "classifier.weight" in str(loaded)


def test_batch_norms_counters_are_not_weights(tmp_path):
    """Files from before 2018 lack them."""
    network = FewConvolutions()
    network.network = nn.Sequential(nn.BatchNorm2d(3))
    state = {key: value for key, value in network.network.state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "w.safetensors")
    settings = StreamSettings(
        input="frames",
        network="n",
        weights=str(tmp_path / "w.safetensors"),
        sha256=None,
        min_matched=1.0,
        frames=None,
        grid=1,
    )
    loaded = load_weights(network, settings, tmp_path)
    assert (len(loaded.matched), loaded.missing) == (4, [])


def test_too_few_matches_are_an_error_that_shows_the_record(state, load, tmp_path):
    half = dict(list(state.items())[: len(state) // 2])
    save_file(half, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"only {len(half)} of {len(state)} tensors.*missing.*expected 90% or more"):
        load(tmp_path / "w.safetensors")


def test_the_weights_of_something_else_are_an_error(load, tmp_path):
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="only 0 of 9 tensors"):
        load(tmp_path / "w.pt")


def test_tensors_that_cannot_be_converted_are_refused_in_one_sentence(build):
    network = build("frames", "vit_tiny_patch16_224", frames=4, frame_size_px=64)
    tensors = {"pos_embed": torch.zeros(7), "cls_token": torch.zeros(1, 1, 192)}
    message = "w.pth does not fit this network: its tensors cannot be converted ("
    with pytest.raises(UserError, match=re.escape(message)):
        fit(network, tensors, WeightFile(Path("w.pth"), ""))


def test_a_home_that_nobody_has_is_reported_in_one_sentence(load):
    with pytest.raises(UserError, match=r"~nobody-here/w\.pth: .*give the folder in full"):
        load("~nobody-here/w.pth")


def test_a_pinned_file_must_be_that_file(state, load, tmp_path):
    save_file(dict(state), tmp_path / "w.safetensors")
    load(tmp_path / "w.safetensors", sha256=sha256_of(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match="is pinned"):
        load(tmp_path / "w.safetensors", sha256="0" * 64)


def test_settings_without_weights_load_none(load):
    assert load("none") is None


def test_a_missing_file_is_named(load):
    with pytest.raises(UserError, match=r"weights is nowhere\.pth, which is not a file"):
        load("nowhere.pth")


def renamed(state):
    """The same tensors under names that no network here has, in the same order."""
    return {f"layer_{key}": value for key, value in state.items()}


def test_tensors_under_other_names_are_matched_by_order_behind_a_classifier_that_the_network_lacks(
    state, network, load, tmp_path
):
    torch.save(renamed(state) | {"fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    assert equal(network, state)
    assert loaded.by_order
    assert (loaded.matched, loaded.missing, loaded.unexpected) == (sorted(state), [], ["fc.bias", "fc.weight"])
    assert f"9 of 9 tensors from {tmp_path}/w.pth, matched by order because no name fits; 2 unexpected" in str(loaded)


def test_tensors_whose_names_fit_are_not_matched_by_order(state, network, load, tmp_path):
    torch.save(dict(reversed(state.items())), tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    assert equal(network, state)
    assert not loaded.by_order
    assert "by order" not in str(loaded)


EXCHANGED = (0, 2, 1, 3, 4, 5, 6, 7, 8)  # the second and the third tensor are weight and bias of one norm
UNLIKE = {
    "one tensor has another shape": lambda state: state | {list(state)[4]: torch.zeros(63)},
    "the first kernel has another size": lambda state: state | {next(iter(state)): torch.zeros(32, 3, 5, 5)},
    "a later kernel has another number of channels": lambda state: state | {list(state)[3]: torch.zeros(64, 3, 3, 3)},
    "weight and bias are exchanged": lambda state: {list(state)[at]: state[list(state)[at]] for at in EXCHANGED},
    "the last tensor is missing": lambda state: dict(list(state.items())[:-1]),
    "more layers follow": lambda state: state | {"next.weight": torch.zeros(128, 128, 3, 3)},
    "more than a classifier follows": lambda state: state | {f"{key}.weight": torch.zeros(9, 9) for key in "ab"},
}


@pytest.mark.parametrize("difference", UNLIKE)
def test_nothing_is_matched_by_order_if(difference, state, network, load, tmp_path):
    before = {key: value.clone() for key, value in network.network.state_dict().items()}
    torch.save(UNLIKE[difference](renamed(state)), tmp_path / "w.pth")
    with pytest.raises(UserError, match="only 0 of 9 tensors"):
        load(tmp_path / "w.pth")
    assert equal(network, before)


def test_a_file_that_sorts_its_tensors_is_not_matched_by_order(state, load, tmp_path):
    in_order = {f"{at:02}.{key.rpartition('.')[2]}": value for at, (key, value) in enumerate(state.items())}
    save_file(in_order, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="only 0 of 9 tensors"):
        load(tmp_path / "w.safetensors")


def test_a_file_of_which_one_name_fits_is_not_matched_by_order(state, load, tmp_path):
    first, *others = state
    torch.save({first: state[first]} | renamed({key: state[key] for key in others}), tmp_path / "w.pth")
    with pytest.raises(UserError, match="only 1 of 9 tensors"):
        load(tmp_path / "w.pth")
