"""What was wrong with a person's data, item by item: nothing is left out or changed without a line here."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from allmlp.errors import InputError

ON_BAD = ("skip", "stop")


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        split: "train" or "val".
        where: the path, and the annotation's id where it is one annotation.
        reason: the kind of finding in a few words, the same for all of its kind, so that it can be counted.
        detail: the numbers of this one.
        kind: "skipped" (image or annotation left out), "clipped" (kept, changed) or "unused" (sound, but not wanted).
    """

    split: str
    where: str
    reason: str
    detail: str = ""
    kind: str = "skipped"


@dataclass
class DataReport:
    """All findings of reading a data set.

    Args:
        on_bad: "skip" lists what is skipped; "stop" raises `InputError` at the first thing that would be skipped.
    """

    on_bad: str = "skip"
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_bad not in ON_BAD:
            raise InputError(f"on_bad is one of {', '.join(ON_BAD)}; got {self.on_bad!r}.")

    def add(self, split: str, where: str, reason: str, detail: str = "", kind: str = "skipped") -> None:
        """List one finding; raises `InputError` instead if it is a skip and `on_bad` is "stop"."""
        if kind == "skipped" and self.on_bad == "stop":
            raise InputError(
                f"{split}: {where}: {reason}{f' ({detail})' if detail else ''}. "
                "Mend it, or let such items be skipped and listed with data.on_bad_image=skip."
            )
        self.problems.append(Problem(split, where, reason, detail, kind))

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How often each (split, kind, reason) was found, most frequent first."""
        return dict(Counter((p.split, p.kind, p.reason) for p in self.problems).most_common())

    def skipped(self, split: str | None = None) -> list[Problem]:
        """What was left out because something is wrong with it."""
        return [p for p in self.problems if p.kind == "skipped" and split in (None, p.split)]

    def summary(self, examples: int = 3) -> str:
        """The notes, then a line for each count with a few examples; empty if all was well."""
        lines = list(self.notes)
        for (split, kind, reason), count in self.counts().items():
            shown = [p for p in self.problems if (p.split, p.kind, p.reason) == (split, kind, reason)][:examples]
            named = "; ".join(p.where + (f" ({p.detail})" if p.detail else "") for p in shown)
            lines.append(f"{split}: {count} {kind}: {reason}: {named}{' ...' if count > len(shown) else ''}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "notes": list(self.notes),
            "counts": [
                {"split": split, "kind": kind, "reason": reason, "count": count}
                for (split, kind, reason), count in self.counts().items()
            ],
            "problems": [asdict(problem) for problem in self.problems],
        }
