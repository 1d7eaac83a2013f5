"""Statistical criteria. A score is how many standard deviations a statistic is from what a claim makes it."""

import math

import numpy as np


def holds(scores):
    """Whether no score is what happens less than once in a million times."""
    return all(abs(score) < 5 for score in scores.values())


def normal_scores(values, deviation):
    """Of the claim that the values are independent, of a normal distribution of mean 0 and this deviation."""
    z = np.sort(values, axis=None).astype(float) / deviation
    n = z.size
    below = np.array([math.erfc(-value / 2**0.5) / 2 for value in z])
    distance = max((np.arange(1, n + 1) / n - below).max(), (below - np.arange(n) / n).max())
    return {
        "mean": z.mean() * n**0.5,
        "variance": ((z**2).mean() - 1) * (n / 2) ** 0.5,
        "skewness": (z**3).mean() * (n / 15) ** 0.5,
        "kurtosis": ((z**4).mean() - 3) * (n / 96) ** 0.5,
        "distribution": 2 * distance * n**0.5,  # Kolmogorov: above 5 once in 130,000 times
    }


def pair_scores(z):
    """Of the claim that the rows of z, of mean 0 and variance 1, are independent of each other."""
    products = (z @ z.T)[np.triu_indices(len(z), 1)] / z.shape[1] ** 0.5
    return {"pairs": _sum(products), "pairs, squared": _squares(products)}


def poisson_scores(drawn, rate):
    """Of the claim that each sample is in each step by itself, with probability `rate`. drawn: (steps, samples)."""
    steps, samples = drawn.shape
    variance = rate * (1 - rate)
    z = (drawn - rate) / variance**0.5
    next_step = (z[1:] * z[:-1]).sum(axis=0) / (steps - 1) ** 0.5
    return {
        "batch size": _sum(z),
        "variance of the batch size": (drawn.sum(axis=1).var() / (samples * variance) - 1) * (steps / 2) ** 0.5,
        "each sample": _squares(z.sum(axis=0) / steps**0.5),
        "next step": _sum(next_step),
        "next step, squared": _squares(next_step),
        **pair_scores(z.T),
    }


def _sum(z):
    return z.sum() / z.size**0.5


def _squares(z):
    return ((z**2).mean() - 1) * (z.size / 2) ** 0.5
