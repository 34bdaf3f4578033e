"""Draw a run's figures and its page again: `allmlp figures RUN`."""

from pathlib import Path


def figures(run: str | Path) -> Path:
    """Draw `figures/*.png` and `report.html` of a finished run from its files.

    Returns:
        The page's path.

    Raises:
        InputError: no finished run there.
    """
    from allmlp.figures.report import write_report

    return write_report(run)


def show(page: Path) -> str:
    """What the command line prints."""
    return str(page)
