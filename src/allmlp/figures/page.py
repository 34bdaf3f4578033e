"""A self-contained HTML page: no script, no other file, readable without a network."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from allmlp.figures.style import data_uri, png_bytes

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1080px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p.lead { font-size: 1.15rem; margin: .2rem 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; } th, td { text-align: left; padding: .18rem .9rem .18rem 0;
  vertical-align: top; border-bottom: 1px solid #eee; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: #555; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.card { border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem; min-width: 6.5rem; }
.card b { display: block; font-size: 1.35rem; } .card span { color: #666; font-size: .85rem; }
img { max-width: 100%; height: auto; } pre { background: #f6f6f6; padding: .7rem 1rem; overflow-x: auto; }
figure { margin: 0 0 1.4rem; } table { margin-bottom: 1.2rem; } figcaption, .note { color: #666; font-size: .9rem; }
"""


@dataclass
class Page:
    """Parts of a page in the order they were added."""

    title: str
    parts: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)

    def heading(self, text: str) -> None:
        """A section's heading."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; kind "lead" or "note"."""
        mark = f' class="{kind}"' if kind else ""
        self.parts.append(f"<p{mark}>{html.escape(text)}</p>")

    def cards(self, numbers: Mapping[str, str]) -> None:
        """Key numbers: label -> value."""
        inner = "".join(
            f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
            for label, value in numbers.items()
        )
        self.parts.append(f'<div class="cards">{inner}</div>')

    def table(self, rows: Sequence[Sequence[str]], header: Sequence[str] = (), numbers_from: int = 99) -> None:
        """A table; columns from `numbers_from` on are set as numbers."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td{' class=n' if index >= numbers_from else ''}>{html.escape(cell)}</td>"
                for index, cell in enumerate(row)
            )
            + "</tr>"
            for row in rows
        )
        self.parts.append(f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>")

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """A drawing, kept under `name` for a file of its own, with what it shows."""
        self.figures[name] = figure
        self.parts.append(
            f'<figure><img src="{data_uri(png_bytes(figure))}" alt="{html.escape(caption)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def commands(self, commands: Mapping[str, str]) -> None:
        """Commands to type: command -> what it does."""
        width = max(map(len, commands))
        lines = [f"{command:{width}}  # {comment}" for command, comment in commands.items()]
        self.parts.append(f"<pre>{html.escape(chr(10).join(lines))}</pre>")

    def html(self) -> str:
        """The whole page, under its title."""
        title = html.escape(self.title)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_CSS}</style></head>'
            f"<body>\n<h1>{title}</h1>\n" + "\n".join(self.parts) + "\n</body></html>\n"
        )
