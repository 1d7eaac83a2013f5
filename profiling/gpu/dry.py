"""The GPU's kernels with no GPU: NumPy's memory stands for the device's, a launch is noted and not made."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from peers import Arrays

from gdgpu import devices
from gdgpu.kernels.backend import cuda, driver, generated
from gpu.variants import replaced

NOTHING = b"\0.text.nothing\0"  # machine code, as far as anything here reads it

DONE = SimpleNamespace(done=True)  # an event
STREAM = SimpleNamespace(ptr=0, record=lambda event: None, wait_event=lambda event: None)


@dataclass
class Kernels:
    """Names, with their hashes, of the kernels that were asked for, and those that there was no machine code of.

    The latter were made, unless nothing is to be compiled. launches: how many there would have been.
    """

    asked: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    launches: int = 0


class Driver:
    """What kernels.backend.driver.Cupy is to the kernels, on a device that there is not."""

    def __init__(self, capability, kernels):
        self._capability, self._kernels = capability, kernels

    def device(self):
        return 0

    def stream(self):
        return STREAM.ptr

    def current_stream(self):
        return STREAM

    def capturing(self, stream):
        return False

    def event(self):
        return DONE

    def capability(self):
        return self._capability

    def load(self, cubin, name):
        return 1, None

    def launch(self, *launch):
        self._kernels.launches += 1


class _AbsentError(Exception):
    """Machine code would have to be compiled, and may not."""


@contextmanager
def without_a_gpu(
    capability: tuple[int, int] = (9, 0),
    compiles: bool = True,
    watch: Callable[[bytes, str], None] | None = None,
) -> Iterator[Kernels]:
    """In the block "cuda" is this device; yields the Kernels, which grow with what is launched.

    Machine code is looked for where a launch looks for it; what is not there is made and kept, or with compiles=False
    only noted, and nothing is written. watch(machine code, what ptxas says of it) is called with what is made.
    """
    kernels = Kernels()
    cubin, link = cuda.Kernel.cubin, cuda.Kernel.link

    def find(kernel, capability):
        kernels.asked.add(_name(kernel))
        try:
            return cubin(kernel, capability)
        except _AbsentError:
            return NOTHING

    def make(kernel, *how):
        kernels.absent.add(_name(kernel))
        if not compiles:
            raise _AbsentError
        made = link(kernel, *how)
        if watch:
            watch(*made)
        return made

    changes = [
        (devices, "simulated", lambda: True),
        (devices, "why_no_cuda", lambda: None),
        (driver, "api", Driver(capability, kernels)),
        (cuda.Kernel, "cubin", find),
        (cuda.Kernel, "link", make),
    ]
    if not compiles:
        changes.append((generated, "_write", lambda path, text: path))
    asked = os.environ.get("GDGPU_DEVICE")
    os.environ["GDGPU_DEVICE"] = "cuda"
    forget_loaded()
    try:
        with replaced(*changes):
            yield kernels
    finally:
        forget_loaded()
        del os.environ["GDGPU_DEVICE"]
        if asked is not None:
            os.environ["GDGPU_DEVICE"] = asked


def _name(kernel):
    return kernel.code.name if kernel.code else kernel.name


def forget_loaded() -> None:
    """Kernels remember the handle under which they were loaded, which is another device's."""
    for name, module in list(sys.modules.items()):
        if name.startswith("gdgpu.kernels.generated."):
            for kernel in vars(module).values():
                if isinstance(kernel, cuda.Kernel):
                    kernel._loaded.clear()


class _Module:
    """NumPy's functions under another name: what asks whether arrays are NumPy's takes these for a GPU's."""

    def __getattr__(self, name):
        return getattr(np, name)


class Addresses(Arrays):
    """Arrays of which only the addresses count: memory is reserved, and not filled."""

    def __init__(self, dtype="float32"):
        super().__init__(_Module(), dtype)

    def normal(self, *shape):
        return np.empty(shape, self._pool.dtype)

    def parameters(self, counts, gradients=None):
        source = Addresses(gradients) if gradients else self
        return [self.normal(n) for n in counts], [source.normal(n) for n in counts]
