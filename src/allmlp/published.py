"""What papers, authors' repositories and re-evaluations state of a model, read from published.toml beside this file."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A number as its source prints it.

    value, unit: such as 76.44 "%". source: a paper's table or a repository. status: "verified" if the source was read,
    "from memory" if not. setting: what it belongs to, where a model has several numbers of a kind.
    """

    value: float
    unit: str
    source: str
    status: str
    setting: str = ""


@functools.cache
def read_published() -> Mapping[str, Mapping[str, Mapping[str, list[Published]]]]:
    """Every number: group (models, peers, detectors, segmenters) -> name -> kind, such as top1 -> the numbers."""
    with open(Path(__file__).with_suffix(".toml"), "rb") as file:
        groups = tomllib.load(file)
    return {
        group: {
            name: {kind: [Published(**number) for number in numbers] for kind, numbers in kinds.items()}
            for name, kinds in names.items()
        }
        for group, names in groups.items()
    }


def published(name: str, kind: str, group: str = "models") -> list[Published]:
    """The numbers of a kind that are known of a name, the headline first; none for a name without any."""
    return read_published()[group].get(name, {}).get(kind, [])
