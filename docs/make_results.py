"""Put the tables of docs/results/*.csv, which `allmlp compare` wrote, into docs/results.md.

    cp COMPARISON/table.csv docs/results/NAME.csv && python docs/make_results.py

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`.
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
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- {match[1]} -->\n{table(HERE / 'results' / f'{match[1]}.csv')}<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    """Write the page."""
    page = HERE / "results.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
