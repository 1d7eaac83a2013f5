"""Files read by gdgpu against the arrays that were written to them by other means; splits and scaling."""

import gzip
import struct

import numpy as np
import pytest

from gdgpu import datasets
from gdgpu.datasets import Dataset

X = np.array([[1.5, -2.0], [0.25, 4.0], [1e-3, 7.0], [2.0, 8.0]])

CSV = {
    "header": ("a,b,y\n1.5,-2,0\n0.25,4,1\n0.001,7,1\n2,8,0\n", None, [0, 1, 1, 0], ("a", "b")),
    "no header": ("1.5,-2,0\n0.25,4,1\n1e-3,7,1\n2,8,0", None, [0, 1, 1, 0], None),
    "target by name": ("a,y,b\n1.5,3,-2\n0.25,4,4\n1e-3,5.5,7\n2,6,8\n", "y", [3, 4, 5.5, 6], ("a", "b")),
    "target by index": ("3,1.5,-2\n4,0.25,4\n5.5,1e-3,7\n6,2,8\n", "0", [3, 4, 5.5, 6], None),
    "index from the end": ("1.5,3,-2\n0.25,4,4\n1e-3,5.5,7\n2,6,8\n", "-2", [3, 4, 5.5, 6], None),
    "numbers as names": ("0,1,y\n1.5,-2,0\n0.25,4,1\n1e-3,7,1\n2,8,0\n", None, [0, 1, 1, 0], ("0", "1")),
    "text classes": (
        "1.5,-2,cat\n0.25,4,dog\n1e-3,7,dog\n2,8,cat\n",
        None,
        ["cat", "dog", "dog", "cat"],
        None,
    ),
    "quotes, spaces, blank lines, byte order mark": (
        '\ufeff"a, long", b ,y\r\n"1.5", -2,0\r\n\r\n0.25,4 ,1\r\n1e-3,7,1\r\n2,8,0\r\n\r\n',
        None,
        [0, 1, 1, 0],
        ("a, long", "b"),
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("case", CSV)
def test_csv(tmp_path, case, packed):
    text, target, t, names = CSV[case]
    path = tmp_path / ("table.csv.gz" if packed else "table.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    data = datasets.load(path, target)
    np.testing.assert_array_equal(data.X, X)
    assert data.t.tolist() == t
    assert data.names == names


def test_a_csv_of_many_blocks(tmp_path):
    table = np.arange(30000.0).reshape(10000, 3)
    path = tmp_path / "long.csv"
    path.write_text("".join(f"{a},{b},{c}\n" for a, b, c in table))
    data = datasets.load(path)
    np.testing.assert_array_equal(data.X, table[:, :2])
    np.testing.assert_array_equal(data.t, table[:, 2])


@pytest.mark.parametrize("names", [("X", "y"), ("X", "t"), ("X", "price")], ids="-".join)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int16", "bool"])
def test_npz(tmp_path, names, dtype):
    features, t = X.astype(dtype), np.array([1, 2, 1, 2])
    np.savez(tmp_path / "a.npz", **dict(zip(names, (features, t), strict=True)), other=np.zeros(7))
    data = datasets.load(tmp_path / "a.npz", names[1] if names[1] == "price" else None)
    np.testing.assert_array_equal(data.X, features)
    np.testing.assert_array_equal(data.t, t)


def test_images_are_flattened_and_a_column_of_targets_is_a_vector(tmp_path):
    images = np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "a.npz", X=images, y=np.array([[1], [2]]))
    data = datasets.load(tmp_path / "a.npz")
    assert data.X.tolist() == [list(map(float, range(12))), list(map(float, range(12, 24)))]
    assert data.t.tolist() == [1, 2]


def test_npy_is_memory_mapped(tmp_path):
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.array([0, 1, 1, 0]))
    data = datasets.load(str(tmp_path / "X.npy"), str(tmp_path / "y.npy"))
    base = data.X
    while not isinstance(base, np.memmap):
        base = base.base
    np.testing.assert_array_equal(data.X, X)
    assert data.t.tolist() == [0, 1, 1, 0]


IDX = [(0x08, "B"), (0x09, "b"), (0x0B, "h"), (0x0C, "i"), (0x0D, "f"), (0x0E, "d")]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("code", "letter"), IDX, ids=[letter for _, letter in IDX])
def test_idx(tmp_path, code, letter, packed):
    pixels = [[0, 51, 102, 127], [1, 2, 3, 5], [7, 11, 13, 17]]
    body = struct.pack(f">{12}{letter}", *np.ravel(pixels).tolist())
    images = struct.pack(">BBBB3i", 0, 0, code, 3, 3, 2, 2) + body
    labels = struct.pack(">BBBBi3B", 0, 0, 8, 1, 3, 4, 9, 4)
    for name, content in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    data = datasets.load(tmp_path / "images-idx3-ubyte", tmp_path / "labels-idx1-ubyte")
    scale = 255 if letter == "B" else 1
    np.testing.assert_allclose(data.X, np.array(pixels) / scale, rtol=1e-7)
    assert data.t.tolist() == [4, 9, 4]


def test_digits_are_those_of_scikit_learn():
    reference = pytest.importorskip("sklearn.datasets", reason="has the same data").load_digits()
    data = datasets.digits()
    np.testing.assert_array_equal(data.X, reference.data)
    np.testing.assert_array_equal(data.t, reference.target)


KINDS = [
    ([0, 1, 0, 1], "classes"),
    ([3.0, 7.0, 3.0], "classes"),
    ([True, False, True], "classes"),
    (["b", "a", "c"], "classes"),
    ([0.5, 1.0, 0.5, 1.0], "values"),
    ([1, 2, 3, 4], "values"),
    (list(range(21)) * 3, "values"),
    (list(range(20)) * 3, "classes"),
    ([2.0**53, 2.0**53 + 2] * 3, "values"),
    ([2**53, 2**53 + 1] * 3, "classes"),
    ([[1, 0], [0, 1], [1, 0], [0, 1]], "values"),
]


@pytest.mark.parametrize(("t", "kind"), KINDS, ids=[f"{str(t)[:20]}" for t, _ in KINDS])
def test_kind_of_target(t, kind):
    assert Dataset(np.zeros((len(t), 1)), np.array(t)).kind == kind


@pytest.mark.parametrize("labels", [[10, 30, 20, 30, 10, 20], ["b", "c", "a", "c", "b", "a"]], ids=["int", "text"])
def test_labels_become_indices_in_their_order(labels):
    indices, names = Dataset(np.zeros((6, 1)), np.array(labels)).classes()
    assert names == sorted(set(labels))
    assert [names[k] for k in indices] == labels


@pytest.mark.parametrize(("fraction", "n_test"), [(0.2, 20), (0.25, 25), (0.001, 1), (0, 0)])
def test_split_gives_each_sample_to_one_side(fraction, n_test):
    ids = np.arange(100.0)
    parts = datasets.split(ids[:, None], ids, fraction, seed=3, standardize=False)
    assert len(parts.X_test) == n_test
    assert sorted([*parts.t, *parts.t_test]) == ids.tolist()
    np.testing.assert_array_equal(parts.X[:, 0], parts.t)
    np.testing.assert_array_equal(parts.X_test[:, 0], parts.t_test)


def test_split_depends_on_the_seed_alone():
    ids = np.arange(100.0)
    tests = [datasets.split(ids[:, None], ids, 0.2, seed).t_test.tolist() for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


@pytest.mark.parametrize("shape", [(50, 7), (800_000, 3)], ids=["one block", "many blocks"])
def test_standardised_by_the_training_samples(shape):
    random = np.random.default_rng(5)
    X = random.normal(1e6, 3, shape)
    X[:, 1] = 0.1  # its mean, rounded, may differ from 0.1
    parts = datasets.split(X, X[:, 0], 0.3, seed=1)
    train = X[np.isin(X[:, 0], parts.t)]
    mean, scale = train.mean(0), train.std(0)
    mean[1], scale[1] = 0.1, 1
    np.testing.assert_allclose(parts.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(parts.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(parts.X, (train - mean) / scale, atol=1e-6)
    test = X[np.isin(X[:, 0], parts.t_test)]
    np.testing.assert_allclose(parts.X_test, (test - mean) / scale, atol=1e-6)
    assert (parts.X[:, 1] == 0).all() and parts.X.dtype == np.float32


def test_a_feature_that_no_float32_holds_once_standardised_is_named():
    X = 1e-150 * np.random.default_rng(0).normal(size=(50, 2))
    outlier = datasets.split(np.arange(50.0)[:, None], np.arange(50)).t_test[3]
    X[outlier, 1] = 3e38
    with pytest.raises(datasets.DataError, match=f"^DATA: the feature in row {outlier}, column 1, is infinite"):
        datasets.split(X, X[:, 0])
    datasets.split(X, X[:, 0], standardize=False)


@pytest.mark.parametrize("change", ["X", "t", "shape", "dtype"])
def test_fingerprint_tells_data_apart(change):
    a = np.arange(6.0).reshape(2, 3)
    t = np.array([0.0, 1.0])
    b, u = a.copy(), t.copy()
    if change == "X":
        b[1, 2] = np.nextafter(b[1, 2], 9)
    elif change == "t":
        u[0] = 2
    elif change == "shape":
        b = b.reshape(3, 2)
    else:
        b = b.astype("float32")
    prints = {Dataset(a, t).fingerprint(), Dataset(a.copy(), t).fingerprint(), Dataset(b, u).fingerprint()}
    assert len(prints) == 2
