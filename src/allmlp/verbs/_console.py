"""Where verbs write what a person reads while they work: standard error, so that results can be piped."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def make_console(progress: str = "auto") -> "Console":
    """A console on standard error; silent for progress="none"."""
    from rich.console import Console

    return Console(stderr=True, quiet=progress == "none", soft_wrap=True)


def say(console: "Console", text: str) -> None:
    """Write plain lines, without markup or colours."""
    console.print(text, markup=False, highlight=False)


@contextlib.contextmanager
def counting(console: "Console", title: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A progress bar on a terminal, nothing elsewhere.

    Gives a function to call with the total, which returns one to call with each step's number.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def begin(total: int) -> Callable[[int], None]:
        task = bar.add_task(title, total=total)
        return lambda step: bar.update(task, advance=step)

    with bar:
        yield begin
