"""Few of the optimizers, among whose rules every skeleton of a kernel comes: see test_factorisation.py."""

from support.optimizers import OPTIMIZERS, rule_of

LIKED = "Momentum", "Adam"  # compiled by most tests anyway


def skeleton(rule):
    """What the texts of its kernels depend on, beside its own functions: phases, states, and which are new early."""
    return bool(rule.norm), *(name in rule.early for name in rule.state)


def quantized_skeleton(rule):
    """The same where state is in 8 bits."""
    return skeleton(rule), *(rule.code(name) for name in rule.state)


def counting(rule):
    """A skeleton, and what is carried from step to step on the host's side of it."""
    return skeleton(rule), *rule.carried


def one_of_each(kind, labels=OPTIMIZERS):
    """The labels of optimizers, one of each kind of rule."""
    found = {}
    for label in sorted(labels, key=lambda label: label not in LIKED):
        found.setdefault(kind(rule_of(label)), label)
    return tuple(found.values())
