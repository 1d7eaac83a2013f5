"""Optimizers: what they share, their launches and state, and a class for each."""

from importlib import import_module
from typing import Any

HOMES = {
    "SGD": "sgd",
    "Momentum": "sgd",
    "Adagrad": "adagrad",
    "Adadelta": "adagrad",
    "RMSprop": "adagrad",
    "Adam": "adam",
    "AdamW": "adam",
    "Adamax": "adam",
    "NAdam": "adam",
    "RAdam": "adam",
    "Lion": "lion",
    "LARS": "layerwise",
    "LAMB": "layerwise",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'gdgpu.optimizers' has no attribute {name!r}")
    return getattr(import_module(f"gdgpu.optimizers.{HOMES[name]}"), name)
