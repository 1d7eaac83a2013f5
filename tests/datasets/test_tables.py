"""What a csv means: which cells are numbers, which labels are the same, what is a header, what is an index."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdgpu import checkpoint, datasets
from gdgpu.datasets import cells
from gdgpu.datasets.formats import DataError
from support.command import in_empty_directory, one_line, run, trained  # noqa: F401

N = 40
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 3)).round(3)


def write(labels, header="a,b,c,label", features=X, name="data.csv"):
    """A csv with a row of features for each label; a header of None: no header."""
    rows = [",".join([*map(str, row), str(label)]) for row, label in zip(features.tolist(), labels, strict=False)]
    Path(name).write_text("\n".join([header, *rows] if header is not None else rows) + "\n", encoding="utf-8")


def cycled(*labels):
    return [labels[k % len(labels)] for k in range(N)]


@given(st.text(alphabet="0123456789+-._eE infaty\t\N{ARABIC-INDIC DIGIT ONE}\N{FULLWIDTH DIGIT TWO}x", max_size=8))
def test_a_number_is_what_float_takes_of_plain_characters(cell):
    try:
        expected = float(cell) if set(cell.strip()) <= set(string.digits + "+-.eE") else None
    except ValueError:
        expected = None
    assert cells.number(cell) == expected
    if cells.are_plain([cell]):
        try:
            assert cells.number(cell) == float(cell) or not np.isfinite(float(cell))
        except ValueError:
            assert cells.number(cell) is None


NO_NUMBERS = ("1_1", "1_2", "\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT ONE}", "0x11", "infinity", "+inf", "NaN")


@pytest.mark.parametrize("cell", NO_NUMBERS)
def test_what_is_no_number_is_text(cell):
    write(cycled(cell, "cat", "dog"))
    line = "data.csv --batch-size full --checkpoint c.safetensors"
    _, history = trained(f"{line} --epochs 1")
    assert history["config"]["labels"] == sorted([cell, "cat", "dog"])
    _, history = trained(f"{line} --epochs 2 --resume")
    assert history["config"]["labels"] == sorted([cell, "cat", "dog"]) and len(history["epochs"]) == 2
    assert json.loads(checkpoint.load("c.safetensors")[1]["labels"]) == sorted([cell, "cat", "dog"])
    for column in ("a", "label"):  # among numbers it is an error
        write(cycled(1.5), header="label,b,c,a" if column == "a" else "a,b,c,label")
        text = Path("data.csv").read_text()
        Path("data.csv").write_text(text + f"1,2,3,{cell}\n", encoding="utf-8")
        assert f"line {N + 2}, column '{column}': expected a finite number" in one_line("train data.csv")
    Path("data.csv").write_text(f"a,b,t\n1,2,3\n{cell},2,4\n1,2,3\n", encoding="utf-8")
    assert "line 3, column 'a': expected a finite number" in one_line("train data.csv")


@pytest.mark.parametrize("spelling", ["nan", "inf", "-Infinity"])
def test_a_target_of_nothing_but_nan_is_no_class(spelling):
    write(cycled(spelling, "nan"))
    assert "line 2, column 'label': expected a finite number" in one_line("train data.csv")


BIG = {
    "beyond 2^53": [2**53, 2**53 + 1, 2**53 + 2],
    "int64": [-(2**63), 2**63 - 1, 2**63 - 2],
    "uint64": [2**64 - 1, 2**64 - 2, 2**63],
    "longer": [10**30, 10**30 + 1, -(10**30)],
}


@pytest.mark.parametrize("case", BIG)
def test_integers_are_told_apart(case):
    labels = BIG[case]
    write(cycled(*labels))
    data = datasets.load("data.csv")
    indices, found = data.classes()
    assert sorted(map(int, found)) == sorted(labels)
    assert [int(found[k]) for k in indices] == cycled(*labels)
    _, history = trained("data.csv --epochs 1 --batch-size full")
    assert sorted(map(int, history["config"]["labels"])) == sorted(labels)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_of_arrays_are_told_apart(dtype):
    labels = [int(np.iinfo(dtype).max) - k for k in range(3)]
    np.savez("a.npz", X=X, y=np.array(cycled(*labels), dtype))
    np.save("X.npy", X)
    np.save("y.npy", np.array(cycled(*labels), dtype))
    for line in ("a.npz", "X.npy --target y.npy"):
        assert trained(f"{line} --epochs 1 --batch-size full")[1]["config"]["labels"] == sorted(labels)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_floats_that_do_not_tell_integers_apart_are_no_classes(dtype):
    exact = 2 ** (np.finfo(dtype).nmant + 1)
    t = np.array(cycled(exact, exact + 2), dtype)
    np.savez("a.npz", X=X, y=t)
    assert datasets.load("a.npz").kind == "values"
    assert "is no class label" in one_line("train a.npz --task classification")


Y, INTEGERS = [f"{x:.3f}" for x in X @ [1, 2, 3]], RANDOM.integers(0, 9, (N, 3))
SPECIES = cycled("cat", "dog")
ONE = X[:, :1]
YEARS = np.sort(RANDOM.integers(1900, 2000, (N, 3)), axis=1) + np.arange(3)
# header: (labels, features, whether line 1 is a header; None: asks)
HEADERS = {
    "0,1,2,3": (Y, X, True),
    "0,1,2,species": (SPECIES, X, True),
    "0,1,2,3 ": (cycled(1, 2, 0), INTEGERS, True),
    "0,1": (Y, ONE, True),
    "0,species": (SPECIES, ONE, True),
    "1,0 ": (cycled(1, 0), INTEGERS[:, :1], False),
    "0,1 ": (cycled(1, 0), INTEGERS[:, :1], None),
    "0,cat": (SPECIES, INTEGERS[:, :1], False),
    "3,5,7,cat": (SPECIES, INTEGERS, False),
    "1990,1991,1992,1993": (Y, X, None),
    "1990,1991,1992,species": (SPECIES, X, None),
    "1990,species": (SPECIES, ONE, None),
    "1990,1991,1992,price": (Y, X, True),
    "0.5,1.5,2.5,price": (Y, X, True),
    "a,1,2,price": (SPECIES, X, True),
    "1930,1940,1950,1960": ((1 + YEARS[:, 2]).tolist(), YEARS, False),
    "5,3,7,1": (cycled(2, 3, 1), INTEGERS, False),
    "5,5,7,1": (Y, X, False),
    "0.1,0.2,0.3,0.4": (Y, X, False),
    "0.1,0.2,0.3,cat": (SPECIES, X, False),
    "0.1,0.2,0.3,1_1": (cycled("1_1", "11"), X, "error"),
    "0.1,0.2,,cat": (SPECIES, X, "error"),
    "0.1,abc,0.3,0.4": (Y, X, "error"),
    "0.1,0.2,0.3,": (Y, X, "error"),
    "0.1,0.2,0.3,nan": (Y, X, "error"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_header(header):
    labels, features, expected = HEADERS[header]
    write(labels, header.rstrip(), features)
    names = header.rstrip().split(",")
    if expected is None:
        assert "--header: line 1 of data.csv" in one_line("train data.csv")
    elif expected == "error":
        assert "line 1, column" in one_line("train data.csv")
    else:
        data = datasets.load("data.csv")
        assert len(data.t) == N + (not expected)
        assert data.names == (tuple(names[:-1]) if expected else None)
        assert ("none" in data.notes["header"]) == (not expected)
    if expected != "error":
        assert len(datasets.load("data.csv", header=True).t) == N
        if cells.number(names[-1]) is not None or names[-1] in labels:
            assert len(datasets.load("data.csv", header=False).t) == N + 1


def test_the_table_says_what_line_1_is():
    write(Y, "0,1,2,3")
    assert "line 1, '0,1,2,3'" in run("train data.csv --epochs 1")[1]
    out = run("train data.csv --epochs 1 --no-header")[1]
    assert "none: line 1 is a sample" in out and "33 training and 8 test" in out
    out = run("compare data.csv --epochs 1 --no-header --optimizer momentum --batch-size full")[1]
    assert "header: none: line 1 is a sample" in out and "target: numbers: not all are integers" in out


@pytest.mark.parametrize("line", ["", "a.npz", "X.npy --target y.npy"])
def test_only_a_csv_has_a_header(line):
    for option in ("--header", "--no-header"):
        assert "--header: " in one_line(f"train {line} {option}")


NAMED = [
    ("a,b,c,y", "y", 3),
    ("a,b,c,y", "1", 1),
    ("a,y,c,y", "y", "2 columns of data.csv are named 'y'"),
    ("a,y,c,y", "-1", 3),
    ("a,a,c,y", None, 3),
    ("0,1,2,3", "2", 2),
    ("x,y,3,2", "3", "'3' is the name of column 2 and the index of column 3"),
    ("x,y,3,-2", "-2", "'-2' is the name of column 3 and the index of column 2"),
    ("x,y,z,2014", "2014", 3),
    ("a,b,c,y", "1_0", "no column '1_0'"),
    ("a,b,c,y", "\N{ARABIC-INDIC DIGIT ONE}", "no column"),
    ("a,b,c,y", "4", "no column '4'"),
]


@pytest.mark.parametrize(("header", "target", "expected"), NAMED)
def test_target_by_name_or_index(header, target, expected):
    write(Y, header)
    if isinstance(expected, int):
        found = datasets.load("data.csv", target).t
        np.testing.assert_array_equal(found, np.column_stack([X, np.float64(Y)])[:, expected])
    else:
        with pytest.raises(DataError, match=f"^--target: .*{expected}"):
            datasets.load("data.csv", target)


def test_columns_of_one_name_are_told_apart_by_their_index():
    Path("data.csv").write_text("a,a,y\n1,2,3\n4,x,6\n")
    assert "column 'a' (index 1): expected a finite number" in one_line("train data.csv")


def test_arrays_of_one_name():
    import zipfile

    np.savez("a.npz", X=X, y=X[:, 0])
    with zipfile.ZipFile("a.npz", "a") as archive:
        archive.writestr("y", b"another")
    assert "expected one X and one y in a.npz" in one_line("train a.npz")


ROWS = np.arange(N)
INDEX = {
    "counted": (",a,b,c,y", [ROWS], 1),
    "counted from 1": (",a,b,c,y", [ROWS + 1], 1),
    "shuffled": (",a,b,c,y", [RANDOM.permutation(N)], 1),
    "filtered": (",a,b,c,y", [np.sort(RANDOM.choice(10**6, N, replace=False))], 1),
    "read and written again": ("Unnamed: 0,a,b,c,y", [ROWS], 1),
    "twice": (",Unnamed: 0,a,b,c,y", [ROWS, ROWS[::-1]], 2),
    "thrice": ("Unnamed: 0.1,Unnamed: 0,a,b,c,y", [ROWS, ROWS[::-1]], 2),
    "numbered features": (",0,1,2,3", [ROWS], 1),
    "repeated": (",a,b,c,y", [ROWS // 2], 0),
    "not whole": (",a,b,c,y", [ROWS + 0.5], 0),
    "named": ("id,a,b,c,y", [ROWS], 0),
}


@pytest.mark.parametrize("case", INDEX)
def test_an_unnamed_first_column_that_numbers_rows_is_no_feature(case):
    header, columns, left_out = INDEX[case]
    features = np.column_stack([*columns, X]).astype(object)
    features[:, : len(columns)] = np.column_stack(columns)
    write(Y, header, features)
    data = datasets.load("data.csv")
    np.testing.assert_array_equal(data.X, features[:, left_out:].astype(float))
    assert data.names == tuple(header.split(",")[left_out:-1])
    code, out, err = run("train data.csv --epochs 1")
    assert code == 0 and ("unnamed first column" in err) == ("left out" in out) == bool(left_out)
    if case != "numbered features":
        Path("data.csv").write_text(Path("data.csv").read_text().split("\n", 1)[1])  # nothing has a name
        assert datasets.load("data.csv", header=False).X.shape == features.shape


def test_an_index_that_is_asked_for_is_the_target():
    write(Y, ",b,c,y")
    np.testing.assert_array_equal(datasets.load("data.csv", "0").t, X[:, 0])
    write(Y, ",b,c,y", np.column_stack([ROWS, ROWS, ROWS]))
    assert datasets.load("data.csv", "0").X.shape == (N, 3)
    write(cycled(1, 2), ",y", ROWS[:, None])
    assert datasets.load("data.csv", "0").X.shape == (N, 1)
    assert "no features beside" in one_line("train data.csv")


# target: what it is for, without --task
TASKS = {
    "age": (RANDOM.integers(18, 90, N).tolist(), "regression", "different integers in"),
    "classes": (cycled(1, 2, 3), "classification", "3 classes: 3 different integers"),
    "text": (SPECIES, "classification", "2 classes: text"),
    "fractions": (Y, "regression", "numbers: not all are integers"),
}


@pytest.mark.parametrize("model", ["", "--model mlp"])
@pytest.mark.parametrize("case", TASKS)
def test_task(case, model):
    labels, task, why = TASKS[case]
    write(labels)
    line = f"data.csv --epochs 1 --batch-size full {model}"
    assert trained(line)[1]["config"]["task"] == task
    assert why in " ".join(run(f"train {line}")[1].split())
    for asked in ("regression", "classification"):
        if (case, asked) in (("text", "regression"), ("fractions", "classification"), ("age", "classification")):
            assert "DATA: the target" in one_line(f"train {line} --task {asked}")
        else:
            assert trained(f"{line} --task {asked}")[1]["config"]["task"] == asked
            assert f": --task {asked}" in run(f"train {line} --task {asked}")[1]


@pytest.mark.parametrize("model", ["linear", "huber", "poisson", "logistic", "softmax"])
def test_task_that_the_model_does_not_have(model):
    write(cycled(1, 2))
    other = "classification" if model in ("linear", "huber", "poisson") else "regression"
    assert f"--model: {model} takes " in one_line(f"train data.csv --model {model} --task {other}")
    assert f"--model: {model} takes " in one_line(f"compare data.csv --model {model} --task {other}")
