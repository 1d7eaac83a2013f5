"""What a checkpoint cannot hold is refused, and the file that is there stays; nothing that a file says does harm."""

import copy
import json
import os
import random
import stat

import ml_dtypes
import numpy as np
import pytest

import gdgpu
from gdgpu import checkpoint
from gdgpu.core import files
from support.references import assert_same_bits

ONES = np.ones(3, "float32")
CASES = {
    "__metadata__": ({"__metadata__": ONES}, {}),
    "__metadata__ beside metadata": ({"__metadata__": ONES}, {"a": "b"}),
    "a key __metadata__": ({"a": ONES}, {"__metadata__": "b"}),
    "nothing": ({}, {}),
    "only text": ({}, {"a": "b"}),
    "no name": ({"": ONES}, {"": ""}),
    "NUL": ({"a\0b": ONES}, {"\0": "\0"}),
    "a surrogate in a name": ({"\ud800": ONES}, {}),
    "a surrogate in a key": ({"a": ONES}, {"\ud800": "b"}),
    "a surrogate in a value": ({"a": ONES}, {"k": "x\udfff"}),
    "quotes": ({'a"\\\n': ONES}, {'"\\': '\n"}'}),
    "a name that is no text": ({1: ONES}, {}),
    "text that is bytes": ({"a": ONES}, {"a": b"b"}),
    "a list": ({"a": [1, 2]}, {}),
    "a ragged list": ({"a": [[1], [1, 2]]}, {}),
    "a number": ({"a": 3.5}, {}),
    "a NumPy number": ({"a": np.float32(3)}, {}),
    "text": ({"a": "b"}, {}),
    "None": ({"a": None}, {}),
    "a dict": ({"a": {"b": ONES}}, {}),
    **{
        f"{kind} {order}": ({"a": np.arange(3).astype(np.dtype(kind).newbyteorder(order))}, {})
        for kind in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "g", "c8", "c16", "O", "S2", "U2", "M8[s]")
        for order in "<>"
    },
    **{
        kind: ({"a": np.ones(3, getattr(ml_dtypes, kind))}, {})
        for kind in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4")
    },
    "fields": ({"a": np.zeros(2, [("x", "f4")])}, {}),
    "nothing in it": ({"a": np.ones((0, 3), "f4"), "b": ONES}, {}),
    "nothing in its rows": ({"a": np.ones((3, 0), ">f4")}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_saved_exactly_or_refused_and_the_old_file_stays(tmp_path, case):
    path, (tensors, metadata) = tmp_path / "a.safetensors", CASES[case]
    checkpoint.save(path, {"old": ONES}, {"k": "v"})
    before = path.read_bytes()
    try:
        checkpoint.save(path, tensors, metadata)
    except (ValueError, TypeError) as error:
        assert str(error).startswith(("tensors: ", "metadata: ")) and "\n" not in str(error)
        assert path.read_bytes() == before
    else:
        found, said = checkpoint.load(path)
        assert said == metadata and found.keys() == tensors.keys()
        for name, array in found.items():
            expected = np.asarray(tensors[name])
            assert_same_bits(array, expected.astype(expected.dtype.newbyteorder("=")))
    assert os.listdir(tmp_path) == ["a.safetensors"]


USUAL = ("nothing", "only text", "NUL", "quotes", "f4 >", "u8 <", "bfloat16", "nothing in it")


@pytest.mark.parametrize("case", USUAL)
def test_what_must_not_be_refused(tmp_path, case):
    checkpoint.save(tmp_path / "a.safetensors", *CASES[case])


def another(tensors, metadata, which):
    if which == "name":
        return {"b": tensors["a"]}, metadata
    if which == "text":
        return tensors, {"k": "w"}
    return {"a": {"dtype": lambda a: a.astype("f8"), "shape": lambda a: a[:2]}[which](tensors["a"])}, metadata


@pytest.mark.parametrize("which", ("name", "text", "dtype", "shape", "cut", "nothing"))
def test_a_file_that_reads_back_otherwise_replaces_nothing(tmp_path, monkeypatch, which):
    from safetensors import numpy as safetensors

    path, write = tmp_path / "a.safetensors", safetensors.save
    checkpoint.save(path, {"old": ONES})
    before = path.read_bytes()

    def wrong(tensors, metadata):
        if which in ("cut", "nothing"):
            return write(tensors, metadata)[:-1] if which == "cut" else b""
        return write(*another(tensors, metadata, which))

    monkeypatch.setattr(safetensors, "save", wrong)
    with pytest.raises(ValueError, match=r"\A(tensors|metadata): safetensors [^\n]*\Z"):
        checkpoint.save(path, {"a": ONES}, {"k": "v"})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="modes and owners are POSIX")
@pytest.mark.parametrize("mode", (0o600, 0o640, 0o664, 0o444, 0o755, None))
@pytest.mark.parametrize("umask", (0o022, 0o077, 0))
def test_the_mode_stays(tmp_path, mode, umask):
    path, seen = tmp_path / "a.json", []
    before = os.umask(umask)
    try:
        if mode is not None:
            path.touch()
            path.chmod(mode)
        with files.replacing(path) as file:
            seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))
    finally:
        os.umask(before)
    made = 0o666 & ~umask if mode is None else mode
    assert stat.S_IMODE(path.stat().st_mode) == made
    assert not seen[0] & ~made  # nor while it is written


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_owner_and_group_stay(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"a": ONES})
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    checkpoint.save(path, {"a": ONES})
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o640)


def test_who_may_not_give_files_away_keeps_the_mode(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    path, status = tmp_path / "a.json", os.stat
    path.touch()
    path.chmod(0o600)
    monkeypatch.setattr(os, "chown", refuse, raising=False)
    monkeypatch.setattr(files, "_status", lambda path: os.stat_result((0o100600, 0, 0, 1, 12345, 12345, *[0] * 4)))
    files.write_json(path, 1)
    assert path.read_text() == "1\n" and (os.name == "nt" or stat.S_IMODE(status(path).st_mode) == 0o600)


CLASHES = {
    "a number and its text": lambda a, b: {0: a, "0": b},
    "None and its text": lambda a, b: {None: a, "None": b},
    "in a group": lambda a, b: [{"params": {1: a, "1": b}}, {"params": [ONES.copy()]}],
}


@pytest.mark.parametrize("case", CLASHES)
def test_tensors_of_one_name_are_refused(tmp_path, case):
    optimizer = gdgpu.SGD(CLASHES[case](ONES.copy(), ONES.copy()), lr=0.1)
    with pytest.raises(ValueError, match=r"\Aparams: [^\n]*'params/[^\n]*\Z"):
        checkpoint.save_optimizer(tmp_path / "a.safetensors", optimizer)
    assert os.listdir(tmp_path) == []


def test_text_under_a_key_of_the_optimizers_own_is_refused(tmp_path):
    optimizer = gdgpu.SGD(ONES.copy(), lr=0.1)
    for key in checkpoint.packed(optimizer)[1]:
        with pytest.raises(ValueError, match=rf"\Ametadata: '{key}'[^\n]*\Z"):
            checkpoint.save_optimizer(tmp_path / "a.safetensors", optimizer, {key: "mine"})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", (np.int32, np.uint64, np.array, np.float32))
def test_numbers_of_numpy_stay_what_they_are(kind):
    number = json.loads(json.dumps({"n": kind(3)}, default=checkpoint._plain))["n"]
    assert number == 3 and type(number) is (float if kind is np.float32 else int)


def adam(seed=0):
    optimizer = gdgpu.Adam({"a": np.full(2, 1 + seed, "f4"), "b": np.full(3, 2.0 + seed)}, 0.1)
    optimizer.step({"a": np.ones(2, "f4"), "b": np.ones(3)})
    return optimizer


JSON = (
    "null", "true", "false", "0", "-1", "1.5", "3.0", "1e400", "NaN", "Infinity", "-Infinity", str(2**63),
    str(-(2**63)), "1" * 400, "1" * 5000, '""', '"3"', "[]", "[1]", "{}", '{"a": 1}', "[[[]]]",
    "[" * 100_000, '{"a":' * 100_000, "", "{", "\ud800", "[1e999]", '[{"lr": NaN}]',
)  # fmt: skip


def state_of(optimizer):
    return repr((optimizer.state_dict(), optimizer.params, optimizer.lr))


@pytest.mark.parametrize("key", ("steps", "hyper", "carried", "seed", "optimizer"))
def test_any_other_json_is_a_value_error(key):
    tensors, metadata = checkpoint.packed(adam())
    then = adam(1)
    before = state_of(then)
    for text in JSON:
        if (key, text) == ("steps", "0") or (key == "seed" and text.isdecimal()):  # which may be right
            continue
        with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
            checkpoint.unpack(then, tensors, metadata | {key: text})
        assert type(caught.value) is ValueError and len(str(caught.value)) < 1000
        assert state_of(then) == before
    checkpoint.unpack(then, tensors, metadata)


def test_an_integer_that_no_float_holds():
    tensors, metadata = checkpoint.packed(adam())
    then = adam(1)
    before = state_of(then)
    carried = {key: [[10**400] * len(row) for row in rows] for key, rows in json.loads(metadata["carried"]).items()}
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z"):
        checkpoint.unpack(then, tensors, metadata | {"carried": json.dumps(carried)})
    assert state_of(then) == before


def damaged(rng, value):
    """The JSON value with one part of it, anywhere, another."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        changed = copy.copy(value)
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        changed[key] = damaged(rng, value[key])
        return changed
    return rng.choice((None, True, -1, 0.5, 2, 10**400, "x", "0.5", [], {}, [1, "a"], {"a": []}, 1e308, -1e308, [[2]]))


def fuzz(seed):
    rng = random.Random(seed)
    tensors, metadata = checkpoint.packed(adam())
    then = adam(1)
    for _ in range(rng.randrange(1, 3)):
        key = rng.choice(("steps", "hyper", "carried"))
        metadata[key] = json.dumps(damaged(rng, json.loads(metadata[key])))
    before = state_of(then)
    try:
        checkpoint.unpack(then, tensors, metadata)
    except ValueError as error:
        assert "\n" not in str(error), seed
        assert state_of(then) == before, seed
    except Exception as error:
        raise AssertionError(f"seed {seed}: {metadata}") from error


def test_damaged_text_is_refused_or_harmless():
    for seed in range(60):
        fuzz(seed)


@pytest.mark.full
def test_more_damaged_text_is_refused_or_harmless():
    for seed in range(60, 3000):
        fuzz(seed)
