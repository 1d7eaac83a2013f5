"""Checkpoints: what is saved is loaded, and a failure or a kill leaves the old file or the new one."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gdgpu
from gdgpu import checkpoint
from gdgpu.core import files
from support.covering import usual
from support.optimizers import OPTIMIZERS, arguments_of, class_of, deciding, make
from support.references import assert_same_bits, samples

OLD = {"w": np.arange(3.0)}


class OnDevice:
    """What save needs of a CuPy array."""

    def __init__(self, array):
        self.array = array

    def get(self):
        return self.array


TENSORS = {
    "float32": np.arange(6, dtype="float32").reshape(2, 3),
    "float64": np.array([np.nan, np.inf, -0.0, 5e-324]),
    "float16": np.array([1.5], "float16"),
    "int64": np.array([2**62, -1]),
    "bool": np.array([True, False]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), "float32"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10.0)[::3],
    "big-endian": np.arange(3, dtype=">f8"),
    "device": OnDevice(np.arange(4.0)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_loads_what_was_saved(tmp_path, name):
    metadata = {"step": "12", "text": 'ü\n{"a": 1}'}
    checkpoint.save(tmp_path / "a.safetensors", {name: TENSORS[name]}, metadata)
    tensors, text = checkpoint.load(tmp_path / "a.safetensors")
    expected = TENSORS[name].get() if name == "device" else TENSORS[name]
    assert text == metadata and tensors.keys() == {name}
    np.testing.assert_array_equal(tensors[name], expected)
    assert tensors[name].shape == expected.shape and tensors[name].dtype == expected.dtype.newbyteorder("=")


def test_other_programs_can_read_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="torch reads safetensors too")
    checkpoint.save(tmp_path / "a.safetensors", {"w": np.arange(6, dtype="float32").reshape(2, 3)})
    assert safetensors.load_file(tmp_path / "a.safetensors")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_loaded_arrays_outlive_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, OLD)
    tensors, _ = checkpoint.load(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    tensors["w"] += 1
    assert tensors["w"].tolist() == [1, 2, 3]


BROKEN = {
    "empty": lambda whole: b"",
    "truncated header": lambda whole: whole[:20],
    "truncated data": lambda whole: whole[:-1],
    "longer": lambda whole: whole + b"\0",
    "foreign": lambda whole: b"\x89PNG\r\n" + whole,
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(tmp_path, case):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, OLD)
    path.write_bytes(BROKEN[case](path.read_bytes()))
    with pytest.raises(ValueError, match=r"\Apath: .*a\.safetensors.*\Z"):
        checkpoint.load(path)


def test_metadata_is_text(tmp_path):
    with pytest.raises(TypeError, match=r"\Ametadata: .*int.*\Z"):
        checkpoint.save(tmp_path / "a.safetensors", OLD, {"step": 3})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch, call, error):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, OLD)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        if call == "open":
            patch.setattr(files, "open", fail, raising=False)
        else:
            patch.setattr(os, call, fail)
        with pytest.raises(type(error)) as caught:
            checkpoint.save(path, {"w": np.zeros(99)})
    if isinstance(error, OSError):
        assert caught.value.filename == str(path) and "No space left" in caught.value.strerror
    assert os.listdir(tmp_path) == ["a.safetensors"]
    np.testing.assert_array_equal(checkpoint.load(path)[0]["w"], OLD["w"])


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_is_full(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, OLD)
    script = (
        "import resource, signal, sys, numpy; from gdgpu import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: checkpoint.save(sys.argv[1], {'w': numpy.zeros(99999)})\n"
        "except OSError as error: print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60)
    assert "File too large" in shown.stdout and str(path) in shown.stdout, shown
    assert os.listdir(tmp_path) == ["a.safetensors"]
    np.testing.assert_array_equal(checkpoint.load(path)[0]["w"], OLD["w"])


@pytest.mark.skipif(sys.platform == "win32", reason="links and devices are POSIX")
def test_links_are_followed_and_devices_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.safetensors")
    checkpoint.save(tmp_path / "link", OLD)
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "real") == ["a.safetensors"]
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match=r"\Apath: expected a file.*\Z"):
            checkpoint.save(path, OLD)


WRITER = """
import itertools, sys, numpy
from gdgpu import checkpoint
for step in itertools.count(int(sys.argv[2])):
    checkpoint.save(sys.argv[1], {"w": numpy.full(200_000, step)}, {"step": str(step)})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_at_any_moment(tmp_path):
    path, last = tmp_path / "a.safetensors", 0
    for moment in random.Random(7).choices(range(60), k=12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path, str(last + 1)])
        try:
            written = path.stat().st_mtime_ns if path.exists() else None
            deadline = time.monotonic() + 30
            while not (path.exists() and path.stat().st_mtime_ns != written):
                assert writer.poll() is None and time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(moment / 1000)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        tensors, metadata = checkpoint.load(path)
        assert (tensors["w"] == int(metadata["step"])).all() and int(metadata["step"]) > last
        last = int(metadata["step"])


NOT_FINITE = {"loss": float("nan"), "more": [1.5, float("inf"), {"x": float("-inf")}], "n": None, "b": True}


def test_json_has_null_for_what_is_not_finite(tmp_path):
    import json

    def refuse(constant):
        raise AssertionError(constant)

    files.write_json(tmp_path / "a.json", NOT_FINITE)
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"loss": None, "more": [1.5, None, {"x": None}], "n": None, "b": True}


def arrays(seed):
    return {
        "a": samples((6, 5), "float32", seed),
        "b": samples((40,), "bfloat16", seed),
        "c": samples((1,), "float64", seed).reshape(()),
        "d": samples((0, 2), "float16", seed),
    }


STRUCTURES = {
    "array": lambda w: w["a"],
    "list": lambda w: list(w.values()),
    "dict": lambda w: w,
    "groups": lambda w: [{"params": [w["a"], w["b"]], "lr": 0.03}, {"params": {"c": w["c"]}}],
}


def gradients(structure, seed):
    tree = STRUCTURES[structure](arrays(seed))
    return [group["params"] for group in tree] if structure == "groups" else tree


EVERY_LAYOUT = [(label, structure) for label in OPTIMIZERS for structure in STRUCTURES]
# Every optimizer over the array, which is in float32; two of them over the structures, which have every dtype.
SOME_LAYOUTS = [(label, x) for label, x in EVERY_LAYOUT if x == "array" or label in ("Adam", "SGD-dampening")]


@pytest.mark.parametrize(("label", "structure"), usual(EVERY_LAYOUT, SOME_LAYOUTS))
def test_an_optimizer_goes_on_with_the_bits_it_would_have_had(tmp_path, label, structure):
    one, two = arrays(0), arrays(1)
    hyper = {"betas": (np.float32(0.5), 0.75)} if label == "Adam-amsgrad" else {}  # a number that JSON does not know
    straight = make(label, STRUCTURES[structure](one), lr=0.01, **hyper)
    for step in range(3):
        straight.step(gradients(structure, 2 + step))
    checkpoint.save_optimizer(tmp_path / "a.safetensors", straight, {"note": "three"})
    # with others, which loading replaces; only what decides which state there is must be the same
    resumed = class_of(label)(STRUCTURES[structure](two), lr=0.5, **deciding(arguments_of(label)))
    assert checkpoint.load_optimizer(tmp_path / "a.safetensors", resumed)["note"] == "three"
    assert resumed.steps == 3 and resumed.groups[-1].lr == 0.01
    for step in range(3):
        straight.step(gradients(structure, 5 + step))
        resumed.step(gradients(structure, 5 + step))
    for key in ("a",) if structure == "array" else ("a", "b", "c") if structure == "groups" else one:
        assert_same_bits(two[key], one[key])


COMMON = {
    "master and average": {"master": True, "ema": 0.5},
    "bfloat16 state": {"state_dtype": "bfloat16"},
    "8-bit state": {"state_dtype": "uint8"},
    "stochastic rounding": {"rounding": "stochastic", "seed": 3},
}


@pytest.mark.parametrize("case", COMMON)
def test_whatever_is_kept_beside_the_parameters(tmp_path, case):
    one, two = (samples((600,), "bfloat16", seed) for seed in (0, 1))
    straight, resumed = (gdgpu.AdamW(w, 0.01, **COMMON[case]) for w in (one, two))
    for step in range(6):
        if step == 3:
            checkpoint.save_optimizer(tmp_path / "a.safetensors", straight)
            checkpoint.load_optimizer(tmp_path / "a.safetensors", resumed)
        for optimizer in (straight, resumed):
            optimizer.step(samples((600,), "bfloat16", 2 + step))
    assert_same_bits(two, one)
    for name, array in straight.state_dict()["state"].items():
        assert_same_bits(resumed.state_dict()["state"][name], array)


@pytest.mark.parametrize("kind", ("bfloat16", "float16", "float32"))
def test_torch_tensors_of_any_dtype(tmp_path, kind):
    torch = pytest.importorskip("torch", reason="its tensors are the parameters")
    w = torch.linspace(-3, 3, 7).to(getattr(torch, kind))
    other = torch.zeros_like(w)
    checkpoint.save_optimizer(tmp_path / "a.safetensors", gdgpu.Momentum([w], 0.1))
    checkpoint.load_optimizer(tmp_path / "a.safetensors", gdgpu.Momentum([other], 0.1))
    assert torch.equal(w, other)
    assert checkpoint.load(tmp_path / "a.safetensors")[0]["params/0"].dtype.name == kind


def test_a_schedule_stays(tmp_path):
    first, then = gdgpu.SGD(np.ones(3), 0.25), gdgpu.SGD(np.zeros(3), lambda steps: 1.0)
    checkpoint.save_optimizer(tmp_path / "a.safetensors", first)
    checkpoint.load_optimizer(tmp_path / "a.safetensors", then)
    assert callable(then.lr) and (then.params == 1).all()


def without(part, key):
    def change(tensors, metadata):
        del (tensors if part == "tensors" else metadata)[key]

    return change


def having(part, key, value):
    def change(tensors, metadata):
        (tensors if part == "tensors" else metadata)[key] = value

    return change


REFUSED = {
    "no optimizer": (without("text", "optimizer"), r"optimizer: expected a checkpoint of adam, got one of none"),
    "another optimizer": (
        having("text", "optimizer", "adamw"),
        r"optimizer: expected a checkpoint of adam, got .*adamw",
    ),
    "no parameter": (without("tensors", "params/b"), r"optimizer: the checkpoint has no params/b"),
    "no state": (without("tensors", "state/exp_avg/a"), r"optimizer: the checkpoint has no state/exp_avg/a"),
    "no steps": (without("text", "steps"), r"optimizer: the checkpoint has no steps"),
    "no carried": (without("text", "carried"), r"state_dict\['carried'\]: expected"),
    "no text": (having("text", "hyper", "{"), r"optimizer: the checkpoint has text that is not JSON"),
    "hyper": (having("text", "hyper", '{"lr": 1.0}'), r"state_dict\['hyper'\]: expected .*betas"),
    "steps": (having("text", "steps", "-1"), r"state_dict\['steps'\]: expected an int >= 0, got -1"),
    "shape": (having("tensors", "params/b", np.ones(4)), r"params\['b'\]: expected float64 \(3,\), got float64 \(4,\)"),
    "dtype": (having("tensors", "params/b", np.ones(3, "f4")), r"params\['b'\]: expected float64 \(3,\), got float32"),
    "state's shape": (having("tensors", "state/exp_avg/b", np.ones(4)), r"state_dict\['state'\]\['exp_avg'\]\['b'\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_optimizer_that_is_refused(tmp_path, case):
    path, (change, says) = tmp_path / "a.safetensors", REFUSED[case]
    first, then = (gdgpu.Adam({"a": np.full(2, x, "f4"), "b": np.full(3, x)}, 0.1) for x in (1.0, 2.0))
    first.step({"a": np.ones(2, "f4"), "b": np.ones(3)})
    tensors, metadata = checkpoint.packed(first)
    change(tensors, metadata)
    checkpoint.save(path, tensors, metadata)
    before = repr((then.state_dict(), then.params, then.lr))
    with pytest.raises(ValueError, match=rf"\A{says}[^\n]*\Z"):
        checkpoint.load_optimizer(path, then)
    assert repr((then.state_dict(), then.params, then.lr)) == before
