"""Every update rule, once: (w, g, *state, *hyperparameters, *flags) -> (w, *state), all of them scalars.

Kernels for both devices are generated from these functions. A multiply-add is an explicit `fma`, a
literal is a constant of the array's precision, and a flag is fixed when the kernel is compiled.
"""

from . import adadelta, adagrad, adam, adamax, lamb, lars, lion, momentum, nadam, radam, rmsprop, sgd

_FILES = sgd, momentum, adagrad, adadelta, rmsprop, adam, adamax, nadam, radam, lion, lars, lamb

RULES = {rule.name: rule for file in _FILES for rule in file.ROWS}
