"""What a private training spends, by other ways than the library that the example asks."""

import math

import numpy as np


def gaussian_epsilon(noise, delta):
    """One Gaussian mechanism, exactly. Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8."""

    def below(z):
        return math.erfc(-z / 2**0.5) / 2

    def spent(epsilon):
        half = 1 / (2 * noise)
        return below(half - epsilon * noise) - math.exp(epsilon) * below(-half - epsilon * noise)

    return _smallest(spent, delta)


def renyi_epsilon(rate, noise, steps, delta):
    """An upper bound for Poisson samples.

    Sources: Mironov, Talwar and Zhang 2019, arXiv:1908.10530, section 3.3; from Renyi divergence to epsilon: Canonne,
    Kamath and Steinke 2020, arXiv:2004.00010, proposition 12.
    """
    bounds = []
    for order in range(2, 33):
        moment = sum(
            math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * noise**2))
            for k in range(order + 1)
        )
        divergence = steps * math.log(moment) / (order - 1)
        bounds.append(divergence - math.log(delta * order) / (order - 1) + math.log1p(-1 / order))
    return min(bounds)


def least_epsilon(rate, noise, steps, delta, cell=2e-5, cells=1 << 19):
    """A lower bound for Poisson samples: the privacy losses when a sample is removed, rounded down, added up by FFT.

    Sums of losses wrap around outside of cell * cells / 2 on either side of 0, where there must be none.
    """
    x = np.linspace(-10 * noise, 10 * noise, 100_000)
    loss = np.floor(np.log1p(rate * np.expm1((2 * x[:-1] - 1) / (2 * noise**2))) / cell).astype(int)
    mass = sum(
        share * np.diff([math.erfc((at - edge) / (2**0.5 * noise)) / 2 for edge in x])
        for share, at in ((1 - rate, 0), (rate, 1))
    )
    composed = np.fft.irfft(np.fft.rfft(np.bincount(loss % cells, mass, cells)) ** steps)
    losses = cell * np.fft.fftfreq(cells, 1 / cells)
    return _smallest(lambda epsilon: composed @ np.maximum(-np.expm1(epsilon - losses), 0), delta)


def _smallest(spent, delta, largest=20.0):
    """The smallest epsilon >= 0 at which spent(epsilon), which falls, is delta at most."""
    low, high = 0.0, largest
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high
