"""Compiled kernels on disk: what is damaged or others' is made anew; whatever the disk does, kernels run."""

import errno
import os
import pickle
import random
import stat
import threading

import numba
import pytest

from gdgpu.kernels.backend import disk, generated, numba_cache

TEXT = '@jit(CODE, "int64(int64)")\ndef f(x):\n    return x + {}\n'
POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; nothing is said of others yet."""
    monkeypatch.setenv("GDGPU_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "_refused", set())
    return tmp_path / "cache"


def load(number=1, home="cpu"):
    """(what the kernel makes of 0, whether its machine code came from the disk), as in a new process."""
    generated._modules.clear()
    function = generated.load("kept", TEXT.format(number), {}, f"gdgpu.kernels.backend.{home}").f
    return function(0), sum(function.stats.cache_hits.values()) == 1


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.setattr(generated, "_modules", {})


def flipped(data):
    """The bytes with one bit of them changed; which, the seed says."""
    damaged = bytearray(data)
    damaged[random.Random(len(data)).randrange(len(data))] ^= 1 << 3
    return bytes(damaged)


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("a damaged file was unpickled",)


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "a bit": flipped,
    "its first bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "its last bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a pickle": lambda data: pickle.dumps(Harmful()),
    "not UTF-8": lambda data: b"\xff\xfe" + data,
}


@pytest.mark.parametrize("suffix", (".nbc", ".py"))
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_made_anew(cache, case, suffix):
    assert load() == (1, False) and load() == (1, True)
    (path,) = cache.glob(f"*{suffix}")
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[case](whole))
    assert load() == (1, suffix == ".py")  # which is there to be read, and run from memory
    assert load() == (1, True)
    assert len(list(cache.iterdir())) == 2 and (suffix == ".nbc" or path.read_bytes() == whole)


def test_a_whole_file_under_anothers_name_is_not_whole(cache):
    assert load(1) == (1, False) and load(2) == (2, False)
    one, two = cache.glob("*.nbc")
    two.write_bytes(one.read_bytes())
    assert {load(1), load(2)} <= {(1, True), (2, True), (1, False), (2, False)}
    assert load(1) == (1, True) and load(2) == (2, True)


@pytest.mark.parametrize("suffix", (".nbc", ".py"))
def test_a_directory_in_the_place_of_a_file(cache, suffix):
    load()
    (path,) = cache.glob(f"*{suffix}")
    path.unlink()
    path.mkdir()
    assert load() == (1, suffix == ".py")


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_machine_code_for_a_gpu(tmp_path, monkeypatch, case):
    pytest.importorskip("numba_cuda", reason="which compiles for a GPU")
    from gdgpu.kernels.backend import cuda

    links = []
    monkeypatch.setattr(cuda.Kernel, "link", lambda *how: (links.append(how) or b"\x7fELF and more", ""))
    kernel = cuda.Kernel(lambda: None, (), "name", tmp_path / "kernel")
    for _ in range(2):
        assert kernel.cubin() == b"\x7fELF and more"
    (path,) = tmp_path.iterdir()
    assert len(links) == 1 and path.read_bytes().startswith(b"\x7fELF")
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    for _ in range(2):
        assert kernel.cubin() == b"\x7fELF and more"
    assert len(links) == 2


def test_settings_of_the_compiler_that_gpus_machine_code_does_not_follow(monkeypatch):
    pytest.importorskip("numba_cuda", reason="which compiles for a GPU")
    from gdgpu.kernels.backend import cuda

    if cuda.SIMULATED:
        pytest.skip("the simulator compiles nothing")
    from numba.cuda.core import config

    sizes = []
    for values in ({}, {"CUDA_DEBUGINFO_DEFAULT": 1}, {"OPT": 0}):
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setattr(config, name, value)
            sizes.append(len(cuda.Kernel(lambda x: None, ["int64"], "f")._intermediate((8, 0))))
    assert len(set(sizes)) == 1


class Codegen:
    def __init__(self, *magic):
        self.magic = magic

    def magic_tuple(self):
        return self.magic


@pytest.mark.parametrize("name", (*numba_cache.SETTINGS, "a processor", "a feature", "a signature", "numba", "Python"))
def test_machine_code_of_another_setting_is_another_file(tmp_path, monkeypatch, name):
    path = numba_cache.NumbaCache(tmp_path / "kernel", load)._path
    before = path("int64(int64)", Codegen("x86_64", "znver3", "+avx2"))
    assert path("int64(int64)", Codegen("x86_64", "znver3", "+avx2")) == before
    signature, magic = "int64(int64)", ["x86_64", "znver3", "+avx2"]
    if name in numba_cache.SETTINGS:
        assert hasattr(numba.config, name)
        monkeypatch.setattr(numba.config, name, "another")
    elif name == "numba":
        monkeypatch.setattr(numba, "__version__", "another")
    elif name == "Python":
        monkeypatch.setattr("sys.version", "another")
    else:
        signature = "another" if name == "a signature" else signature
        magic = [*magic[:1], "zen" if name == "a processor" else magic[1], "-avx2" if name == "a feature" else magic[2]]
    assert path(signature, Codegen(*magic)) != before


SETTINGS = (
    {"NUMBA_OPT": "0"},
    {"NUMBA_OPT": "max", "NUMBA_LOOP_VECTORIZE": "0"},
    {"NUMBA_CPU_NAME": "generic"},
    {"NUMBA_ENABLE_AVX": "0", "NUMBA_SLP_VECTORIZE": "1"},
    {"NUMBA_BOUNDSCHECK": "1", "NUMBA_DEBUGINFO": "1"},
    {"NUMBA_CACHE_DIR": "/nowhere", "NUMBA_CACHE_LOCATOR_CLASSES": "None"},
)
BITS = """
import numpy as np, gdgpu
rng = np.random.default_rng(0)
w, G = rng.standard_normal(1000).astype("f4"), rng.standard_normal((100, 1000)).astype("f4")
optimizer = gdgpu.Adam(w, lr=0.1, state_dtype="uint8")
for _ in range(3):
    optimizer.step_samples(G, max_norm=1.0)
print(w.tobytes().hex())
"""


@pytest.mark.full
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_bits_under_every_setting_of_numba(cache, python, settings):
    expected = python(BITS)
    assert python(BITS, **settings) == expected  # in one cache


def test_numba_that_compiles_nothing_is_named(cache, monkeypatch):
    for text in (TEXT, "@shared(__name__, CODE)\ndef f(x):\n    x + {}\n"):
        with monkeypatch.context() as patch:
            patch.setattr(numba.config, "DISABLE_JIT", 1)
            with pytest.raises(ValueError, match=r"\ANUMBA_DISABLE_JIT: [^\n]*\Z"):
                generated.load("kept", text.format(5), {}, "gdgpu.kernels.backend.cpu")
        generated.load("kept", text.format(5), {}, "gdgpu.kernels.backend.cpu")


def test_that_numba_compiles_nothing_stops_no_import(python):
    assert python("import gdgpu.models, gdgpu.optimizers.sgd; print(1)", NUMBA_DISABLE_JIT="1") == "1\n"


def give_away(path, monkeypatch):
    """Make the path another user's; who is not root becomes another user."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        mine = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)


# what is done to the directory, to its parent; whether it is used
TRUST = {
    "mine": (0o700, 0o755, True),
    "readable": (0o755, 0o755, True),
    "the group's": (0o770, 0o755, False),
    "the world's": (0o707, 0o755, False),
    "a drop box": (0o1777, 0o755, False),
    "in the group's": (0o700, 0o775, False),
    "in the world's": (0o700, 0o777, False),
    "in one like /tmp": (0o700, 0o1777, True),
    "another user's": ("given away", 0o755, False),
    "in another user's": (0o700, "given away", False),
    "another user's in one like /tmp": ("given away", 0o1777, False),
}


@POSIX
@pytest.mark.parametrize("case", TRUST)
def test_what_others_may_write_is_not_run(cache, tmp_path, monkeypatch, capsys, case):
    (mode, parent_mode, is_used), inside = TRUST[case], cache / "inside"
    assert load() == (1, False) and load() == (1, True)
    inside.mkdir()
    for path in cache.glob("kept*"):
        path.rename(inside / path.name)
    monkeypatch.setenv("GDGPU_CACHE_DIR", str(inside))
    for path, change in ((inside, mode), (cache, parent_mode)):
        if change == "given away":
            give_away(path, monkeypatch)
        else:
            path.chmod(change)
    before = sorted(inside.iterdir())
    for _ in range(2):
        assert load() == (1, is_used)
    assert load(2) == (2, False) and (sorted(inside.iterdir()) == before) == (not is_used)
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("GDGPU_CACHE_DIR") == (not is_used)


@POSIX
@pytest.mark.parametrize("mode", (0o620, 0o602, "given away"))
def test_a_file_that_others_may_write_is_not_run(cache, monkeypatch, mode):
    if mode == "given away" and os.geteuid():
        pytest.skip("only root gives files away")
    assert load() == (1, False) and load() == (1, True)
    (path,) = cache.glob("*.nbc")
    os.chown(path, 12345, -1) if mode == "given away" else path.chmod(mode)
    assert load() == (1, False) and load() == (1, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_uid == os.geteuid()


@POSIX
@pytest.mark.parametrize("variable", ("GDGPU_CACHE_DIR", "XDG_CACHE_HOME"))
def test_a_tilde_is_the_home_and_what_is_made_is_private(tmp_path, monkeypatch, variable):
    monkeypatch.delenv("GDGPU_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/first/second")
    before = os.umask(0)
    try:
        made = disk.directory()
    finally:
        os.umask(before)
    assert made == tmp_path / "first/second" / ("" if variable == "GDGPU_CACHE_DIR" else "gdgpu")
    while made != tmp_path:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        made = made.parent


@POSIX
def test_without_a_home(monkeypatch):
    monkeypatch.setenv("GDGPU_CACHE_DIR", "~nobody-of-this-name/cache")
    assert disk.directory() is None and load() == (1, False)


@pytest.mark.parametrize("call", ("mkstemp", "fdopen", "replace"))
@pytest.mark.parametrize("code", (errno.ENOSPC, errno.EROFS, errno.EACCES), ids=errno.errorcode.get)
def test_a_disk_that_takes_nothing(cache, monkeypatch, call, code):
    load(1)

    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(disk.tempfile if call == "mkstemp" else os, call, refuse)
        assert load(1) == (1, True) and load(2) == (2, False) and load(2) == (2, False)
    assert len(list(cache.iterdir())) == 2
    assert load(2) == (2, False) and load(2) == (2, True)


def test_many_threads_fill_one_cache(cache):
    made = []

    def work(order):
        rng = random.Random(order)
        for number in rng.sample(range(8), 8):
            module = generated.load("kept", TEXT.format(number), {}, "gdgpu.kernels.backend.cpu")
            made.append(module.f(0) == number)

    threads = [threading.Thread(target=work, args=(order,)) for order in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 32 and all(made)
    assert sorted(path.suffix for path in cache.iterdir()) == [".nbc"] * 8 + [".py"] * 8
    assert all(load(number) == (number, True) for number in range(8))
