"""gdgpu.rule: a user's own rule is an optimizer like the others, the same bits on every device.

Run as a script it saves what its rules make of the same data, to hold another device against the CPU:
PYTHONPATH=tests GDGPU_DEVICE=cuda NUMBA_ENABLE_CUDASIM=1 python tests/optimizers/test_rule.py FILE.npz [RULE/DTYPE …]
"""

import importlib.util
import inspect
import os
import pickle
import runpy
import sys

import numpy as np
import pytest

import gdgpu
from gdgpu import devices, machine_code
from gdgpu.kernels import catalogue
from gdgpu.kernels.backend import toolchain
from gdgpu.machine_code import gate
from support import ROOT, covering
from support.compiling import compiles
from support.covering import cover, usual
from support.references import DTYPES, assert_same_bits, bits, run_rule, samples
from support.user_rules import awkward, debiased, heavy_ball, plain

EXAMPLE = ROOT / "examples" / "user_rule.py"


def debiased_in_numpy(w, gradients, lr, beta, eps, bounded, uphill):
    mean, square = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        g = -g if uphill else g
        mean = beta * mean + (1 - beta) * g
        square = square + 0.1 * (g * g - square)
        move = mean / (np.sqrt(square) + eps)
        if bounded and not uphill:
            move = np.clip(move, -0.5, 0.5)
        w = w - lr / (1 - beta**t) * move
    return w, mean, square


# rule, hyperparameters, dtypes of the parameters
USER_RULES = {
    "heavy_ball": (heavy_ball, {"lr": 0.05, "momentum": 0.8}, DTYPES),
    "debiased": (debiased, {}, DTYPES),
    "debiased_bounded": (debiased, {"lr": 0.02, "beta": 0.5, "bounded": True}, DTYPES),
    "debiased_uint8": (debiased, {"state_dtype": "uint8", "rounding": "stochastic"}, ("bfloat16", "float32")),
    "awkward": (awkward, {"lr": 0.5}, ("float32",)),
    "plain": (plain, {"lr": lambda t: 0.1 / (1 + t)}, DTYPES),
}


def steps_and_batches(optimizer, hyper, dtype):
    """All arrays after two steps, and two of per-sample gradients, over two groups of parameters."""
    W = [samples((37,), dtype, 1), samples((3, 11), dtype, 2)]
    run = optimizer([{"params": W[0]}, {"params": W[1], "lr": 0.2}], **hyper)
    for k in range(2):
        run.step([samples(w.shape, dtype, 3 + k) for w in W])
        run.step_samples([samples((5, *w.shape), dtype, 5 + k) for w in W], weights=samples((5,), "float64", 7))
    return [*W, *(a for s in run.state_dict()["state"] for a in s.values())]


TYPED = [(name, dtype) for name, (*_, dtypes) in USER_RULES.items() for dtype in dtypes]


def answers(typed):
    """Of rules, each with a dtype."""
    return {
        f"{name}/{dtype}/{k}": bits(array)
        for name, dtype in typed
        for k, array in enumerate(steps_and_batches(*USER_RULES[name][:2], dtype))
    }


@pytest.mark.parametrize("dtype", usual(DTYPES, ("bfloat16", "float32")))
def test_it_has_the_bits_of_the_built_in_one(dtype):
    hyper = USER_RULES["heavy_ball"][1]
    for user, built_in in zip(*(steps_and_batches(f, hyper, dtype) for f in (heavy_ball, gdgpu.Momentum)), strict=True):
        assert_same_bits(user, built_in)


# what every optimizer takes besides, and what of a step: dtypes of the parameters
COMMON = {
    "uint8": ({"state_dtype": "uint8", "rounding": "stochastic", "seed": 3}, {}, "float32"),
    "copies": ({"master": True, "ema": 0.5, "state_dtype": "bfloat16", "rounding": "stochastic"}, {}, "bfloat16"),
    "grad_scaling": ({}, {"grad_scale": 2.0, "clip_value": 3.0, "clip_norm": 4.0}, "float32"),
}


@pytest.mark.parametrize("name", COMMON)
def test_it_takes_what_every_optimizer_takes(name):
    common, keywords, dtype = COMMON[name]
    found = []
    for optimizer in (heavy_ball, gdgpu.Momentum):
        w = samples((600,), dtype, 1)
        run = optimizer(w, 0.1, momentum=0.8, **common)
        for k in range(3):
            run.step(samples((600,), dtype, 2 + k), **keywords)
        run.step_samples(samples((4, 600), dtype, 6))
        found.append([w, *(array for array in run.state_dict()["state"].values())])
    for user, built_in in zip(*found, strict=True):
        assert_same_bits(user, built_in)


def test_codes_of_too_many_states_are_refused():
    with pytest.raises(ValueError, match=r"\Astate_dtype: 'uint8' is for 8 states at most, awkward has 12\Z"):
        awkward(np.ones(3, np.float32), 0.1, state_dtype="uint8")


@cover(dtype=("float32", "float64"), bounded=(False, True), uphill=(False, True))
def test_it_computes_its_formula(dtype, bounded, uphill):
    w, hyper = samples((500,), dtype, 1, wide=False), {"lr": 0.02, "beta": 0.7, "eps": 1e-2}
    gradients = [samples((500,), dtype, k, wide=False) for k in range(2, 22)]
    expected = debiased_in_numpy(
        *(np.asarray(a, np.float64) for a in (w, gradients)), **hyper, bounded=bounded, uphill=uphill
    )
    optimizer = debiased(w, **hyper, bounded=bounded, uphill=uphill)
    for g in gradients:
        optimizer.step(g)
    rtol = 1e-12 if dtype == "float64" else 1e-5
    for actual, wanted in zip((w, *optimizer.state_dict()["state"].values()), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol, rtol)


@pytest.mark.skipif(
    not importlib.util.find_spec("numba_cuda"), reason="numba-cuda has the simulator: install gdgpu[test]"
)
def test_the_simulator_has_the_bits_of_the_cpu(tmp_path, python, monkeypatch):
    typed = TYPED if covering.FULL else covering.some(TYPED, together=1)
    asked = ["/".join(case) for case in typed]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    simulated = {"NUMBA_ENABLE_CUDASIM": "1", "GDGPU_DEVICE": "cuda", "PYTHONPATH": path}
    python(__file__, tmp_path / "found.npz", *asked, **simulated)
    monkeypatch.delenv("GDGPU_DEVICE", raising=False)
    with np.load(tmp_path / "found.npz") as found:
        assert found["device"] == "cuda"
        expected = answers(typed)
        assert {*found} == {*expected, "device"}
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, name)


def test_the_class_is_the_functions():
    assert (
        issubclass(heavy_ball, gdgpu.optimizers.rule.UserRule)
        and repr(heavy_ball) == "<class 'support.user_rules.heavy_ball'>"
    )
    assert heavy_ball.__doc__ == "Momentum, once more." and pickle.loads(pickle.dumps(heavy_ball)) is heavy_ball
    assert debiased.rule.nonnegative == ("square",)
    assert [*inspect.signature(heavy_ball).parameters][:3] == ["params", "lr", "momentum"]
    taken = inspect.signature(debiased).parameters
    shown = {"lr": 0.01, "beta": 0.9, "eps": 1e-3, "bounded": False, "uphill": False}
    assert {name: taken[name].default for name in shown} == shown
    assert heavy_ball(np.ones(2), 0.1).name == "heavy_ball"


def test_states_may_have_any_name():
    w, gradients = samples((9,), "float64", 1), [samples((9,), "float64", k) for k in (2, 3)]
    expected = [w.copy(), *np.zeros((len(awkward.rule.state), 9))]
    for g in gradients:
        run_rule(awkward.rule, {}, expected[0], g, expected[1:], {"lr": 0.5})
    optimizer = awkward(w, 0.5)
    optimizer.step(gradients[0])
    optimizer.step_samples(gradients[1][None])
    for actual, wanted in zip((w, *optimizer.state_dict()["state"].values()), expected, strict=True):
        assert_same_bits(actual, wanted)


def test_state_goes_on_where_it_was_left():
    one, other = np.ones(5), np.ones(5)
    first, second = debiased(one, bounded=True), debiased(other, lr=3.0)
    gradients = [np.linspace(-1, 2, 5) * k for k in range(1, 5)]
    for g in gradients[:2]:
        first.step(g)
    saved = first.state_dict()
    assert saved["optimizer"] == "debiased" and list(saved["state"]) == ["mean", "square"]
    assert saved["hyper"] == {"lr": 0.01, "beta": 0.9, "eps": 1e-3, "bounded": True, "uphill": False}
    other[...] = one
    second.load_state_dict(saved)
    for g in gradients[2:]:
        first.step(g)
        second.step(g)
    assert_same_bits(one, other)
    with pytest.raises(ValueError, match="expected one of 'heavy_ball', got one of 'debiased'"):
        heavy_ball(np.ones(5), 0.1).load_state_dict(saved)


def test_a_bound_step_and_an_assigned_lr():
    w, g = np.zeros(3), np.ones(3)
    optimizer = plain(w, lr=0.5)
    run = optimizer.bind(g)
    run()
    optimizer.lr = 0.25
    run()
    assert w.tolist() == [-0.75] * 3


def test_hyperparameters_have_any_sign():
    w = np.zeros(2)
    heavy_ball(w, 0.5, momentum=-2.0).step(np.ones(2))
    assert w.tolist() == [-0.5, -0.5]


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from users_rule import descent
loaded = sorted({"numba_cuda", "numba.cuda", "cupy", "torch"} & {*sys.modules})
w = np.zeros(2)
descent(w, lr=0.5).step(np.ones(2))
print(loaded, w.tolist())
"""


def test_an_edited_rule_gives_new_results_and_decoration_loads_no_cuda(tmp_path, python):
    for factor, expected in ((2, "[] [-1.0, -1.0]\n"), (3, "[] [-1.5, -1.5]\n"), (2, "[] [-1.0, -1.0]\n")):
        text = f"import gdgpu\n\n@gdgpu.rule\ndef descent(w, g, lr):\n    return w - {factor} * lr * g\n"
        (tmp_path / "users_rule.py").write_text(text)
        environment = {"GDGPU_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        assert python(SCRIPT, tmp_path, **environment) == expected


def test_a_file_edited_after_the_decoration_changes_nothing(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("import gdgpu\n@gdgpu.rule\ndef descent(w, g, lr):\n    return w - lr * g\n")
    late = runpy.run_path(path)["descent"]
    path.write_text("import gdgpu\n@gdgpu.rule\ndef descent(w, g, lr):\n    return w + lr * g\n")
    w = np.zeros(2)
    late(w, 0.5).step(np.ones(2))
    assert w.tolist() == [-0.5, -0.5]


FLAGS = ("", "_bounded", "_uphill", "_bounded_uphill")
KERNELS = {
    "heavy_ball": {"heavy_ball", "reduce_update_heavy_ball"},
    "debiased": {*(f"debiased{flags}" for flags in FLAGS), "advance_debiased", "reduce_update_debiased"},
}


def test_the_gate_lists_what_a_users_rule_is_made_into():
    for name, kernels in KERNELS.items():
        assert {row.name for row in catalogue.of_rule(USER_RULES[name][0].rule)} >= kernels


@compiles
@pytest.mark.parametrize("name", usual(KERNELS, ["heavy_ball"]))
def test_the_gate_takes_a_users_rule(name):
    figures = USER_RULES[name][0].check(architectures=["sm_90"])
    assert {f["kernel"] for f in figures} >= KERNELS[name]
    assert all(f["registers"] > 0 and f["findings"] == [] and f["arch"] == "sm_90" for f in figures)
    (update,) = (f for f in figures if f["kernel"] == name)
    assert update["load_bits"] == [128] and update["bytes_in_flight"] > 0


@compiles
def test_the_gate_takes_a_name_and_finds_what_is_wrong(monkeypatch):
    (update, *_) = machine_code.inspect_rule("gradient_descent", "float64", ["sm_80"])
    assert update["kernel"] == "gradient_descent" and update["float64_instructions"] > 0
    monkeypatch.setattr(gate, "check", lambda report, limits: [report.label])
    (update, *_) = machine_code.inspect_rule("gradient_descent", "float64", ["sm_80"])
    assert update["findings"] == ["gradient_descent.float64.sm_80"]


@compiles
@pytest.mark.parametrize(
    "given, message", [(("sgdd",), "rule: expected one of "), (("sgd", "int8"), "dtype: expected")]
)
def test_the_gate_refuses(given, message):
    with pytest.raises(ValueError, match=rf"\A{message}[^\n]*\Z"):
        machine_code.inspect_rule(*given)


@pytest.mark.skipif(devices.simulated(), reason="the simulator compiles nothing")
def test_the_gate_says_what_to_install(monkeypatch):
    monkeypatch.setattr(toolchain, "version", lambda *packages: None)
    with pytest.raises(
        machine_code.MissingToolError, match=r"\Anumba-cuda is not installed; needed: .* gdgpu\[cuda13\]\Z"
    ):
        heavy_ball.check()


def test_the_example_beats_momentum_in_its_valley():
    counts = runpy.run_path(EXAMPLE)["main"]()
    assert counts["cautious"] < counts["Momentum"] / 2


if __name__ == "__main__":
    asked = [tuple(each.split("/")) for each in sys.argv[2:]]
    np.savez(sys.argv[1], device=os.environ["GDGPU_DEVICE"], **answers(asked or TYPED))
