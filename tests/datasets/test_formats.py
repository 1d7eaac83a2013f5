"""Readers meet what is no file of theirs: one line that begins with the argument, no warnings, bounded memory."""

import gzip
import io
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from gdgpu import datasets
from gdgpu.cli import progress
from gdgpu.datasets.formats import DataError
from support.command import in_empty_directory, one_line, run  # noqa: F401

N = 30
X, T = np.ones((N, 3), "float32"), np.arange(float(N))


def bytes_of(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy(header, length=None, version=1):
    """A .npy of this header and 400 bytes of elements."""
    text = header.encode()
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return np.lib.format.MAGIC_PREFIX + bytes([version, 0]) + size + text + bytes(400)


def of(shape, kind="'<f4'"):
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n"


HEADERS = {
    "an open brace": npy(of("(30, 3)").replace("}", "\x7f")),
    "a brace that closes nothing": npy(of("(30, 3)") + "}"),
    "an escape": npy(of("(30, 3)", r"'\d<f4'")),
    "digits and letters": npy(of("(30, 3)", "1if 1else 2")),
    "thousands of signs": npy(of(f"({'-' * 9000}1, 3)")),
    "thousands of brackets": npy(of("(" * 4000)),
    "negative": npy(of("(-30, 3)")),
    "both negative": npy(of("(-30, -1)")),
    "more than an int": npy(of(f"({10**30}, 3)")),
    "more than memory": npy(of("(4000000000, 100000)")),
    "more than bytes have": npy(of("(4611686018427387904, 4)")),
    "digits without end": npy(of(f"({'9' * 5000}, 3)")),
    "objects": npy(of("(30, 3)", "'|O'")),
    "nothing wide": npy(of("(1000000000000, 3)", "'<U0'")),
    "structures": npy(of("(10,)", "[('a', '<f4'), ('b', 'V8')]")),
    "long": npy("{" + " " * 20000),
    "gigabytes": npy("{", 1 << 31, version=2),
    "Python 2": npy(of("(30L, 3L)") + "x"),
    "cut": bytes_of(X)[:100],
    "longer than its shape": bytes_of(X) + b"0",
    "no magic": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("place", ["npy", "npz", "target"])
@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_npy(case, place, recwarn):
    content, line = HEADERS[case], "a.npz"
    if place == "npz":
        with zipfile.ZipFile("a.npz", "w") as archive:
            archive.writestr("X.npy", content)
            archive.writestr("y.npy", bytes_of(T))
    else:
        Path("a.npy").write_bytes(content)
        np.save("b.npy", T if place == "npy" else X)
        line = "a.npy --target b.npy" if place == "npy" else "b.npy --target a.npy"
    warnings.simplefilter("always")
    tracemalloc.start()
    try:
        assert one_line(f"train {line}").startswith("gdgpu: --target" if place == "target" else "gdgpu: DATA")
        assert tracemalloc.get_traced_memory()[1] < 20e6 or case == "more than memory"  # asked for, not touched
    finally:
        tracemalloc.stop()
    assert not recwarn.list


def archive(method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        zipped.writestr("X.npy", bytes_of(X))
        zipped.writestr("y.npy", bytes_of(T))
    return bytearray(file.getvalue())


def patched(local, central, value):
    """An archive with a field of all local and central headers changed."""
    out = archive()
    for signature, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = -1
        while (at := out.find(signature, at + 1)) >= 0:
            out[at + offset : at + offset + 2] = struct.pack("<H", value)
    return out


def damaged(method, begin=60, size=22):
    out = archive(method)
    out[begin : begin + size] = bytes(range(255, 255 - size, -1))
    return out


ARCHIVES = {
    "an unknown method": patched(8, 10, 99),
    "encrypted": patched(6, 8, 1),
    "patched data": patched(6, 8, 0x20),
    "a later version": patched(4, 6, 255),
    "stored data changed": damaged(zipfile.ZIP_STORED, 300),
    "deflated data changed": damaged(zipfile.ZIP_DEFLATED),
    "bzip2 data changed": damaged(zipfile.ZIP_BZIP2),
    "lzma data changed": damaged(zipfile.ZIP_LZMA),
    "a directory changed": archive().replace(b"PK\1\2", b"PK\1\3"),
    "a directory elsewhere": archive()[:-6] + b"\xff\xff\xff\x7f\0\0",
    "names of surrogates": archive().replace(b"X.npy", b"\xff.npy"),
    "cut": archive()[:-30],
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(case):
    Path("a.npz").write_bytes(ARCHIVES[case])
    assert one_line("train a.npz").startswith("gdgpu: DATA: ")


def test_long_doubles_beyond_float32_are_named_without_a_warning(recwarn):
    if np.finfo(np.longdouble).maxexp < 16384:
        pytest.skip("long doubles are doubles here")
    np.savez("a.npz", X=np.full((N, 3), np.longdouble("1e4000")), y=T)
    assert "expected finite float32 numbers" in one_line("train a.npz")
    assert not recwarn.list


@pytest.mark.parametrize("model", ["linear", "huber", "poisson"])
def test_targets_at_the_end_of_float32_end_without_a_warning(model, recwarn):
    random = np.random.default_rng(0)
    t = random.uniform(0.9, 1, N) * 3e38
    np.savez("a.npz", X=random.normal(size=(N, 2)), y=t if model == "poisson" else t * np.tile([1, 1, -1], N // 3))
    assert "diverged" in one_line(f"train a.npz --epochs 1 --model {model}", code=1)
    assert not recwarn.list


@pytest.mark.parametrize("labels", [np.full(N, b"\xff"), np.full(4 * N, 0x7FFFFFFF, "u4").view("U4")])
def test_labels_that_are_no_text(labels):
    np.savez("a.npz", X=X, y=labels)
    assert "the target in a.npz: expected text" in one_line("train a.npz")


def packed(head, unit, times):
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    return pack.compress(head) + b"".join(pack.compress(unit) for _ in range(times)) + pack.flush()


IDX = b"\0\0\x08\x02" + struct.pack(">II", N, 3)
BOMBS = {
    "idx that goes on": ("a", IDX, "longer than the 90 bytes"),
    "idx of more than memory": ("a", b"\0\0\x08\x03" + b"\xff" * 12, "larger than memory"),
    "idx that declares more": ("a", b"\0\0\x08\x02" + struct.pack(">II", 1 << 20, 3), "longer than the 3145728 bytes"),
    "a line": ("a.csv", b"a,b\n1,", "line 2: expected a row of at most"),
    "a first line": ("a.csv", b"", "line 1: expected a row of at most"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_unpacks_to_much_more_is_not_read_whole(case):
    name, head, says = BOMBS[case]
    Path(name).write_bytes(packed(head, bytes(1 << 20), 80))
    Path("t").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", N) + bytes(k % 3 for k in range(N)))
    tracemalloc.start()
    try:
        assert says in one_line(f"train {name}" + " --target t" * (name == "a"))
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_a_record_of_many_lines_is_as_long_as_a_line(monkeypatch):
    monkeypatch.setattr("gdgpu.datasets.tables._LONGEST", 1000)
    Path("a.csv").write_text("a,b\n1,2\n" + '"\n",' * 1000)
    assert "expected a row of at most 1000 characters" in one_line("train a.csv")
    Path("b.csv").write_text("a,b\n" + "1,2\n2,3\n4,5\n" * 1000)
    assert len(datasets.load("b.csv").t) == 3000


@pytest.mark.parametrize("packer", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_table_of_a_pipe(packer):
    """A pipe can be opened and read once only."""
    if not Path("/dev/stdin").exists():
        pytest.skip("no /dev/stdin")
    script = "from gdgpu.datasets.tables import read_csv; print(read_csv('/dev/stdin')[0].tolist())"
    table = packer(b"a,b\n1,2\n3,4\n")
    done = subprocess.run([sys.executable, "-c", script], input=table, capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == "[[1.0], [3.0]]"
    script = "from gdgpu.cli import main; main(['train', '/dev/stdin', '--target', 'x'])"
    done = subprocess.run([sys.executable, "-c", script], input=table, capture_output=True, timeout=60)
    assert done.returncode == 2 and b"begins with bytes" in done.stderr


LONG = "x" * 100_000
TEXTS = {
    "a cell": f"a,b\n1,2\n{LONG},3\n",
    "a name": f"a{LONG},b\n?,2\n",
    "a label": f"a,b\n1,2\n3,4\n5,{LONG}\n",
    "many names": ",".join(f"column {k}" for k in range(10_000)) + "\n",
    "control characters": 'a,b\n1,2\n"\x1b[31m\x07\x00\x85\u2028\u202e\n\r\n",3\n',
    "a line in a name": '"a\nb\tc",y\n1,2\nx,3\n',
    "surrogates": "a,b\n1,2\n\ud800,3\n",
}


@pytest.mark.parametrize("target", ["", " --target z", f" --target {LONG}"], ids=["", "z", "long"])
@pytest.mark.parametrize("case", TEXTS)
def test_lines_are_short_and_printable(case, target):
    Path("a.csv").write_bytes(TEXTS[case].encode("utf-8", "surrogatepass"))
    said = one_line(f"train a.csv{target}")
    assert len(said) <= 301 and said[:-1].isprintable()
    assert said.startswith(("gdgpu: DATA: ", "gdgpu: --target: "))


@pytest.mark.parametrize("line", [f"train --{LONG}", f"train {LONG}.csv", f"{LONG}", f"train --model {LONG}"])
def test_what_was_typed_is_quoted_in_part(line):
    said = one_line(line)
    assert len(said) <= 301 and said[:-1].isprintable()


@pytest.mark.parametrize("encoding", [None, "ascii", "utf-8", "latin-1", "cp1252"])
def test_one_line(encoding):
    for text in (
        "",
        "a",
        "x" * 300,
        "x" * 301,
        "é" * 299,
        "\x1b" * 200,
        "a\n\r\tb",
        "\ud800" * 90,
        "\N{SNOWMAN}" * 250,
    ):
        line = progress.one_line(text, encoding)
        assert len(line) <= 300 and line.isprintable()
        line.encode(encoding or "utf-8")
        if len(text) <= 300 and text.isascii() and text.isprintable():
            assert line == text
    assert progress.one_line("begins" + "x" * 1000 + "ends").startswith("beginsx")
    assert progress.one_line("begins" + "x" * 1000 + "ends").endswith("xends")


def test_data_error_is_one_of_the_library_too():
    Path("a.npy").write_bytes(HEADERS["an open brace"])
    np.save("t.npy", T)
    with pytest.raises(DataError, match=r"^DATA: a.npy cannot be read \("):
        datasets.load("a.npy", "t.npy")
