"""Hyperparameters that several optimizers take, checked."""

from ..core.checks import number


def betas_of(betas):
    """The two betas as a rule takes them, with what they leave to the new value, rounded once from float64."""
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise TypeError(f"betas: expected two numbers, got {betas!r}")
    beta1, beta2 = (number(f"betas[{k}]", beta, high=1, high_is_open=True) for k, beta in enumerate(betas))
    return {"beta1": beta1, "beta2": beta2, "rest1": 1 - beta1, "rest2": 1 - beta2}


def positive(eps, weight_decay):
    """What most rules with adaptive learning rates take besides."""
    return {"eps": number("eps", eps), "weight_decay": number("weight_decay", weight_decay)}
