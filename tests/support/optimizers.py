"""Every optimizer of the package, and each of its variants that has a rule of its own: the list that tests share."""

import numpy as np

import gdgpu

# label: (class, arguments). Where a default leaves a part of the formula out, the arguments bring it in.
OPTIMIZERS = {
    "SGD": ("SGD", {}),
    "SGD-momentum": ("SGD", {"momentum": 0.9}),
    "SGD-dampening": ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    "SGD-nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "Momentum": ("Momentum", {}),
    "Adagrad": ("Adagrad", {}),
    "Adagrad-lr_decay": ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    "Adadelta": ("Adadelta", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop-momentum": ("RMSprop", {"momentum": 0.9}),
    "RMSprop-centered": ("RMSprop", {"centered": True}),
    "RMSprop-centered-momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adam": ("Adam", {}),
    "Adam-amsgrad": ("Adam", {"amsgrad": True}),
    "AdamW": ("AdamW", {}),
    "AdamW-amsgrad": ("AdamW", {"amsgrad": True}),
    "Adamax": ("Adamax", {}),
    "NAdam": ("NAdam", {}),
    "RAdam": ("RAdam", {"betas": (0.5, 0.75)}),  # the variance of its step is known soon
    "Lion": ("Lion", {}),
    "LARS": ("LARS", {}),
    "LAMB": ("LAMB", {}),
}
NAMES = tuple(dict.fromkeys(name for name, _ in OPTIMIZERS.values()))
DECIDING = {"momentum": 0.5, "amsgrad": True, "centered": True}  # arguments that decide which state there is


def class_of(label, module=gdgpu):
    """The class of this label in OPTIMIZERS; torch's, if the module is torch.optim."""
    return getattr(module, OPTIMIZERS[label][0])


def arguments_of(label, **hyper):
    """The arguments of this label, and these in their place or beside them."""
    return OPTIMIZERS[label][1] | hyper


def make(label, params, lr=0.1, **hyper):
    """The optimizer of this label in OPTIMIZERS."""
    return class_of(label)(params, lr=lr, **arguments_of(label, **hyper))


def rule_of(label):
    """The rule that the optimizer of this label uses."""
    return make(label, np.ones(1))._engine.parts[0].rule


def deciding(arguments):
    """What an optimizer needs, of the arguments of another, to load its state."""
    return {name: value for name, value in DECIDING.items() if name in arguments}


def schedule(steps):
    """A learning rate that falls."""
    return 0.1 / (1 + 0.05 * steps)


def snapshot(optimizer):
    """Everything that a step, an assignment or loading may change; arrays as bytes, state as it is held."""
    params = [np.asarray(v.owner).tobytes() for v in optimizer._engine.views]
    state = [[array.array.tobytes() for array in states] for states in optimizer._engine.state]
    products = {s.key: s.carried.tolist() for s in optimizer._engine.scalars.values() if s.rule.carried}
    rates = [group.lr for group in optimizer.groups]
    return params, state, products, optimizer.steps, rates, optimizer.state_dict()["hyper"]
