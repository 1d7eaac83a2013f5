"""Prepare a check on a GPU, with no GPU: python profiling/gpu_prepare.py DIR [--arch 9.0] [--jobs N]

Writes DIR/kernels, the machine code of all that the check launches, DIR/bits-cpu.npz, the CPU's answers to all cases of
tests/support/bits, and DIR/manifest.json. What an interrupted run has made is not made again. There, with DIR carried
along: GDGPU_FINGERPRINT=carried GDGPU_CACHE_DIR=DIR/kernels. --verify compiles nothing and says what of it is missing;
its last line is {"kernels": how many are asked for, "missing": [names], "whole": whether the files are those written}.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gpu import ROOT

NAME = "profiling/gpu_prepare.py"
ARCHITECTURE = "9.0"
ANSWERS = "bits-cpu.npz"
WORD = "carried"  # in GDGPU_FINGERPRINT: stands for the versions that the kernels were made with
SOURCES = (
    "gdgpu/**/*.py",
    "kernels/**/*.py",
    "profiling/gpu/[hv]*.py",
    "tests/support/bits/*.py",
    "tests/support/references.py",
)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    try:
        return (verify if given.verify else prepare)(given)
    except KeyboardInterrupt:
        print(f"\n{NAME}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def environment(directory: Path) -> dict[str, str]:
    """Variables with which kernels are looked for in a prepared folder."""
    kernels = str(Path(directory).absolute() / "kernels")
    return {"GDGPU_CACHE_DIR": kernels, "GDGPU_FINGERPRINT": WORD, "NUMBA_ENABLE_CUDASIM": "0"}


def prepare(given: argparse.Namespace) -> int:
    """Make what is not there yet, and say what it is; returns the exit status."""
    from gpu import work as gpu_work
    from harness import versions

    start, folder, digest = time.monotonic(), given.directory, sources()
    capability = given.arch or _capability(ARCHITECTURE)
    before, arch, answers = read_manifest(folder), ".".join(map(str, capability)), folder / ANSWERS
    is_known = before.get("sources") == digest and before.get("architecture") == arch
    failed, left_out = {}, before["left_out"] if is_known else {}
    if not (is_known and answers.exists()):
        answers.unlink(missing_ok=True)
        failed |= gpu_work.answer(answers, list(gpu_work.bits.CASES), given.jobs, progress("answers"))
        if not failed:  # so that they are not made again if this is interrupted
            write_manifest(folder, {"sources": digest, "architecture": arch, "complete": False, "left_out": {}})
    work = {name: call for name, call in gpu_work.everything().items() if name not in left_out}
    done = gpu_work.launch(work, capability, given.jobs, environment(folder), say=progress("kernels"))
    failed |= done.failed
    left_out |= done.left_out
    if not failed:
        tidy(folder / "kernels", done.asked)
    files = carried(folder)
    made = {"seconds": round(time.monotonic() - start, 1), "compiled": len(done.absent), "versions": versions()}
    if not done.absent and before.get("complete"):  # whoever compiled them stays named
        made |= {key: before[key] for key in ("seconds", "compiled", "versions")}
    manifest = {
        "sources": digest,
        "complete": not failed,
        "architecture": arch,
        "kernels": sum(path.suffix == ".cubin" for path in files),
        "bytes": sum(path.stat().st_size for path in files),
        **made,
        "left_out": left_out,
        "files": {path.name: hash_of(path) for path in files},
    }
    write_manifest(folder, manifest)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    for name, reason in failed.items():
        print(f"{NAME}: {name}: {reason}", file=sys.stderr)
    shown = {key: manifest[key] for key in ("kernels", "bytes", "complete")}
    print(json.dumps(shown | {"compiled": len(done.absent), "seconds": round(time.monotonic() - start, 1)}))
    return 1 if failed else 0


def verify(given: argparse.Namespace) -> int:
    """Say which kernels the check would have to compile; returns the exit status."""
    from gpu import work as gpu_work

    manifest = read_manifest(given.directory)
    left_out = manifest.get("left_out", {})
    work = {name: call for name, call in gpu_work.everything(given.sweep).items() if name not in left_out}
    arch = given.arch or _capability(manifest.get("architecture", ARCHITECTURE))
    done = gpu_work.launch(work, arch, given.jobs, environment(given.directory), compiles=False)
    for name, reason in done.failed.items():
        print(f"{NAME}: {name}: {reason}", file=sys.stderr)
    found = {path.name: hash_of(path) for path in carried(given.directory)}
    is_same = manifest.get("complete") and manifest["sources"] == sources()
    whole = bool(is_same and manifest["files"].items() <= found.items())  # what was compiled since does no harm
    print(json.dumps({"kernels": len(done.asked), "missing": sorted(done.absent), "whole": whole}))
    return 0 if whole and not (done.absent or done.failed) else 1


def progress(what: str) -> Callable[[int, int], None]:
    """say(done, all): one line of how far it is, which is written over on a terminal."""
    start = time.monotonic()

    def say(done, total):
        if sys.stderr.isatty() or done == total:
            line = f"{what}: {done} of {total} cases, {time.monotonic() - start:.0f} s"
            print(line, end="\n" if done == total else "\r", file=sys.stderr, flush=True)

    return say


def sources() -> str:
    """A hash of the texts that the CPU's answers depend on, and which variants are left out."""
    texts = [path.read_bytes() for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def carried(folder: Path) -> list[Path]:
    """The files that count, besides the manifest."""
    return [*sorted(folder.glob("kernels/*.cubin")), *folder.glob(ANSWERS)]


def hash_of(path: Path) -> str:
    """What tells a file that was hurt on its way."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def tidy(kernels: Path, asked: set[str]) -> None:
    """Take away what no kernel of today is in. Texts are written again where kernels are asked for."""
    for path in kernels.iterdir():
        is_needed = path.suffix == ".cubin" and path.name.partition(".")[0] in asked
        if path.is_file() and not is_needed:
            path.unlink()


def read_manifest(folder: Path) -> dict:
    try:
        return json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}


def write_manifest(folder: Path, manifest: dict) -> None:
    from gdgpu.core import files

    files.write_json(folder / "manifest.json", manifest)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    from harness import Parser

    parser = Parser(prog=NAME, description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument(
        "--arch", type=_capability, help=f"compute capability; default: {ARCHITECTURE}, or the folder's"
    )
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--verify", action="store_true", help="compile nothing, and say what is missing")
    parser.add_argument("--no-sweep", dest="sweep", action="store_false", help="verify without the sweep's variants")
    given = parser.parse_args(arguments)
    if not (given.sweep or given.verify):
        parser.error("--no-sweep: only with --verify")
    kernels = given.directory / "kernels"
    if given.verify:
        if not kernels.is_dir():
            parser.error(f"DIR: {given.directory} has no folder kernels; prepare it first")
        return given
    try:
        kernels.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=given.directory), tempfile.TemporaryFile(dir=kernels):
            pass
    except OSError as error:
        parser.error(f"DIR: {given.directory} cannot be written: {error.strerror}")
    return given


def _capability(text):
    try:
        major, minor = map(int, text.split("."))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a compute capability like 9.0, got {text!r}") from None
    return major, minor


def _positive(text):
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as if interrupted
    sys.exit(main())
