"""The command line: gdgpu train, compare, info. What is slow to import waits until it is needed."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from .. import __version__
from .options import HIDDEN, MODELS, OPTIMIZERS, TASKS, Options
from .progress import one_line

_DEFAULT = Options()
_MOMENTA = ", ".join(f"{name} {o.defaults['momentum']:g}" for name, o in OPTIMIZERS.items() if "momentum" in o.defaults)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0; 2 and one line for what the user can mend; 1 and one line
    if training diverged; 130 and one line if interrupted. Anything else is a bug, and keeps its traceback."""
    try:
        cli.main(args, prog_name="gdgpu", standalone_mode=False)
        sys.stdout.flush()
        return
    except (click.Abort, KeyboardInterrupt) as error:
        code, message = 130, str(error) or "interrupted"
    except BrokenPipeError:  # gdgpu info | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except click.ClickException as error:
        code, message = 2, error.format_message()
    except OSError as error:
        code, message = 2, ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    except (ValueError, TypeError) as error:
        code, message = 2, _named_as_typed(str(error))
    except MemoryError as error:
        code, message = 2, f"not enough memory: {error}"
    except ArithmeticError as error:
        from ..training import Diverged

        if not isinstance(error, Diverged):
            raise
        code, message = 1, f"{error}; a smaller --lr may help"
    print(one_line(f"gdgpu: {message}", sys.stderr.encoding), file=sys.stderr)
    sys.exit(code)


def _named_as_typed(message: str) -> str:
    """The library names its argument, "batch_size: ..."; the user typed --batch-size."""
    name, colon, rest = message.partition(":")
    typed = {option.name for command in cli.commands.values() for option in command.params if option.opts[0][0] == "-"}
    return f"--{name.replace('_', '-')}:{rest}" if colon and name in typed else message


class _BatchSize(click.ParamType):
    name = "batch size"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int | str:
        if value == "full" or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f'expected an int >= 1 or "full", got {value!r}', parameter, context)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator that adds these options and arguments, in this order."""
    return lambda command: functools.reduce(lambda command, option: option(command), reversed(options), command)


_DATA = _options(
    click.argument("data", required=False),
    click.option("--target", help="Column of a .csv (name or index, the last by default), array of an .npz, or file."),
    click.option("--header/--no-header", default=None, help="Whether line 1 of a .csv is names; by default found out."),
    click.option("--task", type=click.Choice(list(TASKS)), help="What the target is for; by default found out."),
    click.option("--model", type=click.Choice(list(MODELS)), help="By default what fits the target."),
    click.option("--hidden", metavar="N,…,N", help=f"Sizes of the hidden layers of mlp; by default {HIDDEN}."),
)
_TRAINING = _options(
    click.option("--device", metavar="auto|cpu|cuda", help="By default GDGPU_DEVICE, or auto."),
    click.option("--test-fraction", type=float, default=_DEFAULT.test_fraction, help="Share of the samples held out."),
    click.option("--standardize/--no-standardize", default=True, help="Features to mean 0 and deviation 1."),
)
_OPTIMIZER = {"type": click.Choice(list(OPTIMIZERS))}
_BATCH_SIZE = {"type": _BatchSize(), "metavar": "N|full", "help": "1: stochastic descent; full: batch descent."}
_LR = {
    "type": float,
    "help": "Learning rate; by default what suits the optimizer: of sgd, momentum and nesterov from the scale of the "
    "features, the batch size and the momentum.",
}
_HISTORY = click.option("--history", metavar="FILE.json", help="Write what happened in each epoch.")
_QUIET = click.option("--quiet", is_flag=True, help="Show errors only.")


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, message="gdgpu %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Gradient descent at the speed of memory, with the same bits on CPU and GPU."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(short_help="Train a model on a file, or on handwritten digits.")
@_DATA
@click.option("--optimizer", default=_DEFAULT.optimizer, **_OPTIMIZER)
@click.option("--batch-size", default=_DEFAULT.batch_size, **_BATCH_SIZE)
@click.option("--lr", **_LR)
@click.option("--momentum", type=float, help=f"By default {_MOMENTA}; the others take none.")
@click.option("--epochs", type=int, default=_DEFAULT.epochs, help="In all, the resumed ones included.")
@click.option("--seed", type=int, default=_DEFAULT.seed, help="Of the split and of the shuffles.")
@_TRAINING
@click.option("--plot", metavar="FILE.png", help="Draw losses and accuracy or R^2.")
@_HISTORY
@click.option("--checkpoint", metavar="FILE.safetensors", help="Written after every epoch.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint, if it exists.")
@_QUIET
def train(**options: Any) -> None:
    """Train a model on DATA: .npz (X and y or t), .csv, .npy or IDX (with --target FILE).

    Without DATA: 1797 handwritten digits.
    """
    from .train import train

    try:
        train(Options(**options))
    except KeyboardInterrupt:  # click would print an empty line
        path, message = options["checkpoint"], "interrupted"
        if path and os.path.exists(path):
            message += f"; {path} holds the last finished epoch, --resume continues"
        raise click.Abort(message) from None


@cli.command(short_help="Train with several optimizers, batch sizes or rates, side by side.")
@_DATA
@click.option("--optimizer", multiple=True, default=("sgd", "momentum", "nesterov", "adam"), **_OPTIMIZER)
@click.option("--batch-size", multiple=True, default=(_DEFAULT.batch_size, "full"), **_BATCH_SIZE)
@click.option("--lr", multiple=True, **_LR)
@click.option("--seed", multiple=True, type=int, default=(_DEFAULT.seed,), help="Several: mean and deviation.")
@click.option("--epochs", type=int, default=_DEFAULT.epochs)
@click.option("--reach", type=float, help="Training loss to time; by default the lowest that all runs reach.")
@_TRAINING
@click.option("--plot", metavar="FILE.png", help="Draw the training losses against epochs and against seconds.")
@_HISTORY
@_QUIET
def compare(
    optimizer: Sequence[str],
    batch_size: Sequence[int | str],
    lr: Sequence[float],
    seed: Sequence[int],
    reach: float | None,
    **shared: Any,
) -> None:
    """Train on DATA (as train takes it) once with each optimizer, batch size, learning rate and seed.

    Options that choose may be repeated: --optimizer sgd --optimizer adam --batch-size 1 --batch-size full.
    Runs of one seed begin with the same weights, on the same split.
    """
    from .compare import compare

    grid = {"optimizer": optimizer, "batch_size": batch_size, "lr": lr or (None,), "seed": seed}
    try:
        compare(Options(**shared), grid, reach)
    except KeyboardInterrupt:
        raise click.Abort from None


@cli.command()
def info() -> None:
    """Show versions and devices, and why a GPU is not used."""
    from .info import rows
    from .progress import show_table

    show_table(rows())
