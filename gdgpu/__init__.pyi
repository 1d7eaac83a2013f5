"""The public names, for editors and type checkers; __init__.py imports them when they are asked for."""

from . import checkpoint as checkpoint
from . import datasets as datasets
from . import devices as devices
from . import machine_code as machine_code
from . import models as models
from . import schedules as schedules
from .datasets.minibatches import minibatches as minibatches
from .kernels.backend.scalars import fma as fma
from .kernels.backend.scalars import maximum as maximum
from .kernels.backend.scalars import minimum as minimum
from .kernels.backend.scalars import sign as sign
from .kernels.backend.scalars import sqrt as sqrt
from .kernels.backend.threads import num_threads as num_threads
from .kernels.backend.threads import set_num_threads as set_num_threads
from .optimizers.adagrad import Adadelta as Adadelta
from .optimizers.adagrad import Adagrad as Adagrad
from .optimizers.adagrad import RMSprop as RMSprop
from .optimizers.adam import Adam as Adam
from .optimizers.adam import Adamax as Adamax
from .optimizers.adam import AdamW as AdamW
from .optimizers.adam import NAdam as NAdam
from .optimizers.adam import RAdam as RAdam
from .optimizers.base import Optimizer as Optimizer
from .optimizers.flatten import flatten as flatten
from .optimizers.layerwise import LAMB as LAMB
from .optimizers.layerwise import LARS as LARS
from .optimizers.lion import Lion as Lion
from .optimizers.rule import rule as rule
from .optimizers.sgd import SGD as SGD
from .optimizers.sgd import Momentum as Momentum
from .samples.accumulator import Accumulator as Accumulator
from .samples.clipping import clip_weights as clip_weights
from .samples.clipping import sample_norms as sample_norms
from .samples.reduce import reduce_samples as reduce_samples
from .samples.statistics import median_samples as median_samples
from .samples.statistics import sample_statistics as sample_statistics
from .samples.statistics import trimmed_mean_samples as trimmed_mean_samples
from .training import Diverged as Diverged
from .training import History as History
from .training import fit as fit

__version__: str
__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Accumulator",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Diverged",
    "History",
    "Lion",
    "Momentum",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "checkpoint",
    "clip_weights",
    "datasets",
    "devices",
    "fit",
    "flatten",
    "fma",
    "machine_code",
    "maximum",
    "median_samples",
    "minibatches",
    "minimum",
    "models",
    "num_threads",
    "reduce_samples",
    "rule",
    "sample_norms",
    "sample_statistics",
    "schedules",
    "set_num_threads",
    "sign",
    "sqrt",
    "trimmed_mean_samples",
]
