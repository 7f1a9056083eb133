import urllib.error

import httpx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.clips.manifest import sha256_of
from pipeline.common.config import Backbone
from pipeline.common.errors import UserError
from pipeline.models.backbone import Published, SmallFrameNetwork, SmallSpectrogramNetwork
from pipeline.models.weights import fetch, find, load_weights, read_tensors


@pytest.fixture
def network(features):
    return SmallFrameNetwork(features)


@pytest.fixture
def state(features):
    """Weights of a network that is not `network`."""
    torch.manual_seed(7)
    return SmallFrameNetwork(features).network.state_dict()


@pytest.fixture
def load(network, tmp_path):
    def load(path, **changes):
        settings = {"name": "small", "weights": str(path), "sha256": None, "min_matched": 0.9, "grid": 1}
        return load_weights(network, Backbone(**(settings | changes)), tmp_path / "fetched")

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
def test_weights_are_found_in_the_usual_wrappings(wrapping, state, network, load, tmp_path):
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "weights.pth")
    assert not equal(network, state)
    report = load(tmp_path / "weights.pth")
    assert equal(network, state)
    assert (len(report.matched), report.missing, report.unexpected) == (len(state), [], [])


def test_a_finished_run_of_this_project_gives_weights_to_another(state, network, features, load, tmp_path):
    audio = SmallSpectrogramNetwork(features).network.state_dict()  # has all the names that video has, and more
    others = {f"networks.audio.network.{key}": value for key, value in audio.items()}
    run = {f"networks.video.network.{key}": value for key, value in state.items()}
    save_file(others | run, tmp_path / "model.safetensors")
    load(tmp_path / "model.safetensors")
    assert equal(network, state)


def test_the_report_says_what_fitted_and_what_did_not(state, load, tmp_path):
    first, second, *_ = state
    changed = {key: value for key, value in state.items() if key != first}
    changed[second] = torch.zeros(1000)
    save_file(changed | {"classifier.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    report = load(tmp_path / "w.safetensors", min_matched=0.1)
    assert report.missing == sorted([first, second])
    assert report.unexpected == sorted([second, "classifier.weight"])
    assert len(report.matched) == len(state) - 2
    assert report.sha256 == sha256_of(tmp_path / "w.safetensors")
    assert f"{len(state) - 2} of {len(state)} tensors" in str(report)
    assert first in str(report)
    assert "classifier.weight" in str(report)


def test_counters_of_batches_are_no_weights(tmp_path):
    """Files of before 2018 do not have them."""
    network = SmallFrameNetwork.__new__(SmallFrameNetwork)
    nn.Module.__init__(network)
    network.network = nn.Sequential(nn.BatchNorm2d(3))
    state = {key: value for key, value in network.network.state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "w.safetensors")
    settings = Backbone(name="n", weights=str(tmp_path / "w.safetensors"), sha256=None, min_matched=1.0, grid=1)
    report = load_weights(network, settings, tmp_path)
    assert (len(report.matched), report.missing) == (4, [])


def test_too_few_matches_are_an_error_that_shows_the_report(state, load, tmp_path):
    half = dict(list(state.items())[: len(state) // 2])
    save_file(half, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"only {len(half)} of {len(state)} tensors.*missing.*expected 90% or more"):
        load(tmp_path / "w.safetensors")


def test_weights_of_something_else_are_an_error(load, tmp_path):
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="only 0 of 9 tensors"):
        load(tmp_path / "w.pt")


class Mean(nn.Module):
    def forward(self, values):
        return values.mean()


def save_module(path):
    torch.save(nn.Linear(2, 2), path)


def save_script(path):
    torch.jit.script(Mean()).save(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(("save", "said"), [(save_module, "holds other objects"), (save_script, "TorchScript")])
def test_what_is_code_is_refused_with_a_sentence(save, said, tmp_path):
    path = tmp_path / "model.pt"
    save(path)
    with pytest.raises(UserError, match=rf"(?s)model\.pt .*{said}.*state_dict\(\)"):
        read_tensors(path)


class Bomb:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('exploded').touch()",))


def test_reading_a_file_runs_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"weight": torch.zeros(3)}, "more": Bomb()}, "w.pth")
    with pytest.raises(UserError, match="could run"):
        read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
def test_a_damaged_file_is_refused_with_a_sentence(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    "beside", [{"state_dict": {}, "model": {"w": torch.ones(1)}}, {"model": {"lr": 1}, "w": torch.ones(1)}]
)
def test_a_wrapping_without_tensors_hides_none(beside, tmp_path):
    torch.save(beside, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth") == {"w": torch.ones(1)}


def test_a_home_that_nobody_has_is_said_in_a_sentence(load):
    with pytest.raises(UserError, match=r"~nobody-here/w\.pth: .*give the folder in full"):
        load("~nobody-here/w.pth")


@pytest.mark.parametrize("content", [{"lr": 0.1}, [torch.zeros(3)], torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no tensors"):
        read_tensors(tmp_path / "w.pth")


def test_a_pinned_file_is_that_file(state, load, tmp_path):
    save_file(dict(state), tmp_path / "w.safetensors")
    load(tmp_path / "w.safetensors", sha256=sha256_of(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match="is pinned"):
        load(tmp_path / "w.safetensors", sha256="0" * 64)


def test_none_means_none(load):
    assert load("none") is None


def test_a_missing_file_is_named(load):
    with pytest.raises(UserError, match=r"nowhere\.pth, which is no file"):
        load("nowhere.pth")


ON_TORCH = Published(url="https://server.test/models/net-0123abcd.pth")
ON_HUB = Published(repository="somebody/net")


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)


@pytest.mark.parametrize(("published", "file"), [(ON_TORCH, "net-0123abcd.pth"), (ON_HUB, "model.safetensors of")])
def test_without_a_network_the_error_names_the_file_and_where_to_put_it(published, file, offline, tmp_path):
    with pytest.raises(UserError, match=rf"{file}.*no network.*fetch_weights.*put it into {tmp_path}/somebody--net"):
        fetch("hf_hub:somebody/net", published, tmp_path)


@pytest.mark.parametrize(("published", "name"), [
    (ON_HUB, "model.safetensors"), (ON_HUB, "pytorch_model.bin"), (ON_TORCH, "net-0123abcd.pth"),
])  # fmt: skip
def test_a_file_that_was_put_there_is_taken_without_a_network(published, name, offline, tmp_path):
    place = tmp_path / "somebody--net"
    place.mkdir()
    (place / "another.safetensors").touch()
    (place / name).touch()
    assert fetch("hf_hub:somebody/net", published, tmp_path) == place / name


def test_networks_of_two_owners_do_not_share_a_folder(offline, tmp_path):
    (tmp_path / "somebody--net").mkdir()
    (tmp_path / "somebody--net/model.safetensors").touch()
    with pytest.raises(UserError, match=r"put it into .*nobody--net"):
        fetch("hf_hub:nobody/net", Published(repository="nobody/net"), tmp_path)


def test_a_proxy_that_refuses_is_said_in_a_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise httpx.ProxyError("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"could not be fetched \(403 Forbidden"):
        fetch("hf_hub:somebody/net", ON_HUB, tmp_path)


def test_a_file_is_fetched_once_and_checked_by_the_hash_in_its_name(tmp_path, state, monkeypatch):
    save_file(dict(state), tmp_path / "there.pth")
    digest = sha256_of(tmp_path / "there.pth")
    calls = []

    def urlopen(request, *_, **__):
        calls.append(request.full_url)
        answer = (tmp_path / "there.pth").open("rb")
        answer.info = lambda: type("Headers", (), {"get_all": lambda self, key: None})()
        return answer

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    wrong, right = (Published(url=f"https://server.test/net-{name}.pth") for name in ("ffffffff", digest[:8]))
    settings = Backbone(name="net", weights="pretrained", sha256=None, min_matched=0.9, grid=1)
    with pytest.raises(UserError, match=rf"net-ffffffff\.pth is damaged: its SHA-256 is {digest}, not ffffffff"):
        find(settings, wrong, tmp_path / "fetched")
    for _ in range(2):
        assert find(settings, right, tmp_path / "fetched") == (tmp_path / f"fetched/net/net-{digest[:8]}.pth", digest)
    assert len(calls) == 2


def test_a_network_that_nobody_publishes_weights_of_is_refused(tmp_path):
    with pytest.raises(UserError, match="no weights are published for small"):
        fetch("small", Published(), tmp_path)
