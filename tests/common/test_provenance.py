import pytest

from pipeline.common import provenance
from pipeline.common.provenance import code_digest, imported_modules


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two zones: `b.second` imports `a.first`. Writes a module and returns the digest of `b.second`."""
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)

    def write(module: str = "", text: str = "", **options) -> str:
        if module:
            path = tmp_path / f"pipeline/{module.replace('.', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return code_digest(["pipeline.b.second"], **options)

    write("b.second", "from pipeline.a import first\n")
    write("a.first", FIRST)
    write("a.other", "x = 1\n")
    return write


FIRST = '''"""A module."""

def double(x):
    """Twice."""
    return 2 * x  # exactly
'''


def test_a_comment_or_a_docstring_changes_no_digest(project):
    before = project()
    assert project("a.first", FIRST.replace("# exactly", "# as is")) == before
    assert project("a.first", FIRST.replace("Twice.", "Two times, in words.")) == before
    assert project("a.first", FIRST.replace("\n    return", "\n\n\n    return")) == before


def test_a_changed_statement_of_an_imported_module_changes_it(project):
    before = project()
    assert project("a.first", FIRST.replace("2 * x", "3 * x")) != before


def test_a_module_that_is_not_imported_does_not_count(project):
    before = project()
    assert project("a.other", "x = 2\n") == before


def test_other_zones_can_be_left_out(project):
    before = project(zones={"pipeline.b"})
    assert project("a.first", "x = 3\n", zones={"pipeline.b"}) == before
    assert project("b.second", "y = 3\n", zones={"pipeline.b"}) != before


def test_the_digest_of_training_covers_what_decides_the_weights_and_nothing_else():
    modules = imported_modules(["pipeline.training.loop"]).keys()
    needed = {"models.fusion", "models.small", "loading.augmentation", "training.optimization"}
    assert {f"pipeline.{name}" for name in needed} <= modules
    assert {name.split(".")[1] for name in modules} & {"results", "serving", "extraction"} == set()
