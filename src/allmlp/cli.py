"""The command line: one command a verb, no logic. `allmlp VERB [SUBJECT] key=value ...`"""

import os
from collections.abc import Callable
from typing import Any

import typer

from allmlp._version import __version__
from allmlp.verbs import verb_help, verbs

_EPILOG = "Keys are written key=value, for example: allmlp train data=photos model=mixer_nano epochs=20"

app = typer.Typer(
    name="allmlp",
    help="All-MLP vision models: train, measure, deploy.",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _main(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _command(name: str) -> Callable[..., Any]:
    def command(words: list[str] = typer.Argument(None, metavar="SUBJECT|KEY=VALUE")) -> None:  # noqa: B008
        from allmlp.verbs._run import run_verb

        raise typer.Exit(run_verb(name, words or []))

    return command


for _name in verbs():
    _sentence, _examples = verb_help(_name)
    app.command(_name, help=_sentence, epilog=_examples)(_command(_name))


def main() -> None:
    """Entry point of the `allmlp` command."""
    # Before torch is loaded: OpenMP's threads else spin while they wait for each other, which makes two processes on
    # one machine several times slower than one after the other (docs/performance.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="allmlp")
