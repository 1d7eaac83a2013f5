"""How objects are copied."""

import copy
import pickle


def pickled(what):
    """What a pickle of it gives back."""
    return pickle.loads(pickle.dumps(what))


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled}
