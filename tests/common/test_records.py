from dataclasses import dataclass

import pytest

from pipeline.common.records import parse_record, read_record, read_table, to_json, write_record, write_table


@dataclass(frozen=True)
class Row:
    name: str
    clips: int
    share: float | None = None


@dataclass(frozen=True)
class Table:
    rows: list[Row]
    sizes: tuple[int, ...]


def test_a_record_is_read_as_it_was_written(tmp_path):
    table = Table([Row("a", 3, 0.1), Row("b", 0)], (1, 2))
    write_record(table, tmp_path / "table.json")
    assert read_record(Table, tmp_path / "table.json") == table
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"rows": [{"name": "a", "clips": "3"}], "sizes": []}', "rows.0.clips: input should be a valid integer"),
        ('{"rows": []}', "sizes: field required"),
        ('{"rows": [', "Table: invalid JSON"),
    ],
)
def test_another_content_is_refused_with_the_place_that_is_wrong(content, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_record(Table, content)


def test_undefined_numbers_become_null():
    assert '"share":null' in to_json(Row("a", 1, float("nan")), indent=None)


def test_a_table_is_read_as_it_was_written_and_a_name_is_never_a_number(tmp_path):
    rows = [Row("12_3", 3, 0.1), Row("1e5", 0)]
    write_table(Row, rows, tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == "name,clips,share\n12_3,3,0.1\n1e5,0,\n"
    assert read_table(Row, tmp_path / "rows.csv") == rows


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("name,size\na,3\n")
    with pytest.raises(ValueError, match="clips: field required"):
        read_table(Row, tmp_path / "rows.csv")
