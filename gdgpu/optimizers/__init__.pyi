"""The classes, for editors and type checkers; __init__.py imports them when they are asked for."""

from .adagrad import Adadelta as Adadelta
from .adagrad import Adagrad as Adagrad
from .adagrad import RMSprop as RMSprop
from .adam import Adam as Adam
from .adam import Adamax as Adamax
from .adam import AdamW as AdamW
from .adam import NAdam as NAdam
from .adam import RAdam as RAdam
from .layerwise import LAMB as LAMB
from .layerwise import LARS as LARS
from .lion import Lion as Lion
from .sgd import SGD as SGD
from .sgd import Momentum as Momentum

HOMES: dict[str, str]
