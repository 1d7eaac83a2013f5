"""What several test files need: the option --full, more threads than small arrays would get, other processes."""

import gc
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.register_assert_rewrite("support")
from support import covering  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run all cases, not covers of them, and what is marked full")
    parser.addoption("--slice", metavar="SEED", help="of what --full adds, run one part in --parts; SEED chooses")
    parser.addoption("--parts", type=int, default=4, metavar="N", help="how many parts --slice divides it into (4)")
    parser.addoption("--minutes", type=float, metavar="M", help="after so many, --slice skips what is left")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: takes long; runs with --full only")
    covering.FULL = config.getoption("full") or config.getoption("slice") is not None


def pytest_collection_modifyitems(config, items):
    seed, parts = config.getoption("slice"), config.getoption("parts")

    def is_chosen(item):
        is_full = item.get_closest_marker("full") is not None
        if seed is None:
            return covering.FULL or not is_full
        return is_full and covering.in_slice(item.nodeid, seed, parts)

    left_out = [item for item in items if not is_chosen(item)]
    items[:] = [item for item in items if is_chosen(item)]
    config.hook.pytest_deselected(items=left_out)


def pytest_sessionstart(session):
    session.began = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    minutes = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() > item.session.began + 60 * minutes:
        pytest.skip(f"the slice has had its {minutes:g} minutes")


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Ctrl-C reaches the tests and the processes that they start, also where a shell has us ignore it, as for jobs."""
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if is_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """No collection goes again through what the files before have left: compilers leave a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def use_threads(monkeypatch):
    """use_threads(n): from now on every call, however small, is shared by n threads."""
    from gdgpu.kernels.backend import threads

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
    from gpu import stages, sweep

    from support import gpu_stub

    path = tmp_path / "asked.json"

    def python(script, *arguments):
        return [sys.executable, gpu_stub.__file__, script, *map(str, arguments)]

    def ask(**asked):
        path.write_text(json.dumps(asked))

    ask()
    monkeypatch.setenv("GDGPU_STUB", str(path))
    for module in (stages, gpu_check, sweep):
        monkeypatch.setattr(module, "python", python)
    return ask


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """hanging(seconds, …): from now on these have passed for gpu/process.py where a stub hangs, see gpu_clock.py."""
    from support import gpu_clock

    def hanging(*how, path=tmp_path / "asked.json.pid"):
        monkeypatch.setattr("gpu.process.time", gpu_clock.ahead_of_what_hangs(path, *how))

    return hanging
