"""Mutated files of every kind through gdgpu train, in one process: python fuzz_files.py SEED FIRST COUNT.

Prints a JSON object of "failures", [[number of the file, what is wrong], ...], of exit codes and of "megabytes", by how
many the largest resident set has grown since files that are whole were read.
"""

import contextlib
import gzip
import io
import json
import os
import random
import struct
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from gdgpu.cli import main

N = 24
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
TOKENS = (
    *"-+(){}[],'\"\\.;:%_0919\0\n\t\N{ARABIC-INDIC DIGIT ONE}\N{LATIN SMALL LETTER E WITH ACUTE}\ufeff\u2060",
    *("nan", "inf", "NaN", "null", "None", "True", "|O", "<U9", "V4", "f16", "1_1", "1e999", "99999999"),
    *("9" * 40, "-" * 400, "(" * 300, "[" * 3000, "x" * 5000, '{"a":'),
)
KINDS = (
    *("<f4", ">f8", "<f2", "<f16", "|b1", "|i1", "<u8", "<c8"),
    *("|O", "|V0", "<U0", "|S9", ">U3", "<M8[s]", "<U99999999"),
)
SHAPES = (
    *((24, 3), (24,), (), (0, 3), (24, 0), (72, 1), (1,) * 70),
    *((-24, 3), (-1, -1), (10**30, 3), (2**62, 4), (10**9, 3)),
)
WORDS = ("momentum", "epoch", "data_offsets", "shape", "fortran_order", "descr", "F32", "F64", "0.9", *"01392")


def sources():
    """{name: (file, content, arguments)} of files that train; {name: content} of those that these need."""
    random_numbers = np.random.default_rng(0)
    X = random_numbers.normal(size=(N, 3)).round(3)
    k = np.arange(N) % 3
    values, words = X @ [1.0, 2.0, 3.0], np.array(["cat", "dog", "eel"])[k]
    npy = {"X.npy": bytes_of(X), "t.npy": bytes_of(values), "k.npy": bytes_of(k), "words.npy": bytes_of(words)}
    images = struct.pack(">BBBB3i", 0, 0, 8, 3, N, 1, 3) + bytes(range(3 * N))
    labels = struct.pack(">BBBBi", 0, 0, 8, 1, N) + bytes(k.tolist())
    needed = npy | {"images": images, "labels": labels}
    rows = {
        "header": "a,b,c,t\n" + lines(X, values),
        "none": lines(X, k),
        "numbered": "0,1,2,species\n" + lines(X, words),
        "index": ",a,b,c,t\n" + "".join(f"{j},{row}\n" for j, row in enumerate(lines(X, words).split())),
    }
    made = {f"{name} csv": ("a.csv", text.encode(), "") for name, text in rows.items()}
    made |= {f"{name} csv.gz": ("a.csv.gz", text.encode(), "") for name, text in rows.items()}
    made |= {f"npy, target {t}": ("a.npy", npy["X.npy"], f"--target {t}.npy") for t in ("t", "k", "words")}
    made |= {f"target {t}": ("a.npy", npy[f"{t}.npy"], "") for t in ("t", "k", "words")}
    made |= {"idx": ("a", images, "--target labels"), "target idx": ("a", labels, "")}
    made |= {"idx gz": ("a.gz", images, "--target labels"), "target idx gz": ("a.gz", labels, "")}
    for method in METHODS:
        for t in ("t", "k"):
            made[f"npz {method} {t}"] = ("a.npz", (npy["X.npy"], npy[f"{t}.npy"], method), "")
    return made | {f"checkpoint {t}": ("c.safetensors", None, f"X.npy --target {t}.npy") for t in ("t", "k")}, needed


def bytes_of(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def lines(X, t):
    return "".join(",".join(map(str, [*row, label])) + "\n" for row, label in zip(X.tolist(), t.tolist(), strict=True))


def declared(data, chance):
    """A .npy with a header that may declare anything."""
    shape, kind = chance.choice(SHAPES), chance.choice(KINDS)
    header = f"{{'descr': {kind!r}, 'fortran_order': {chance.random() < 0.5}, 'shape': {shape}, }}".encode()
    header = mutated(header, chance) if chance.random() < 0.2 else header
    size = (len(header), 1 << 31)[chance.random() < 0.1]
    return np.lib.format.MAGIC_PREFIX + b"\2\0" + size.to_bytes(4, "little") + header + data[128:]


def mutated(data, chance):
    if data.startswith(np.lib.format.MAGIC_PREFIX) and chance.random() < 0.4:
        return declared(data, chance)
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if not data:
            break
        size, at = chance.choice((1, 4, 16, 64, 300)), chance.randrange(len(data))
        early = chance.randrange(min(len(data), 200))
        how = chance.randrange(8)
        if how == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            del data[at:]
        elif how == 2:
            data[at:at] = data[at : at + size]
        elif how == 3:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif how == 4:
            other = chance.randrange(len(data))
            low, high = sorted((at, other))
            size = min(size, high - low)
            a, b = data[low : low + size], data[high : high + size]
            data[low : low + size], data[high : high + size] = b, a
        elif how == 5:
            token = chance.choice((*TOKENS, *WORDS)).encode()
            data[early : early + chance.randrange(3)] = token
        elif how == 6:
            token = chance.choice(TOKENS).encode()
            data[at : at + chance.randrange(3)] = token
        else:
            data[early] ^= 1 << chance.randrange(8)
    return bytes(data)


def zipped(X, t, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("X.npy", X)
        archive.writestr("y.npy", t)
    return file.getvalue()


def checkpoint(data, chance):
    """A safetensors file with bytes or with text of its metadata mutated, so that it is still one."""
    if chance.random() < 0.4:
        return mutated(data, chance)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    metadata = header["__metadata__"]
    key = chance.choice(sorted(metadata))
    metadata[key] = mutated(metadata[key].encode(), chance).decode("utf-8", "replace")
    if chance.random() < 0.2:
        del metadata[key]
    if chance.random() < 0.2:
        body = mutated(body, chance)[: len(body)].ljust(len(body), b"\xff")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def write(name, source, chance):
    """Write a mutated file; the arguments of gdgpu train for it. chance: None to leave it whole."""
    file, content, arguments = source
    change = mutated if chance else lambda data, chance: data
    if name.startswith("checkpoint"):
        whole = Path(name.replace(" ", ".")).read_bytes()
        Path(file).write_bytes(checkpoint(whole, chance) if chance else whole)
        return f"{arguments} --checkpoint {file} --resume --epochs {chance.choice((1, 2)) if chance else 2}"
    if name.startswith("npz"):
        X, t, method = content
        inside = chance and chance.random() < 0.5
        if inside:
            X, t = (mutated(X, chance), t) if chance.random() < 0.5 else (X, mutated(t, chance))
        content = zipped(X, t, method)
        content = content if inside else change(content, chance)
    elif file.endswith(".gz"):
        inside = chance and chance.random() < 0.5
        content = gzip.compress(change(content, chance) if inside else content)
        content = content if inside else change(content, chance)
    else:
        content = change(content, chance)
    Path(file).write_bytes(content)
    return (f"X.npy --target {file}" if name.startswith("target") else f"{file} {arguments}") + " --epochs 1"


def train(arguments):
    """(exit code, standard output, standard error)."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["train", "--quiet", *arguments.split()])
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


def wrong(code, out, err, before, file):
    """What is wrong with how a run ended, or None."""
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if out or (code == 0 and err):
        return f"exit code {code}, said {(out + err)[:300]!r}"
    if code and (not err.startswith("gdgpu: ") or err.count("\n") != 1 or len(err) > 301 or not err[:-1].isprintable()):
        return f"no line of 300: {err[:600]!r}"
    return "has touched the file" if code == 2 and Path(file).read_bytes() != before else None


def peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20)


def run(seed, first, count):
    made, needed = sources()
    for name, content in needed.items():
        Path(name).write_bytes(content)
    for t in ("t", "k"):
        train(f"X.npy --target {t}.npy --epochs 1 --checkpoint checkpoint.{t}")
    failures, codes = [], {}
    for name, source in made.items():
        code, _, err = train(write(name, source, None))
        if code:
            failures.append([name, err])
    start, names = peak(), list(made)
    for number in range(first, first + count):
        chance = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        arguments, file = write(name, made[name], chance), made[name][0]
        before = Path(file).read_bytes()
        try:
            code, out, err = train(arguments)
            what = wrong(code, out, err, before, file)
        except BaseException as error:
            code, what = "traceback", f"{type(error).__name__}: {str(error)[:300]}"
        codes[code] = codes.get(code, 0) + 1
        if what:
            failures.append([number, f"{name}, {arguments}: {what}"])
    return {"failures": failures, "codes": codes, "megabytes": peak() - start}


if __name__ == "__main__":
    warnings.simplefilter("always")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(json.dumps(run(*map(int, sys.argv[1:]))))
        os.chdir("/")
