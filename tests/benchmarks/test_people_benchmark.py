"""The benchmark of people: which recipes it compares, and what it prints."""

import json

import people
import pytest

from pipeline.results.comparison import Comparison, ResultAccuracy


@pytest.fixture
def arguments(monkeypatch, drawn_root):
    """Parses a command line of the benchmark."""

    def parse(*options):
        monkeypatch.setattr("sys.argv", ["people.py", f"drawn={drawn_root}", *options])
        return people.parse_arguments()

    return parse


def test_both_recipes_have_the_same_shards_and_differ_in_the_people_alone(arguments):
    recipes = people.recipes_to_compare(arguments("--recipe", "small", "--most", "3", "--margin", "0.1"))
    without, with_them = recipes["without"], recipes["with"]
    assert without.features == with_them.features
    assert (without.features.people.most, without.features.people.margin) == (3, 0.1)
    assert (without.model.use, with_them.model.use) == (["scene", "sound"], ["scene", "people", "sound"])
    assert without.training == with_them.training


def test_the_streams_with_people_can_be_chosen(arguments):
    recipes = people.recipes_to_compare(arguments("--recipe", "small", "--use", "people", "sound"))
    assert recipes["with"].model.use == ["people", "sound"]


def test_without_has_no_people_where_the_recipe_has_them(arguments):
    recipes = people.recipes_to_compare(arguments("--recipe", "strong"))
    assert recipes["without"].model.use == ["scene", "motion", "sound"]


def test_the_last_line_is_the_difference_with_its_interval(capsys):
    runs = {
        name: ResultAccuracy(
            accuracy=accuracy, accuracy_sd=None, seeds=[0, 1], selected_on="none", label_sha256="a", code_version="b"
        )
        for name, accuracy in (("with", 0.61234), ("without", 0.55))
    }
    unread = {"only_first_right": 1, "only_second_right": 0, "mcnemar_p": 1.0, "clips": 9, "seeds_low": None}
    people.print_comparison(Comparison(runs, 0.06234, 0.01, 0.11, seeds_high=None, **unread))
    *_, difference, last = capsys.readouterr().out.splitlines()
    assert difference == "difference +0.062   95% over sources 0.010 to 0.110"
    assert json.loads(last) == {
        "without": 0.55,
        "with": 0.6123,
        "difference": 0.0623,
        "low": 0.01,
        "high": 0.11,
        "seeds": [0, 1],
    }
