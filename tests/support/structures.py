"""One array, a list or a dict of them, and groups of those: made, taken apart, and mapped."""

import numpy as np

from support.references import samples


def leaves(tree):
    """The arrays of any structure, in order."""
    if isinstance(tree, dict):
        tree = tree.values()
    return [leaf for part in tree for leaf in leaves(part)] if not hasattr(tree, "shape") else [tree]


def mapped(function, tree):
    """The structure with the function of each array."""
    if isinstance(tree, dict):
        return {name: function(array) for name, array in tree.items()}
    return [function(array) for array in tree] if isinstance(tree, list | tuple) else function(tree)


def arrays(structure, seed, dtypes, batch=()):
    """Arrays of these shapes, of each dtype in turn."""

    def array(k, shape):
        values = samples((1, *batch, *shape), dtypes[k % len(dtypes)], seed + k, wide=False)
        return np.array(values[0])

    if isinstance(structure, dict):
        return {name: array(k, shape) for k, (name, shape) in enumerate(structure.items())}
    if isinstance(structure, list):
        return [array(k, shape) for k, shape in enumerate(structure)]
    return array(0, structure)


def params_of(optimizer):
    return leaves([group.params for group in optimizer.groups])
