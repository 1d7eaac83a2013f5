"""What is measured: the table of cases, their names and sizes. The families of kernels are in the files beside it.

A family is a function of (arrays, size) that returns the bytes that a call must move, and {contender: maker}. A maker
allocates what its library needs and returns the call; makers of contenders that nobody asked for are never called.
"""

import re
from dataclasses import dataclass

import numpy as np
from peers import Optimizer

from cases import models, reduction, samples
from cases.optimizers import OPTIMIZERS, update

GDGPU_PEERS = ("usual_state", "usual")  # gdgpu's, for optimizers that store something more narrowly
PEERS = {
    "cpu": ("numpy", "torch", "torch_matvec", "sklearn", "sklearn_fit", "read", *GDGPU_PEERS),
    "cuda": ("cupy", "torch", "torch_compile", "torch_matvec", *GDGPU_PEERS),
}
KNOWN_PEERS = tuple(dict.fromkeys(peer for peers in PEERS.values() for peer in peers))
DTYPES = ("float32", "bfloat16", "float16", "float64")
MIXED = 1 << 26  # elements of all the tensors of a size like 1000-mixed

KINDS = {
    **{kind: (update, optimizer) for kind, optimizer in OPTIMIZERS.items()},
    "reduce": (reduction.reduce,),
    "reduce_update": (reduction.fused, OPTIMIZERS["momentum"]),
    "norms": (samples.norms,),
    "clip_update": (samples.clip, OPTIMIZERS["momentum"]),
    "statistics": (samples.statistics,),
    "median": (samples.robust, False),
    "trimmed_mean": (samples.robust, True),
    "linear_gradient": (models.gradient, "linear"),
    "softmax_gradient": (models.gradient, "softmax"),
    "softmax_gradient_bytes": (models.gradient, "softmax", True),
    "logistic_epoch": (models.epoch,),
}
FAMILIES = tuple(dict.fromkeys(family.__name__ for family, *_ in KINDS.values()))
WORDS = tuple(dict.fromkeys((*FAMILIES, *KINDS)))


@dataclass(frozen=True)
class Case:
    """A row of the report, and what it must reach in `dtype` on a GPU.

    limit: share of the bandwidth of a copy of as many bytes. peer_limit: time of a peer over gdgpu's, a number for all
    peers or {peer: number}. devices: where it is measured, unless asked for by its name.
    """

    kind: str
    size: str
    limit: float | None = None
    peer_limit: float | dict | None = None
    devices: tuple = ("cuda",)
    dtype: str = "float32"

    @property
    def name(self):
        return f"{self.kind}/{self.size}"

    @property
    def family(self):
        return KINDS[self.kind][0].__name__

    @property
    def parameters(self):
        """How many a step updates; None for other families."""
        return sum(parse_size(self.kind, self.size)) if self.family == "update" else None

    @property
    def torch(self):
        """What torch takes part with, if that is one of its optimizers: "SGD, fused"."""
        _, *options = KINDS[self.kind]
        return options[0].torch_label if options and isinstance(options[0], Optimizer) else None

    def problem(self, arrays):
        """(bytes, {contender: maker}), on arrays of its own."""
        family, *options = KINDS[self.kind]
        return family(arrays, parse_size(self.kind, self.size), *options)


EVERYWHERE = ("cuda", "cpu")
TALL = {"torch": 1.0, "torch_compile": 1.0, "cupy": 3.0}  # many rows of few columns
TABLE = (
    Case("momentum", "1x2^28", 0.95, 1.0),
    Case("adam", "1x2^28", 0.95, 1.0),
    Case("momentum", "1000-mixed", 0.90, 1.1),
    Case("momentum", "100x65536", None, 1.5),
    Case("momentum", "100x1024", None, 1.5),
    Case("reduce", "256x2^20", 0.93, 1.0),
    Case("reduce", "4096x2^16", 0.93, 1.0),
    Case("reduce", "65536x784", 0.90, TALL, devices=EVERYWHERE),
    Case("reduce", "2^20x64", 0.90, TALL),
    Case("reduce_update", "64x2^22", 0.93, 1.3),
    Case("momentum", "50e6", devices=("cpu",)),
    Case("reduce", "256x200000", devices=("cpu",)),
    Case("reduce", "64x1000000", devices=("cpu",)),
    Case("reduce", "4096x10000", devices=("cpu",)),
    Case("reduce_update", "256x200000", devices=("cpu",)),
    Case("reduce_update", "64x1000000", devices=("cpu",)),
    Case("reduce_update", "4096x10000", devices=("cpu",)),
    Case("reduce_update", "65536x784", devices=("cpu",)),
    *(Case(kind, "1x2^28", 0.93) for kind in OPTIMIZERS if kind not in ("momentum", "adam", "momentum_8bit_g16")),
    Case("momentum_8bit_g16", "1x2^28", 0.93, {"usual": 1.5}),
    *(Case(kind, "4096x2^16", 0.90) for kind in ("norms", "statistics")),
    *(Case(kind, "65536x784", 0.90, devices=EVERYWHERE) for kind in ("norms", "statistics")),
    Case("clip_update", "65536x784", 0.90, {"cupy": 3.0}, devices=EVERYWHERE),
    Case("clip_update", "64x2^22", 0.45, {"cupy": 3.0}),  # it reads twice: 0.9 of the bytes that this moves
    Case("linear_gradient", "40000x10000", 0.90, {"cupy": 1.7}, devices=EVERYWHERE),
    Case("softmax_gradient", "60000x784", 0.90, devices=EVERYWHERE),
    *(Case(kind, "4096x10000", devices=("cpu",)) for kind in ("norms", "clip_update", "statistics", "linear_gradient")),
    *(Case(kind, "64x200000", devices=("cpu",)) for kind in ("median", "trimmed_mean")),
    Case("softmax_gradient_bytes", "60000x784", devices=("cpu",)),
    Case("logistic_epoch", "100000x100", devices=("cpu",)),
)
CASES = {case.name: case for case in TABLE}


def find(name):
    """The case of the table, or one like it of another size: "reduce/256x4096". ValueError for any other name."""
    kind, _, size = name.partition("/")
    if kind not in KINDS:
        raise ValueError(f"case: expected {', '.join(WORDS)} or one of {', '.join(CASES)}, got {name!r}")
    parse_size(kind, size)
    return CASES.get(name, Case(kind, size))


def select(words, sizes, device):
    """Names of cases. words: families, kinds or names, none: everything; sizes: take these instead of the table's."""
    names = []
    for word in words or KINDS:
        kinds = [kind for kind, (family, *_) in KINDS.items() if word in (kind, family.__name__)]
        if not kinds:
            names.append(find(word).name)
        elif sizes:
            names += [find(f"{kind}/{size}").name for kind in kinds for size in sizes]
        else:
            names += [name for name, case in CASES.items() if case.kind in kinds and device in case.devices]
    return list(dict.fromkeys(names))


def parse_peers(text, device):
    """The peers in "torch,numpy"; no text: all of the device; "none": none."""
    if text in (None, "none"):
        return () if text else PEERS[device]
    for peer in text.split(","):
        if peer not in KNOWN_PEERS:
            raise ValueError(f"peers: expected some of {', '.join(KNOWN_PEERS)}, or none, got {peer!r}")
    return tuple(dict.fromkeys(text.split(",")))


def parse_size(kind, text):
    """Elements of each tensor, or the shape of a matrix: "100x1024", "1000-mixed" (tensors only), "2^20x64", "50e6"."""
    matrix = KINDS[kind][0] is not update
    takes = "ROWSxCOLUMNS" if matrix else "TENSORSxELEMENTS, ELEMENTS or TENSORS-mixed"
    try:
        if matrix:
            rows, columns = map(_integer, text.split("x"))
            return rows, columns
        if text.endswith("-mixed"):
            return mixed(_integer(text.removesuffix("-mixed")), MIXED)
        *tensors, elements = map(_integer, text.split("x"))
        (tensors,) = tensors or (1,)
        return [elements] * tensors
    except ValueError:
        raise ValueError(f"sizes: {kind} takes {takes}, numbers like 784, 50e6 or 2^20, got {text!r}") from None


def mixed(tensors, total):
    """That many sizes, from 1 to a few percent of `total`, which they add up to; always the same."""
    rng = np.random.default_rng(0)
    return (1 + rng.multinomial(total - tensors, rng.dirichlet(np.full(tensors, 0.1)))).tolist()


def _integer(text):
    """784, 50e6 or 2^20, at least 1."""
    if not re.fullmatch(r"\d+(e\d+|\^\d+)?", text):
        raise ValueError
    base, _, power = text.partition("^")
    value = int(base) ** int(power) if power else int(float(text))
    if not 1 <= value < 1 << 48:
        raise ValueError
    return value
