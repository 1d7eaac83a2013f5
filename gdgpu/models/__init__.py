"""Models: linear ones that read the batch once, and a network."""

from .linear import HuberRegression, LinearRegression, LogisticRegression, PoissonRegression, SoftmaxRegression
from .mlp import MLP

__all__ = [
    "MLP",
    "HuberRegression",
    "LinearRegression",
    "LogisticRegression",
    "PoissonRegression",
    "SoftmaxRegression",
]
