"""Tables as users have them: read, split, standardised, and taken in mini-batches."""

from .dataset import Dataset, Split, digits, load, split
from .formats import DataError
from .minibatches import minibatches

__all__ = ["DataError", "Dataset", "Split", "digits", "load", "minibatches", "split"]
