"""Tables of path and label: columns, class numbers and names, divisions, and what is wrong where."""

import pandas
import pytest

from allmlp.data import open_classification
from allmlp.data.table import number_classes, open_table
from allmlp.errors import InputError
from digit_files import save_digits

ROWS = [(f"{digit}/{number}.png", str(digit)) for digit in range(3) for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    return save_digits(tmp_path)


def write(folder, rows=ROWS, header="path,label", name="labels.csv", encoding="utf-8"):
    """A CSV file of these rows."""
    text = "\n".join([header, *(",".join(row) for row in rows)])
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def refused(path, **settings):
    with pytest.raises(InputError) as caught:
        open_table(path, **settings)
    return str(caught.value)


def test_csv_and_parquet_say_the_same(folder):
    table = pandas.DataFrame({"path": [path for path, _ in ROWS], "label": [int(label) for _, label in ROWS]})
    table.to_parquet(folder / "labels.parquet")
    table.to_csv(folder / "labels.csv", index=False)
    table.to_csv(folder / "labels.tsv", index=False, sep="\t")
    table.to_csv(folder / "europe.csv", index=False, sep=";", encoding="utf-8-sig")
    opened = [
        open_classification(folder / name) for name in ("labels.parquet", "labels.csv", "labels.tsv", "europe.csv")
    ]
    assert opened[0].classes == ["0", "1", "2"]
    assert (opened[0].kind, len(opened[0].train), len(opened[0].val)) == ("table", 15, 3)
    assert len({data.fingerprint() for data in opened}) == 1
    assert opened[0].val.load(0).size == (8, 8)


def test_names_and_numbers_become_classes(folder):
    named = [(path, ["zebra", "ape", "bat 10"][int(label)]) for path, label in ROWS]
    assert open_table(write(folder, named)).classes == ["ape", "bat 10", "zebra"]
    gaps = [(path, ["7", "10", "2.0"][int(label)]) for path, label in ROWS]
    data = open_table(write(folder, gaps))
    assert data.classes == ["2", "7", "10"]
    assert data.source.labels[0] == 1
    padded = [(path, ["007", "10", "2"][int(label)]) for path, label in ROWS]
    assert open_table(write(folder, padded)).classes == ["2", "007", "10"]  # 007 is a name


def test_known_classes(folder):
    numbers = open_table(write(folder), classes=["ape", "bat", "cow", "dog"])
    assert numbers.classes == ["ape", "bat", "cow", "dog"]
    assert numbers.source.labels.tolist() == [int(label) for _, label in ROWS]
    assert "Labels lie in 0 to 1; row 13 of" in refused(write(folder), classes=["ape", "bat"])
    named = write(folder, [(path, ["ape", "bat", "cwo"][int(label)]) for path, label in ROWS])
    assert "row 13 of" in (message := refused(named, classes=["ape", "bat", "cow"])).lower()
    assert message.endswith("the classes are 'ape', 'bat', 'cow'. Did you mean 'cow'?")
    assert number_classes(["2", "1"], ["1", "2"], "x") == (["1", "2"], [1, 0])  # names that happen to be numbers


def test_a_column_divides(folder):
    split = [("train", "val", "test")[number % 3] for number in range(18)]
    rows = [(*row, part) for row, part in zip(ROWS, split)]
    data = open_classification(write(folder, rows, "path,label,split"))
    assert [data.val.name_of(index) for index in range(6)] == [row[0] for row in ROWS[1::3]]
    assert len(data.train) == 6
    assert data.notes == ["Rows of the split 'val' are taken for validation; 'test' left aside."]
    only = open_classification(write(folder, [(*row, "TRAIN") for row in ROWS], "path,label,split"))
    assert (len(only.train), len(only.val)) == (15, 3)
    wrong = write(folder, [*rows[:4], (*ROWS[4], "trian")], "path,label,split")
    assert "holds train or val; row 5 of" in refused(wrong)


def test_where_paths_start(folder, tmp_path_factory):
    elsewhere = write(tmp_path_factory.mktemp("tables"))
    message = refused(elsewhere)
    assert (
        f"None of the 18 files that {elsewhere} names is there; the first would be {elsewhere.parent}/0/0.png"
        in message
    )
    assert message.endswith("type data.root=FOLDER for another.")
    data = open_classification(elsewhere, root=folder)
    assert data.val.load(0).size == (8, 8)
    absolute = write(elsewhere.parent, [(str(folder / path), label) for path, label in ROWS], name="absolute.csv")
    assert open_classification(absolute).val.load(0).size == (8, 8)
    windows = write(folder, [(path.replace("/", "\\"), label) for path, label in ROWS])
    assert open_classification(windows).val.load(0).size == (8, 8)


def test_missing_files_are_listed_and_left_out(folder):
    path = write(folder, [*ROWS, ("0/99.png", "0")])
    data = open_classification(path)
    assert [(bad.path, bad.reason) for bad in data.skipped] == [(str(folder / "0/99.png"), "no such file")]
    with pytest.raises(InputError, match=r"1 of 19 images cannot be read: .*99\.png: no such file"):
        open_classification(path, on_bad_image="stop")


def test_rows_that_repeat(folder):
    data = open_table(write(folder, [*ROWS, ROWS[3]]))
    assert len(data.source) == 18
    assert data.notes == ["1 rows that repeat a path were left out."]
    assert "0/3.png has two in" in (message := refused(write(folder, [*ROWS, ("0/3.png", "2")])))
    assert message.endswith("in rows 4 and 19.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has nothing."),
        ("path,label\n", "Wanted rows with a path and a label in"),
        ("path,lable\n0/0.png,0", "has path, lable. Rename lable?"),
        ("name,kind\n0/0.png,0", "has name, kind. Rename the columns."),
        ("0/0.png,0\n0/1.png,0", "has 0/0.png, 0. Put the line path,label before the first row."),
        ("path,label\n0/0.png", "Row 1 of"),
        ("path,label\n0/0.png,0\n0/1.png,", "Wanted a label in every row"),
        ("path,label\n0/0.png,0\n,1", "Wanted a path in every row"),
        ("path,label\n0/0.png,0\n0/1.png,-1", "Labels are at least 0; row 2 of"),
    ],
)
def test_tables_that_say_too_little(folder, text, message):
    (folder / "labels.csv").write_text(text)
    assert message in refused(folder / "labels.csv")


def test_files_that_are_no_tables(folder):
    (folder / "a.parquet").write_bytes(b"not a table")
    assert refused(folder / "a.parquet").endswith("Wanted a Parquet file.")
    assert refused(write(folder, [("é.png", "ä")], encoding="latin-1")).endswith("Wanted a CSV file in UTF-8.")


def test_empty_cells_of_parquet_are_missing(folder):
    table = pandas.DataFrame({"path": ["0/0.png", "1/0.png"], "label": ["ape", None]})
    table.to_parquet(folder / "labels.parquet")
    assert "Wanted a label in every row" in refused(folder / "labels.parquet")
