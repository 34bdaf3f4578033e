"""What backbones, detectors and segmenters share: they load, resize and describe themselves like the model inside."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.convert import Layout
from allmlp.errors import InputError
from allmlp.models._base import AllMlpModule

Size = tuple[int, int]


class DenseModel(nn.Module):
    """A network around another one, held in the attribute `inside`, that answers `load_official` by asking it.

    Keys of the inner network's tensors are `inside` + "." + its own keys; image size, layouts and what a file implies
    are its business. Subclasses add their `layouts` and keep in `arguments` how they were built.
    """

    inside: ClassVar[str] = "backbone"
    layouts: tuple[Layout, ...] = ()
    _given: dict[str, Any]

    def describe(self, **arguments: Any) -> None:
        """Remember the arguments of the function that built this network."""
        self._given = arguments

    @property
    def arguments(self) -> dict[str, Any]:
        """What builds this network again: arguments of `create_detector` or `create_segmenter`, as it is now."""
        inner = getattr(self.inner, "arguments", {})
        follow_the_canvas = ("partition_sizes", "partition", "reduction")
        arguments = self._given | {key: inner[key] for key in follow_the_canvas if inner.get(key) is not None}
        size = inner.get("img_size") or self.canvas
        if size is not None:
            arguments["img_size"] = size
        return arguments | ({"folded": True} if self.folded else {})

    @property
    def folded(self) -> bool:
        """Whether parts of it are in their inference form (see `allmlp.fold`)."""
        return any(isinstance(module, AllMlpModule) and module.folded for module in self.modules())

    @property
    def inner(self) -> Any:
        """The network inside."""
        return getattr(self, self.inside)

    @property
    def first_conv(self) -> str:
        """The layer that reads the image."""
        return f"{self.inside}.{getattr(self.inner, 'first_conv', '')}"

    @property
    def train_only_key(self) -> str:
        """A key that the training form has and a folded one has not; any key if nothing in it folds."""
        for path, module in self.named_modules():
            if isinstance(module, AllMlpModule):
                return f"{path}.{module.train_only_key}"
        return next(iter(self.state_dict()))

    @property
    def canvas(self) -> Size | None:
        """The only image size (height, width) that smaller ones are padded to, or None where any size does."""
        return self.inner.canvas

    def pad(self, images: Float[Tensor, "b i _h _w"], multiple: int = 1) -> Float[Tensor, "b i h w"]:
        """Add zeros at the right and bottom up to the canvas, or where there is none to sides of this multiple.

        Raises:
            InputError: larger than the canvas.
        """
        height, width = images.shape[-2:]
        target = self.canvas or (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        if height > target[0] or width > target[1]:
            raise InputError(
                f"Wanted images of at most {target[0]} x {target[1]} pixels, the canvas that this network was built "
                f"for; got {height} x {width}. Resize them, or build it with img_size=({height}, {width})."
            )
        return F.pad(images, (0, target[1] - width, 0, target[0] - height))

    def size_from_state(self, state: Mapping[str, Tensor]) -> Size | None:
        """The image size that a state dict (our keys) is for, or None if that leaves no trace in it."""
        asked = getattr(self.inner, "size_from_state", None)
        inner = self._own_part(state)
        return asked(inner) if asked and inner else None

    def loading_method(self, state: Mapping[str, Tensor], old: Size, new: Size) -> str:
        """How the weights of a file of another size are fitted: always resampled here."""
        return "resample"

    def resize_state(self, state: Mapping[str, Tensor], old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """A state dict for image size `new` from one for `old`."""
        resized = self.inner.resize_state(self._own_part(state), old, new, method)
        return dict(state) | {f"{self.inside}.{key}": value for key, value in resized.items()}

    def fit_image_channels(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a file for other image channels changes beside the weight of `first_conv`."""
        asked = getattr(self.inner, "fit_image_channels", None)
        changed = asked(self._own_part(state)) if asked else {}
        return {f"{self.inside}.{key}": value for key, value in changed.items()}

    def adopt_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Take over constructor arguments that a loaded file implies, such as the form of GELU."""
        self.inner.adopt_arguments(arguments)
        self._given.update(arguments)

    def train(self, mode: bool = True) -> "DenseModel":
        """Switch between training and evaluation; a network with folded parts only evaluates."""
        for module in self.modules() if mode else ():
            if isinstance(module, AllMlpModule) and module.folded:
                module.train()  # raises, before anything was switched
        return super().train(mode)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory: recompute the backbone's blocks in the backward pass."""
        self.inner.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should spare: all 1-D ones and what the model inside names."""
        spared = {name for name, parameter in self.named_parameters() if parameter.ndim <= 1}
        asked = getattr(self.inner, "no_weight_decay", set)
        return spared | {f"{self.inside}.{name}" for name in asked()}

    def _own_part(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = self.inside + "."
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
