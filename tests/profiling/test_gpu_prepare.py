"""What a GPU check is prepared with: made once, found again, and what is missing or fails is named."""

import json
import os
import signal
import sys
from functools import partial

import cases
import gpu_prepare
import numpy as np
import pytest

import gdgpu
from gdgpu import devices
from gdgpu.kernels.backend import driver, generated, geometry

NEEDED = "gdgpu.kernels.backend.cuda", "gpu.dry", "gpu.variants", "gpu.work"
target, gpu_dry, gpu_variants, gpu_work = (
    pytest.importorskip(name, reason="needs numba-cuda: install gdgpu[test]") for name in NEEDED
)
pytestmark = pytest.mark.skipif(geometry.SIMULATED, reason="the simulator compiles nothing")

SPILLS = "Used 8 registers, 40 bytes stack frame, 48 bytes spill stores"


def step(make):
    arrays = gpu_dry.Addresses()
    make(arrays.normal(40), 0.1).bind(arrays.normal(40))()


WORK = {"bits/descent": partial(step, gdgpu.SGD), "row/momentum": partial(step, gdgpu.Momentum)}
ANSWERS = {
    "mean": (lambda: [np.arange(3.0)], ()),
    "sum": (lambda n: [gdgpu.reduce_samples(np.ones((n, 3), np.float32))], (4,)),
}


@pytest.fixture
def small(monkeypatch):
    """A check of two launches and two answers; returns the former, to be changed."""
    work = dict(WORK)
    monkeypatch.setattr(gpu_work, "everything", lambda sweep=True: work)
    monkeypatch.setattr(gpu_work.bits, "CASES", ANSWERS)
    monkeypatch.setattr(gpu_prepare, "sources", lambda: "as they are")
    return work


@pytest.fixture
def uncompiled(monkeypatch):
    """Nothing is compiled: some bytes stand for machine code."""
    monkeypatch.setattr(target.Kernel, "link", lambda *_: (gpu_dry.NOTHING, "Used 8 registers"))


def run(directory, capsys, *options):
    """(exit status, the last line of its output, standard error)."""
    capsys.readouterr()
    status = gpu_prepare.main([str(directory), "--jobs", "1", *options])
    said = capsys.readouterr()
    return status, json.loads(said.out.splitlines()[-1]), said.err


def test_all_is_there_and_a_second_run_makes_nothing(small, tmp_path, capsys):
    status, said, _ = run(tmp_path / "made", capsys)
    made = tmp_path / "made"
    kernels = sorted((made / "kernels").iterdir())
    assert status == 0 and said["compiled"] == said["kernels"] == 2 and said["complete"]
    assert [path.name.split("_float32")[0] for path in kernels] == ["update_gradient_descent", "update_momentum"]
    assert all(path.name.endswith(".sm_90.cubin") and path.read_bytes()[:4] == b"\x7fELF" for path in kernels)
    assert (made / "kernels").stat().st_mode & 0o777 == 0o700
    manifest = json.loads((made / "manifest.json").read_text())
    assert (manifest["architecture"], manifest["left_out"]) == ("9.0", {})
    assert manifest["bytes"] == sum(path.stat().st_size for path in (*kernels, made / "bits-cpu.npz"))
    with np.load(made / "bits-cpu.npz") as answers:
        assert sorted(answers) == ["device", "mean:0", "sum:0"] and answers["device"] == "cpu"
        assert answers["mean:0"].tobytes() == np.arange(3.0).tobytes()
    before = {path: path.stat().st_mtime_ns for path in (*kernels, made / "bits-cpu.npz")}
    status, said, _ = run(made, capsys)
    assert (status, said["compiled"], said["kernels"]) == (0, 0, 2)
    assert json.loads((made / "manifest.json").read_text()) == manifest  # and who made it stays named
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_verify_names_what_is_missing_and_writes_nothing(small, uncompiled, tmp_path, capsys, monkeypatch):
    run(tmp_path, capsys)
    files = sorted(tmp_path.rglob("*"))
    assert run(tmp_path, capsys, "--verify")[:2] == (0, {"kernels": 2, "missing": [], "whole": True})
    lost = next(tmp_path.glob("kernels/*momentum*"))
    content = lost.read_bytes()
    lost.unlink()
    status, said, _ = run(tmp_path, capsys, "--verify")
    assert (status, said["missing"]) == (1, [lost.name.partition(".")[0]])
    lost.write_bytes(content + b"!")  # as if it had been hurt on its way
    status, said, _ = run(tmp_path, capsys, "--verify")
    assert (status, said["missing"], said["whole"]) == (1, [lost.name.partition(".")[0]], False)
    lost.write_bytes(content)
    assert run(tmp_path, capsys, "--verify")[0] == 0
    more = lost.with_name("update_more_0123.sm_90.cubin")  # what was compiled there does no harm
    more.write_bytes(b"")
    assert run(tmp_path, capsys, "--verify")[0] == 0
    more.unlink()
    with monkeypatch.context() as edited:
        edited.setattr(gpu_prepare, "sources", lambda: "others")
        assert run(tmp_path, capsys, "--verify")[1]["whole"] is False
    assert sorted(tmp_path.rglob("*")) == files


def test_another_interpreter_finds_them_and_another_word_or_source_does_not(
    small, uncompiled, tmp_path, capsys, monkeypatch
):
    run(tmp_path, capsys)
    with monkeypatch.context() as other:
        other.setattr(sys, "version", "another interpreter")
        assert run(tmp_path, capsys, "--verify")[0] == 0
    monkeypatch.setattr(gpu_prepare, "WORD", "another")
    assert len(run(tmp_path, capsys, "--verify")[1]["missing"]) == 2


def test_answers_of_other_sources_are_made_again(small, uncompiled, tmp_path, capsys, monkeypatch):
    run(tmp_path, capsys)
    (tmp_path / "bits-cpu.npz").write_bytes(b"")
    monkeypatch.setattr(gpu_prepare, "sources", lambda: "others")
    run(tmp_path, capsys)
    assert (tmp_path / "bits-cpu.npz").stat().st_size


def test_what_nobody_asks_for_any_more_goes(small, uncompiled, tmp_path, capsys):
    run(tmp_path, capsys)
    stale = tmp_path / "kernels" / "update_momentum_float32_cuda_0123456789abcdef.sm_90.cubin"
    stale.write_bytes(b"")
    small["row/broken"] = lambda: 1 / 0
    run(tmp_path, capsys)
    assert stale.exists()  # it may belong to what failed
    del small["row/broken"]
    run(tmp_path, capsys)
    assert not stale.exists() and len(list(tmp_path.glob("kernels/*"))) == 2


@pytest.mark.parametrize("end", (lambda: 1 / 0, lambda: os._exit(9), lambda: None), ids=("raises", "dies", "idle"))
def test_what_fails_is_named_and_the_next_run_goes_on(end, small, uncompiled, tmp_path, capsys):
    small["row/last"] = end
    status, said, err = run(tmp_path, capsys)
    assert status == 1 and not said["complete"] and not json.loads((tmp_path / "manifest.json").read_text())["complete"]
    assert "profiling/gpu_prepare.py: row/last: " in err
    small["row/last"] = small["row/momentum"]
    answers = (tmp_path / "bits-cpu.npz").stat().st_mtime_ns
    made = len(list(tmp_path.glob("kernels/*.cubin")))
    status, said, _ = run(tmp_path, capsys)
    assert (status, said["compiled"]) == (0, 2 - made)
    assert (tmp_path / "bits-cpu.npz").stat().st_mtime_ns == answers


def test_an_interrupted_run_goes_on_from_there(small, uncompiled, tmp_path, capsys):
    small["row/last"] = lambda: os.kill(os.getppid(), signal.SIGINT)
    assert gpu_prepare.main([str(tmp_path), "--jobs", "1"]) == 130
    said = capsys.readouterr()
    assert said.out == "" and "gpu_prepare.py: interrupted" in said.err and "Traceback" not in said.err
    del small["row/last"]
    answers = (tmp_path / "bits-cpu.npz").stat().st_mtime_ns
    assert run(tmp_path, capsys)[1]["compiled"] == 0
    assert (tmp_path / "bits-cpu.npz").stat().st_mtime_ns == answers


def test_an_answer_that_fails_is_named(small, uncompiled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_work.bits, "CASES", ANSWERS | {"none": (lambda: 1 / 0, ())})
    status, said, err = run(tmp_path, capsys)
    assert status == 1 and "gpu_prepare.py: answers/none: ZeroDivisionError: division by zero\n" in err
    assert not (tmp_path / "bits-cpu.npz").exists() and said["kernels"] == 2


def test_variants_that_spill_are_left_out_by_name(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(target.Kernel, "link", lambda *_: (gpu_dry.NOTHING, SPILLS))
    small["sweep/momentum/40, block 9"] = partial(step, gdgpu.Adam)
    small[f"sweep/momentum/40, {gpu_variants.USUAL}"] = partial(step, gdgpu.Momentum)
    status, said, _ = run(tmp_path, capsys)
    left_out = json.loads((tmp_path / "manifest.json").read_text())["left_out"]
    assert status == 0 and said["kernels"] == 2
    assert left_out == {"sweep/momentum/40, block 9": "RuntimeError: 48 bytes spilled, 40 bytes of stack"}
    small["sweep/momentum/40, block 9"] = (tmp_path / "tried").touch
    assert run(tmp_path, capsys)[:1] + run(tmp_path, capsys, "--verify")[:1] == (0, 0)
    assert not (tmp_path / "tried").exists()


@pytest.mark.parametrize("options", ((), ("--verify",)))
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(options, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as leaving:
        gpu_prepare.main([str(tmp_path / "file" / "made"), *options])
    said = capsys.readouterr()
    assert leaving.value.code == 2 and said.out == ""
    assert said.err.startswith("profiling/gpu_prepare.py: DIR: ") and said.err.count("\n") == 1


@pytest.mark.parametrize("options", ("--arch nine", "--arch 9", "--jobs 0", "--jobs -1", "--no-sweep"))
def test_bad_options_are_refused_in_one_line(options, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        gpu_prepare.main([str(tmp_path), *options.split()])
    err = capsys.readouterr().err
    assert leaving.value.code == 2 and err.count("\n") == 1 and options.split()[0] in err


def test_everything_that_stood_in_for_a_gpu_is_gone_afterwards(monkeypatch):
    monkeypatch.setenv("GDGPU_DEVICE", "cpu")

    def state():
        return devices.simulated, devices.why_no_cuda, driver.api, target.Kernel.cubin, target.Kernel.link

    before, write = state(), generated._write
    with pytest.raises(ZeroDivisionError), gpu_dry.without_a_gpu(compiles=False):
        assert devices.resolve().name == "cuda" and not set(state()) & set(before)
        raise ZeroDivisionError
    assert state() == before and generated._write is write and os.environ["GDGPU_DEVICE"] == "cpu"


def test_models_are_taken_for_the_gpus(tmp_path):
    """Their arrays are NumPy's, and must not make them the CPU's."""
    work = {"row/linear_gradient/40x10": partial(gpu_work._row, "linear_gradient/40x10", "float32")}
    done = gpu_work.launch(work, (9, 0), 1, gpu_prepare.environment(tmp_path), compiles=False)
    assert not done.failed and any(name.startswith("one_pass_") for name in done.asked)


def test_the_work_is_all_that_the_check_launches():
    names = gpu_work.everything()
    assert {f"bits/{name}" for name in gpu_work.bits.CASES} < names.keys()
    assert {f"row/{name} {case.dtype}" for name, case in cases.CASES.items() if "cuda" in case.devices} < names.keys()
    assert "row/reduce/65536x784 bfloat16" in names and "test/lamb" in names
    assert len(names) - len(gpu_work.everything(sweep=False)) == len(gpu_variants.pairs())
