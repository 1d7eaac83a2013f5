"""What several test files need: more threads than small arrays would get, and other processes."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def use_threads(monkeypatch):
    """use_threads(n): from now on every call, however small, is shared by n threads."""
    from gdgpu.kernels import threads

    before = threads.num_threads()
    monkeypatch.setattr(threads, "SERIAL_BYTES", 0)
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.fixture
def python():
    """python(text or path, *arguments, **environment): its standard output; an environment of None is unset.

    status: the exit status that it must have.
    """

    def run(script, *arguments, status=0, **environment):
        command = [script] if os.path.exists(script) else ["-c", script]
        env = {k: v for k, v in (os.environ | environment).items() if v is not None}
        done = subprocess.run(
            [sys.executable, *command, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    return run


@pytest.fixture
def torch():
    """torch, computing in float64 where it is not told otherwise."""
    torch = pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam keeps a product in the default dtype
    yield torch
    torch.set_default_dtype(usual)


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """stub(**asked): from now on the scripts of the GPU check do what is asked of them, see gpu_stub.py."""
    import gpu_check
    import gpu_stages
    import gpu_sweep

    from support import gpu_stub

    path = tmp_path / "asked.json"

    def python(script, *arguments):
        return [sys.executable, gpu_stub.__file__, script, *map(str, arguments)]

    def ask(**asked):
        path.write_text(json.dumps(asked))

    ask()
    monkeypatch.setenv("GDGPU_STUB", str(path))
    for module in (gpu_stages, gpu_check, gpu_sweep):
        monkeypatch.setattr(module, "python", python)
    monkeypatch.setattr("gpu_process.START", 4.0)
    return ask
