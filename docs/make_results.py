"""Put the tables of docs/results/*.csv into docs/results.md and docs/performance.md.

The ones of the first page are from `allmlp compare`, those of the second are written by `benchmarks/speed.py`:

    cp COMPARISON/table.csv docs/results/NAME.csv && python docs/make_results.py

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`; one without a file stays as it is. The
picture docs/figures/NAME.png, if there is one, follows its table.
"""

import csv
import re
from pathlib import Path

HERE = Path(__file__).parent


def table(path: Path) -> str:
    """The rows of a CSV file as a Markdown table."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_tables(text: str) -> str:
    """The page with every table as its file has it now."""

    def renewed(match: re.Match[str]) -> str:
        path, figure = HERE / "results" / f"{match[1]}.csv", HERE / "figures" / f"{match[1]}.png"
        if not path.is_file():
            return match[0]
        picture = f"\n![{match[1].replace('_', ' ')}](figures/{figure.name})\n" if figure.is_file() else ""
        return f"<!-- {match[1]} -->\n{table(path)}{picture}<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", renewed, text, flags=re.DOTALL)


def main() -> None:
    """Write the pages."""
    for page in (HERE / "results.md", HERE / "performance.md"):
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
