"""What every architecture here shares: how it is built, resized, loaded, folded, and what timm expects of it."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allmlp.convert import Layout
from allmlp.errors import InputError

Size = tuple[int, int]
State = Mapping[str, Tensor]


def to_size(value: int | Sequence[int]) -> Size:
    """(height, width) from one number or two."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


@torch.fx.wrap
def check_input_size(x: Tensor, height: int, width: int) -> Tensor:
    """Return x if it is (b, c, height, width), else raise naming what mends it.

    Wrapped, so that symbolic tracing keeps it as one node; it is called in this module only, as wrapping requires.
    """
    if x.shape[-2] != height or x.shape[-1] != width:
        raise InputError(
            f"Wanted images of {height} x {width} pixels, which this model's token-mixing weights are for; got "
            f"{x.shape[-2]} x {x.shape[-1]}. Resize the images, or call "
            f"model.set_input_size(({x.shape[-2]}, {x.shape[-1]})), or build it with img_size=..."
        )
    return x


def records_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate a model's `__init__`: every argument is kept by name in `self.arguments`.

    A model can so be built again when it is folded, saved or resized. Adds the arguments `device` and `dtype` that
    timm's models take.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, device: Any = None, dtype: torch.dtype | None = None, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        with torch.device(device) if device is not None else torch.device(torch.get_default_device()):
            init(self, *args, **kwargs)
        if dtype is not None:
            self.to(dtype)
        arguments = {name: value for name, value in bound.arguments.items() if name != "self"}
        if "img_size" in arguments:
            arguments["img_size"] = to_size(arguments["img_size"])
        self.arguments = arguments

    return wrapper


class AllMlpModule(nn.Module):
    """Base of everything that can be built again from its arguments, loaded from official files, and folded.

    Whole models derive from `AllMlpModel`; blocks that people use alone derive from this. A subclass decorates its
    `__init__` with `records_arguments` and sets `self.folded`.
    """

    layouts: ClassVar[tuple[Layout, ...]] = ()  # official checkpoint layouts, tried in order
    first_conv: ClassVar[str] = "stem"  # the layer that reads the image
    train_only_key: ClassVar[str] = "norm.weight"  # a key that the training form has and the folded form has not

    arguments: dict[str, Any]
    folded: bool

    def size_from_state(self, state: State) -> Size | None:
        """The image size that a state dict (our keys) is for, or None if that leaves no trace in it."""
        return None

    def fit_image_channels(self, state: State) -> dict[str, Tensor]:
        """What a file for other image channels changes beside the weight of `first_conv`, which the loader fits."""
        return {}

    def adopt_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Take over constructor arguments that a loaded file implies, such as the form of GELU."""
        if arguments:
            raise NotImplementedError(f"{type(self).__name__} cannot adopt {dict(arguments)}")

    def folded_state(self) -> dict[str, Tensor]:
        """The state dict of this module's inference form, `type(self)(**arguments, folded=True)`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "AllMlpModule":
        """Switch between training and evaluation; a folded module only evaluates."""
        if mode and getattr(self, "folded", False):
            raise InputError(
                "This model is folded: norms and branches are merged for inference, so it cannot be trained. "
                "Train the model it was folded from, then fold again."
            )
        return super().train(mode)


class AllMlpModel(AllMlpModule):
    """Base of all architectures: classifier head, resizing, loading and folding hooks, timm's method set.

    A subclass decorates its `__init__` with `records_arguments`, calls `_describe(...)`, sets `norm`, `head_drop` and
    `head`, and implements `forward_features`, `pool`, `forward_intermediates`, `prune_intermediate_layers`,
    `group_matcher`, and, if its weights depend on the image size, `resize_state` and `size_from_state`.
    """

    size_bound: ClassVar[bool] = True  # whether the weights depend on the image size
    partition_argument: ClassVar[str] = ""  # the argument for the sizes of partitions, if weights depend on those alone

    head: nn.Module
    head_drop: nn.Module
    feature_info: list[dict[str, Any]]

    def _describe(self, num_classes: int, in_chans: int, num_features: int, global_pool: str, folded: bool) -> None:
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = num_features
        self.global_pool = global_pool
        self.folded = folded
        self.grad_checkpointing = False

    # ---- classifier head

    def init_head(self, head: nn.Linear) -> None:
        """Initialise a new classifier as the authors do: here normal with sd 0.02, bias 0."""
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)

    def make_head(self, num_classes: int) -> nn.Module:
        """A new classifier, or identity for 0 classes."""
        if num_classes == 0:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes)
        self.init_head(head)
        return head

    def get_classifier(self) -> nn.Module:
        """The classifier layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one for `num_classes` classes (0: none), and the pooling if given."""
        if self.folded:
            raise InputError("A folded model's classifier has absorbed its norm and cannot be replaced; fold after.")
        parameter = next(self.parameters())
        if global_pool is not None:
            self.check_pool(global_pool)
            self.global_pool = self.arguments["global_pool"] = global_pool
        self.num_classes = self.arguments["num_classes"] = num_classes
        self.head = self.make_head(num_classes).to(parameter.device, parameter.dtype).train(self.training)

    def check_pool(self, global_pool: str) -> None:
        """Raise unless this architecture pools so."""
        if global_pool not in ("avg", ""):
            raise InputError(f"Wanted global_pool 'avg' or '' (no pooling); got {global_pool!r}.")

    def pool(self, x: Tensor) -> Tensor:
        """Pool features to (b, c), or return them as they are if `global_pool` is ''."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to un-pooled, normed features."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits (b, num_classes), or to pooled features (b, num_features) if `pre_logits`."""
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, height, width) to logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))

    # ---- image size

    def check_input(self, x: Tensor) -> Tensor:
        """Return x if it has the size that the weights are for, else raise. Any size where none are bound to it."""
        if not self.size_bound:
            return x
        height, width = self.arguments["img_size"]
        return check_input_size(x, height, width)

    def set_input_size(self, img_size: int | Sequence[int], method: str | None = None) -> None:
        """Change the image size in place; weights tied to the token grid follow.

        Args:
            img_size: new height and width in pixels, or one number for both.
            method: "tile" or "resample"; None takes the architecture's default.

        Raises:
            InputError: the architecture cannot take this size, or not by this method.
        """
        new = to_size(img_size)
        old = self.arguments["img_size"]
        if self.size_bound and new != old:
            state = self.state_dict()
            resized = self.resize_state(state, old, new, self.resize_method(state, old, new, method))
            for key, value in resized.items():
                if value is not state[key]:
                    self._replace_tensor(key, value)
        self._set_size(new)

    def _set_size(self, size: Size) -> None:
        """Remember the new size; a subclass with size-dependent attributes extends this."""
        self.arguments["img_size"] = size
        if hasattr(self, "_traits"):  # timm's own record of the size, which it writes into exported configurations
            self._traits = {**self.__dict__["_traits"], "img_size": size}

    def _replace_tensor(self, key: str, value: Tensor) -> None:
        path, _, name = key.rpartition(".")
        module = self.get_submodule(path)
        if name in module._parameters:
            old = module._parameters[name]
            assert old is not None  # noqa: S101 - it came from the state dict
            setattr(module, name, nn.Parameter(value.to(old), requires_grad=old.requires_grad))
        else:
            setattr(module, name, value)

    def resize_method(self, state: State, old: Size, new: Size, method: str | None) -> str:
        """The method to use for this change of size: `method` if given and possible, else the default."""
        if method not in (None, "resample"):
            raise InputError(f"{type(self).__name__} changes size by method='resample'; got {method!r}.")
        return "resample"

    def loading_method(self, state: State, old: Size, new: Size) -> str:
        """The method to use when a file of another size is loaded."""
        return "resample"

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """A state dict of this architecture for image size `new` from one for `old`; unchanged tensors are kept."""
        raise NotImplementedError

    def token_maps(self) -> dict[str, Tensor]:
        """What the units of each token-mixing layer read from the grid, as maps (units, h, w); for figures.

        Empty for architectures without weights that belong to places.
        """
        return {}

    # ---- timm's conventions

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should spare: all 1-D ones (biases, norms, scales)."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim <= 1}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory: recompute blocks in the backward pass."""
        self.grad_checkpointing = enable


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of `count` feature maps to return: all (None), the last n (int), or these (negative ones from the end)."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise InputError(f"Wanted the last 1 to {count} feature maps; got {indices}.")
        return list(range(count - indices, count))
    taken = [index + count if index < 0 else index for index in indices]
    if any(not 0 <= index < count for index in taken):
        raise InputError(f"Wanted feature indices between {-count} and {count - 1}; got {list(indices)}.")
    return taken
