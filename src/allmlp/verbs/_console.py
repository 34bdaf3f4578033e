"""Where verbs write what a person reads while they work: standard error, so that results can be piped."""

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
