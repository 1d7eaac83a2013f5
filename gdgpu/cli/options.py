"""What a run can be made of: the tables of models and optimizers, and the command line's options."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Model(NamedTuple):
    """new: class in gdgpu.models. kind: of its targets, values or classes; None if it takes either."""

    new: str
    kind: str | None


class Optimizer(NamedTuple):
    """new: class in gdgpu. fixed: arguments that make the variant. defaults: its hyperparameters,
    with lr only if it does not depend on the scale of the features."""

    new: str
    fixed: dict[str, Any]
    defaults: dict[str, float]


MODELS = {
    "linear": Model("LinearRegression", "values"),
    "huber": Model("HuberRegression", "values"),
    "poisson": Model("PoissonRegression", "values"),
    "logistic": Model("LogisticRegression", "classes"),
    "softmax": Model("SoftmaxRegression", "classes"),
    "mlp": Model("MLP", None),
}
TASKS = {"regression": "values", "classification": "classes"}  # kinds of targets
HIDDEN = "128"  # sizes of the hidden layers of mlp
RATES = {"values": 0.25, "classes": 8}  # factor of the default lr, by the kind of the targets
OPTIMIZERS = {
    "sgd": Optimizer("SGD", {}, {"momentum": 0.0}),
    "momentum": Optimizer("Momentum", {}, {"momentum": 0.9}),
    "nesterov": Optimizer("Momentum", {"nesterov": True}, {"momentum": 0.9}),
    "adagrad": Optimizer("Adagrad", {}, {"lr": 0.1}),
    "rmsprop": Optimizer("RMSprop", {}, {"lr": 0.003, "momentum": 0.0}),
    "adadelta": Optimizer("Adadelta", {}, {"lr": 1.0}),
    "adam": Optimizer("Adam", {}, {"lr": 0.003}),
    "adamw": Optimizer("AdamW", {}, {"lr": 0.003}),
    "adamax": Optimizer("Adamax", {}, {"lr": 0.005}),
    "nadam": Optimizer("NAdam", {}, {"lr": 0.002}),
    "radam": Optimizer("RAdam", {}, {"lr": 0.005}),
    "lion": Optimizer("Lion", {}, {"lr": 0.0005}),
    "lars": Optimizer("LARS", {}, {"lr": 0.5, "momentum": 0.9}),
    "lamb": Optimizer("LAMB", {}, {"lr": 0.005}),
}


@dataclass(frozen=True)
class Options:
    """The options of `gdgpu train` with their defaults; None: chosen by the data, the model or the optimizer."""

    data: str | None = None
    target: str | None = None
    header: bool | None = None
    task: str | None = None
    model: str | None = None
    hidden: str | None = None
    optimizer: str = "momentum"
    batch_size: int | str = 32
    lr: float | None = None
    momentum: float | None = None
    epochs: int = 30
    seed: int = 0
    device: str | None = None
    test_fraction: float = 0.2
    standardize: bool = True
    plot: str | None = None
    history: str | None = None
    checkpoint: str | None = None
    resume: bool = False
    quiet: bool = False
