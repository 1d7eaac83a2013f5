"""Covers of products: a few cases in which each pair of values comes together; with --full, all of them."""

import hashlib
import itertools

import pytest

FULL = False  # conftest.py makes it what --full says


def some(cases, together=2):
    """Some of the cases, tuples of one length, in which all values come that come in any, `together` at a time.

    Greedy: the case that brings most of what is missing, until nothing is.
    """
    brought = {case: set(itertools.combinations(enumerate(case), min(together, len(case)))) for case in cases}
    missing, chosen = set().union(*brought.values()), []
    while missing:
        brought = {case: new for case, combinations in brought.items() if (new := combinations & missing)}
        chosen.append(max(brought, key=lambda case: len(brought[case])))
        missing -= brought[chosen[-1]]
    return chosen


def in_slice(name, seed, parts):
    """Whether the test of this name is in the part that the seed chooses: one in `parts` is, the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) % parts == 0


def all_pairs(*sequences, allowed=lambda *case: True):
    """Some of the product's allowed cases, in which all pairs of values come that come in any allowed one."""

    def case_of(places):
        return tuple(sequence[place] for sequence, place in zip(sequences, places, strict=True))

    places = itertools.product(*(range(len(sequence)) for sequence in sequences))
    return list(map(case_of, some([each for each in places if allowed(*case_of(each))])))


def usual(cases, chosen):
    """The cases that are among the chosen ones; with --full all of them, the others marked as `full`."""
    if not FULL:
        return [case for case in cases if case in chosen]
    return [case if case in chosen else pytest.param(*_arguments(case), marks=pytest.mark.full) for case in cases]


def _arguments(case):
    return case if isinstance(case, tuple) else (case,)


def cover(allowed=lambda *case: True, ids=None, **arguments):
    """Parametrize a test over all pairs of its arguments' values; with --full over their whole product."""
    sequences = [list(values) for values in arguments.values()]
    cases = [case for case in itertools.product(*sequences) if allowed(*case)]
    return pytest.mark.parametrize(list(arguments), usual(cases, all_pairs(*sequences, allowed=allowed)), ids=ids)
