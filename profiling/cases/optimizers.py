"""Cases of optimizers: a step of each. A new one is a line: gdgpu's name, and how many states it keeps."""

from dataclasses import replace
from functools import partial
from math import sqrt

from peers import Optimizer

HEAVY = {"lr": 1e-3, "momentum": 0.9}

OPTIMIZERS = {
    "momentum": Optimizer(
        "Momentum",
        1,
        HEAVY,
        theirs="SGD",
        functional=HEAVY | {"dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
        kernel=("A lr, A momentum", "T w, A v", "v = momentum * v - lr * g; w = w + v"),
        scalars=lambda step: (1e-3, 0.9),
    ),
    "adam": Optimizer(
        "Adam",
        2,
        {"lr": 1e-3},
        functional={"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        | {"amsgrad": False, "capturable": True},
        kernel=(
            "A rate, A root",
            "T w, A m, A v",
            "m += A(0.1) * (g - m); v += A(0.001) * (A(g) * g - v); w = w - rate * m / (sqrt(v) * root + A(1e-8))",
        ),
        scalars=lambda step: (1e-3 / (1 - 0.9**step), 1 / sqrt(1 - 0.999**step)),
    ),
    "nesterov": Optimizer("Momentum", 1, HEAVY | {"nesterov": True}, theirs="SGD"),
    "gradient_descent": Optimizer("SGD", 0, {"lr": 1e-3}),
    "sgd": Optimizer("SGD", 1, HEAVY),
    "adagrad": Optimizer("Adagrad", 1),
    "rmsprop": Optimizer("RMSprop", 1),
    "rmsprop_centered": Optimizer("RMSprop", 3, {"centered": True, "momentum": 0.9}),
    "adadelta": Optimizer("Adadelta", 2),
    "adam_amsgrad": Optimizer("Adam", 3, {"amsgrad": True}),
    "adamw": Optimizer("AdamW", 2),
    "adamax": Optimizer("Adamax", 2),
    "nadam": Optimizer("NAdam", 2),
    "radam": Optimizer("RAdam", 2),
    "lion": Optimizer("Lion", 1, nearest=("SGD", HEAVY)),
    "lars": Optimizer("LARS", 1, {"lr": 1e-3}, twice=("w", "g"), theirs=""),
    "lamb": Optimizer("LAMB", 2, twice=("w", "state"), theirs=""),
}

# Fewer bytes, which are compared with gdgpu's own usual ones.
STORAGE = {
    "g16": {"gradients": "bfloat16"},
    "16bit": {"storage": {"state_dtype": "bfloat16"}},
    "16bit_g16": {"storage": {"state_dtype": "bfloat16"}, "gradients": "bfloat16"},
    "8bit": {"storage": {"state_dtype": "uint8"}},
    "8bit_g16": {"storage": {"state_dtype": "uint8"}, "gradients": "bfloat16"},
}
OPTIMIZERS |= {
    f"{kind}_{suffix}": replace(OPTIMIZERS[kind], functional=None, kernel=None, **stored)
    for kind in ("momentum", "adam")
    for suffix, stored in STORAGE.items()
}


def update(arrays, counts, optimizer):
    """A step on gradients in memory: reads w, g and the states, writes w and the states."""

    def bound(optimizer):
        return optimizer.bound(*arrays.parameters(counts, optimizer.gradients))

    makers = {"gdgpu": partial(bound, optimizer)}
    makers |= {name: partial(bound, usual) for name, usual in optimizer.usual().items()}
    if optimizer.torch:
        makers["torch"] = lambda: optimizer.torch_step(*arrays.tensors(counts))[0]
    if optimizer.functional:
        makers["torch_compile"] = lambda: optimizer.compiled_step(*arrays.tensors(counts))
    if optimizer.kernel:
        makers["cupy"] = lambda: optimizer.cupy_step(arrays, *arrays.parameters(counts))
    return round(sum(counts) * optimizer.element_bytes(arrays)), makers
