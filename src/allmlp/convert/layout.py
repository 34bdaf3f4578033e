"""What a checkpoint layout is: how to recognise it, and which of its tensors becomes which of ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]


@dataclass
class Conversion:
    """The tensors of a file under this package's keys.

    tensors: our key -> tensor, in the file's own size.
    origin: our key -> (the file's key, what was done to it: "copied", "transposed", "reshaped", "merged").
    unexpected: keys of the file that have no place in the model.
    arguments: constructor arguments that the file implies, such as the form of GELU.
    notes: what the reader should know, such as a setting that leaves no trace in the weights.
    folded: the file holds an inference form, which loads only into a folded model.
    """

    layout: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, tuple[str, str]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folded: bool = False

    def put(self, key: str, tensor: Tensor, source: str, how: str = "copied") -> None:
        """Add one tensor and where it came from."""
        self.tensors[key] = tensor
        self.origin[key] = (source, how)


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors of one architecture.

    detect: from the file's state dict, whether it has this layout. The first layout that says yes is used.
    convert: rename, transpose and reshape.
    """

    name: str
    detect: Callable[[State], bool]
    convert: Callable[[State], Conversion]


def rename(
    layout: str,
    state: State,
    rules: Callable[[str, Tensor], tuple[str, Tensor, str] | None],
) -> Conversion:
    """Build a conversion key by key.

    rules: (official key, tensor) -> (our key, tensor, what was done), or None for a key with no place in the model.
    """
    conversion = Conversion(layout)
    for key, tensor in state.items():
        target = rules(key, tensor)
        if target is None:
            conversion.unexpected.append(key)
        else:
            name, value, how = target
            conversion.put(name, value, key, how)
    return conversion
