"""`python -m stages.export --push-to-hub`: what is uploaded, to whom it is visible, and what the card tells the hub."""

from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from pipeline.common.errors import UserError
from pipeline.results.model_card import CardResult, render_card
from pipeline.serving import hub
from pipeline.serving.export import EXPORTED_NAMES
from pipeline.serving.hub import push

METRICS = SimpleNamespace(
    accuracy=0.6037,
    accuracy_low=0.56,
    accuracy_high=0.64,
    accuracy_sources_low=None,
    accuracy_sources_high=None,
    clips=766,
    label_sha256="ab12",
)


class FakeHub:
    """A hub with one repository, or none; it keeps what it is asked."""

    def __init__(self, private):
        self.private, self.uploads = private, []

    def create_repo(self, repository, private, exist_ok):
        assert exist_ok
        self.private = private if self.private is None else self.private
        return f"https://huggingface.co/{repository}"

    def repo_info(self, repository):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **arguments):
        self.uploads.append(arguments)


@pytest.fixture
def fake_hub(monkeypatch):
    """Puts a hub in the place of the real one; `private` is None for one without the repository."""

    def replace(private):
        fake = FakeHub(private)
        monkeypatch.setattr(hub, "HfApi", lambda: fake)
        return fake

    return replace


@pytest.fixture
def export(stage, trained, monkeypatch, tmp_path):
    """Exports a run without ONNX's network, which takes seconds, and without a network or a token."""
    monkeypatch.setattr("pipeline.serving.export.write_onnx", lambda _, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr("pipeline.serving.export.check_onnx", lambda *_: 0.0)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return lambda *words: stage("export", tmp_path / "model", "--run", trained, *words, folder=tmp_path)


def test_a_dry_run_lists_what_would_be_uploaded_without_network_or_token(export, tmp_path):
    process = export("--push-to-hub", "owner/name", "--dry-run")
    assert process.returncode == 0, process.stderr
    _, heading, *lines = process.stdout.splitlines()
    assert heading == "would be uploaded to owner/name (private):"
    listed = {name: int(size.replace(",", "")) for size, name in map(str.split, lines)}
    assert listed == {path.name: path.stat().st_size for path in (tmp_path / "model").iterdir()}
    assert "owner/name (public)" in export("--push-to-hub", "owner/name", "--dry-run", "--public").stdout


def test_without_a_token_or_with_a_wrong_name_nothing_is_exported(export, tmp_path):
    for name, named in (("owner/name", "run `hf auth login`"), ("name", "expected owner/name"), ("a/b/c", "'a/b/c'")):
        process = export("--push-to-hub", name)
        assert process.returncode == 2
        assert named in process.stderr
    assert not (tmp_path / "model").exists()


def test_a_hub_that_does_not_answer_is_one_sentence_and_the_folder_is_kept(export, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "get_token", lambda: "hf_token")
    process = export("--push-to-hub", "owner/name")
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line]
    assert line.startswith("error: owner/name could not be written to on Hugging Face's hub (")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(EXPORTED_NAMES)


@pytest.mark.parametrize("public", [False, True])
def test_only_the_exported_files_are_uploaded_and_a_new_repository_is_private_unless_asked(fake_hub, tmp_path, public):
    fake = fake_hub(private=None)
    assert push(tmp_path, "owner/name", public) == "https://huggingface.co/owner/name"
    assert fake.private is not public
    assert fake.uploads == [{"repo_id": "owner/name", "folder_path": tmp_path, "allow_patterns": list(EXPORTED_NAMES)}]


@pytest.mark.parametrize("public", [False, True])
def test_a_repository_that_others_see_or_do_not_see_against_the_users_word_is_left_alone(fake_hub, tmp_path, public):
    fake = fake_hub(private=public)
    with pytest.raises(UserError, match="leave out --public" if public else "is public, expected private.*; add"):
        push(tmp_path, "owner/name", public)
    assert fake.uploads == []


def test_options_of_an_upload_without_one_are_refused(export):
    for option in ("--dry-run", "--public"):
        process = export(option)
        assert process.returncode == 2
        assert "name its repository with --push-to-hub" in process.stderr


def test_the_hub_reads_the_accuracy_in_the_cards_header(run):
    card = ModelCard(render_card(run.record, CardResult(METRICS, "demo", "val"), range(6)))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.verified) == ("accuracy", 0.6037, False)
    assert (result.task_type, result.dataset_name) == ("video-classification", run.config.dataset.name)
    assert (card.data.license, card.data.library_name) == ("other", "group-emotion")
    assert "Accuracy 60.37%" in card.text


def test_the_header_of_a_run_that_was_not_evaluated_has_no_accuracy(run):
    card = ModelCard(render_card(run.record, None, range(6)))
    assert card.data.eval_results is None
    assert card.data.license == "other"
