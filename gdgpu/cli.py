"""The command line: gdgpu train, gdgpu info. What is slow to import waits until it is needed."""

import os
import sys

import click

from . import __version__
from .options import MODELS, OPTIMIZERS, Options

_DEFAULT = Options()
_MOMENTA = ", ".join(f"{name} {o.defaults['momentum']:g}" for name, o in OPTIMIZERS.items() if "momentum" in o.defaults)


def main(args=None):
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
        from .training import Diverged

        if not isinstance(error, Diverged):
            raise
        code, message = 1, f"{error}; a smaller --lr may help"
    print("gdgpu:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _named_as_typed(message):
    """The library names its argument, "batch_size: ..."; the user typed --batch-size."""
    name, colon, rest = message.partition(":")
    return f"--{name.replace('_', '-')}:{rest}" if colon and hasattr(_DEFAULT, name) else message


def _batch_size(context, parameter, value):
    if value == "full":
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f'expected an int >= 1 or "full", got {value!r}') from None


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, message="gdgpu %(version)s")
@click.pass_context
def cli(context):
    """Gradient descent at the speed of memory, with the same bits on CPU and GPU."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(short_help="Train a model on a file, or on handwritten digits.")
@click.argument("data", required=False)
@click.option("--target", help="Column of a .csv (name or index, the last by default), array of an .npz, or file.")
@click.option("--model", type=click.Choice(list(MODELS)), help="By default what fits the target.")
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default=_DEFAULT.optimizer)
@click.option(
    "--batch-size",
    metavar="N|full",
    default=str(_DEFAULT.batch_size),
    callback=_batch_size,
    help="1: stochastic descent; full: batch descent.",
)
@click.option(
    "--lr",
    type=float,
    help="Learning rate; by default what suits the optimizer: of sgd, momentum and nesterov from the scale of the "
    "features, the batch size and the momentum.",
)
@click.option("--momentum", type=float, help=f"By default {_MOMENTA}; the others take none.")
@click.option("--epochs", type=int, default=_DEFAULT.epochs, help="In all, the resumed ones included.")
@click.option("--seed", type=int, default=_DEFAULT.seed, help="Of the split and of the shuffles.")
@click.option("--device", metavar="auto|cpu|cuda", help="By default GDGPU_DEVICE, or auto.")
@click.option("--test-fraction", type=float, default=_DEFAULT.test_fraction, help="Share of the samples held out.")
@click.option("--standardize/--no-standardize", default=True, help="Features to mean 0 and deviation 1.")
@click.option("--plot", metavar="FILE.png", help="Draw losses and accuracy or R^2.")
@click.option("--history", metavar="FILE.json", help="Write what happened in each epoch.")
@click.option("--checkpoint", metavar="FILE.safetensors", help="Written after every epoch.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint, if it exists.")
@click.option("--quiet", is_flag=True, help="Show errors only.")
def train(**options):
    """Train a model on DATA: .npz (X and y or t), .csv, .npy or IDX (with --target FILE).

    Without DATA: 1797 handwritten digits.
    """
    from .session import train

    try:
        train(Options(**options))
    except KeyboardInterrupt:  # click would print an empty line
        path, message = options["checkpoint"], "interrupted"
        if path and os.path.exists(path):
            message += f"; {path} holds the last finished epoch, --resume continues"
        raise click.Abort(message) from None


@cli.command()
def info():
    """Show versions and devices, and why a GPU is not used."""
    from .display import show_table
    from .info import rows

    show_table(rows())
