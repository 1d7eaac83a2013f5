"""What the documents promise: the README's example runs and learns, and so do the scripts in examples/."""

import linecache
import re
import runpy

import numpy as np
import pytest

import gdgpu
from support import ROOT


@pytest.fixture
def examples():
    """The names that the README's first, second, … example leaves behind; a later one uses what is before it."""
    scope, scopes = {}, []
    for k, example in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)):
        assert len(example.splitlines()) <= 13
        name = f"README.md, example {k}"  # where inspect finds the source of a rule
        linecache.cache[name] = len(example), None, example.splitlines(keepends=True), name
        exec(compile(example, name, "exec"), scope)
        scopes.append(dict(scope))
    return scopes


def test_readme_examples_do_what_they_say(examples):
    line, groups, samples, models, own, precise, around = examples
    assert float(line["model"].params["bias"][0]) == pytest.approx(3, abs=1e-3)
    # a constant gradient moves Adam's weights by lr a step
    assert groups["W"] == pytest.approx(-(1e-3 + 5e-4), abs=1e-6) and groups["b"] == pytest.approx(-0.2, abs=1e-6)
    flat = np.hstack([g.reshape(256, -1) for g in samples["G"].values()])
    norms = np.sqrt((flat**2).sum(axis=1))
    assert samples["norms"] == pytest.approx(norms)
    assert samples["opt"].params["b"] == pytest.approx(-0.1 * (flat / norms[:, None]).mean(axis=0)[-3:])
    assert samples["median"]["b"] == pytest.approx(np.median(samples["G"]["b"], axis=0))
    assert models["loss"] == pytest.approx(np.log(10)) and models["network"].sizes == (784, 256, 10)
    assert models["model"].loss(models["pixels"], models["label"]) < np.log(10)
    assert own["w"] == pytest.approx(-1e-3)
    assert precise["opt"].state_dict()["state"]["exp_avg"].shape == (10_000,)
    # g is 512 / 256, then of norm 4, so 1/2 each: Adam's first step is lr whatever its size; 1e-2 is weight decay
    assert around["w"] == pytest.approx(1 - 1e-3 - 1e-3 * 1e-2, abs=1e-7) and not around["g"].any()
    assert around["opt"].ema == pytest.approx(0.99 + 0.01 * around["w"], abs=1e-7)


def test_readme_example_prints_its_result(capsys, examples):
    assert "bias 3.000" in capsys.readouterr().out


def test_weighted_samples_ignores_the_outliers():
    worst = runpy.run_path(ROOT / "examples" / "weighted_samples.py")["main"]()
    assert worst < 0.05


def test_every_public_name_has_a_docstring_and_loads():
    for name in gdgpu.__all__:
        assert getattr(gdgpu, name).__doc__, name


def test_version_is_the_one_in_pyproject():
    assert f'version = "{gdgpu.__version__}"' in (ROOT / "pyproject.toml").read_text()


PROFILING = (ROOT / "profiling" / "README.md").read_text()


@pytest.fixture
def kernels():
    """Names of kernels, as profilers show them."""
    pytest.importorskip("numba_cuda", reason="needs numba-cuda: install gdgpu[test]")
    from gdgpu.kernels.catalogue import ROWS

    return {row.kernel.name for row in ROWS if row.name in ("momentum", "reduce", "reduce_update_momentum")} | {
        row.kernel.name for row in ROWS if row.name == "advance_adam"
    }


def test_profiling_recipes_name_kernels_and_cases_as_they_are(kernels, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "profiling")
    import cases
    import run

    named = re.findall(r"`((?:update|reduce|fused|advance)_\w+_float32)`", PROFILING)
    patterns = re.findall(r"regex:(\w+)", PROFILING)
    assert len(named) >= 3 and len(patterns) >= 2
    for name in (*named, *patterns):
        assert any(name in kernel for kernel in kernels), name
    commands = re.findall(r"python profiling/run\.py ((?:[^\n#`]|\\\n)*)", PROFILING)
    assert len(commands) > 5
    for command in commands:
        given = run._parser().parse_args(command.replace("\\\n", " ").split())
        assert cases.select(given.case, given.sizes, given.device or "cpu")
    assert (
        "gdgpu.Bound.__call__" in PROFILING and gdgpu.optimizers.bound.Bound.__call__.__qualname__ == "Bound.__call__"
    )
