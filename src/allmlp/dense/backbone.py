"""Backbones: images to feature maps at strides 4, 8, 16 and 32, from any model.

Source: of AS-MLP's output norms and padding, svip-lab/AS-MLP-Object-Detection @ f80ff38 and
    svip-lab/AS-MLP-Semantic-Segmentation @ c9838f9 (Apache-2.0), asmlp.py.
Differs: any image size works; the detection fork stops at sizes that the segmentation fork pads.
Shapes: b images, i image channels, h x w pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import timm
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from allmlp.convert import Layout
from allmlp.convert.mmdet import backbone_layouts
from allmlp.dense.base import DenseModel, Size
from allmlp.dense.pyramid import STRIDES, SimplePyramid, pick_strides
from allmlp.errors import InputError
from allmlp.models import create_model
from allmlp.models._base import AllMlpModel, to_size
from allmlp.models._registry import PREFIX, entry


class Backbone(DenseModel):
    """Base: `forward` gives one map for each of `strides`, with these `channels`.

    canvas: the only image size (height, width) that the weights are for, or None if any size works.
    multiple: what image sides should be multiples of, where any size works; 1 if the network sees to it itself.
    """

    inside: ClassVar[str] = "model"
    strides: tuple[int, ...] = STRIDES
    channels: tuple[int, ...]
    canvas: Size | None = None
    multiple: int = 32
    model: Any

    def forward(self, x: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Images to feature maps, finest first."""
        raise NotImplementedError

    def outer_layouts(self) -> tuple[Layout, ...]:
        """The layouts of the model inside, for this backbone around it."""
        state = self.state_dict()
        fresh = {key: value for key, value in state.items() if not key.startswith("model.")}
        own = {key.removeprefix("model.") for key in state.keys() - fresh.keys()}
        return backbone_layouts(self.inner.layouts, own, fresh)


class AsMlpBackbone(Backbone):
    """AS-MLP for dense tasks: each stage's map through its own GroupNorm over (c, h, w); merging takes it un-normed.

    Any image size: zeros are added at the right and bottom where the patch embedding or a merge needs them. The norms'
    statistics run over the whole canvas, so padding an image changes all of its features a little.
    """

    multiple = 1

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.prune_intermediate_layers(None, prune_norm=True, prune_head=False)
        self.model = model
        self.describe(**model.arguments)
        self.channels = tuple(info["num_chs"] for info in model.feature_info)
        self.norms = nn.ModuleList([nn.GroupNorm(1, c) for c in self.channels])

    @property
    def layouts(self) -> tuple[Layout, ...]:  # type: ignore[override]
        """Official checkpoint layouts: dense files, and classification files without their classifier."""
        return self.outer_layouts()

    def forward(self, x: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Images to four normed feature maps."""
        maps = self.model.forward_intermediates(x, intermediates_only=True)
        return [norm(y) for norm, y in zip(self.norms, maps, strict=True)]


class ModelBackbone(Backbone):
    """Any other model of this package: its stages as they are, or the last map of equal blocks through a pyramid.

    Models whose weights depend on the image size have a `canvas`, the `img_size` they were built for or set to.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.describe(**model.arguments)
        reductions = [info["reduction"] for info in model.feature_info]
        self.taken = pick_strides(reductions)
        self.pyramid: SimplePyramid | None = None
        if self.taken is None:
            self.taken = [len(reductions) - 1]
            self.pyramid = SimplePyramid(model.feature_info[-1]["num_chs"], reductions[-1])
            self.channels = self.pyramid.channels
        else:
            self.channels = tuple(model.feature_info[i]["num_chs"] for i in self.taken)
            model.prune_intermediate_layers(self.taken, prune_norm=True, prune_head=False)
        if model.size_bound:
            self.canvas = to_size(model.arguments["img_size"])

    @property
    def layouts(self) -> tuple[Layout, ...]:  # type: ignore[override]
        """The architecture's own checkpoint layouts, without the classifier."""
        return self.outer_layouts()

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Another canvas; token weights are resampled to it."""
        self.inner.set_input_size(img_size, method="resample")
        if self.canvas is not None:
            self.canvas = to_size(img_size)

    def forward(self, x: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Images to four feature maps."""
        maps = self.inner.forward_intermediates(
            x, indices=self.taken, norm=self.pyramid is not None, intermediates_only=True
        )
        return self.pyramid(maps[0]) if self.pyramid is not None else list(maps)


class TimmBackbone(Backbone):
    """A model of timm's through its `features_only` interface; one resolution throughout goes through a pyramid.

    Maps that timm gives channels-last (Swin) come out of residual streams: they are normed, each by its own layer
    norm, as Swin's authors do for dense tasks. Others are taken as they are.
    """

    def __init__(self, model: nn.Module, canvas: Size | None) -> None:
        super().__init__()
        self.model = model
        self.describe()
        self.canvas = canvas
        info: Any = model.feature_info
        reductions, channels = info.reduction(), tuple(info.channels())
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
        self.pyramid = None if len(reductions) > 1 else SimplePyramid(channels[0], reductions[0])
        self.channels = self.pyramid.channels if self.pyramid is not None else channels
        self.norms = nn.ModuleList([LayerNorm2d(c) for c in channels] if self.channels_last else [])

    def forward(self, x: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Images to four feature maps."""
        maps = self.model(x)
        if self.channels_last:
            maps = [norm(y.permute(0, 3, 1, 2)) for norm, y in zip(self.norms, maps)]
        return self.pyramid(maps[0]) if self.pyramid is not None else list(maps)


def create_backbone(
    name: str, img_size: int | Sequence[int] | None = None, folded: bool = False, **constructor_overrides: Any
) -> Backbone:
    """A network from images to four feature maps at strides 4, 8, 16 and 32, as dense heads want them, new weights.

    Official classification files and dense files load into it through `allmlp.load_official`; norms that a
    classification file has not are re-initialised, and the report says so.

    Args:
        name: one of `allmlp.list_models()`, or `timm/NAME`.
        img_size: the canvas, for models whose weights depend on the image size; default: 4 times the size that the
            name stands for. Others take any size, and this is ignored.
        folded: build the inference form (see `allmlp.fold`); models of timm's have none and stay as they are.
        constructor_overrides: arguments of the model's class, such as `drop_path_rate`.

    Raises:
        InputError: unknown name or argument, or a canvas that the architecture cannot take.
    """
    if name.startswith("timm/"):
        return _timm_backbone(name, name.removeprefix("timm/"), img_size, constructor_overrides)
    known = entry(name)
    model_class: Any = known.model_class
    if not issubclass(model_class, AllMlpModel):
        return _timm_backbone(name, PREFIX + name, img_size, constructor_overrides)
    arguments = {**constructor_overrides, "num_classes": 0} | ({"folded": True} if folded else {})
    if not model_class.size_bound:
        model: Any = create_model(name, img_size=img_size, **arguments)
        return AsMlpBackbone(model) if model_class.__name__ == "AsMlp" else ModelBackbone(model)
    canvas = to_size(img_size if img_size is not None else [4 * side for side in known.img_size])
    if model_class.partition_argument and model_class.partition_argument not in constructor_overrides:
        model = create_model(name, **arguments)
        model.set_input_size(canvas)  # more partitions of the size that the name stands for, not larger ones
    else:
        model = create_model(name, img_size=canvas, **arguments)
    return ModelBackbone(model)


def _timm_backbone(
    name: str, registered: str, img_size: int | Sequence[int] | None, overrides: Mapping[str, Any]
) -> TimmBackbone:
    """A model of timm's with the maps of strides 4 to 32, or only its last one; of any image size where it can be."""
    canvas: Size | None = None
    arguments: dict[str, Any] = {**overrides, "features_only": True}
    if not timm.is_model(registered):
        create_model(name)  # raises, naming the nearest
    cfg = timm.get_pretrained_cfg(registered)
    if cfg is not None and cfg.fixed_input_size:
        try:
            model = create_model(name, dynamic_img_size=True, **arguments)
            arguments["dynamic_img_size"] = True
        except InputError:
            canvas = to_size(img_size if img_size is not None else [4 * side for side in cfg.input_size[1:]])
            arguments["img_size"] = canvas
            model = create_model(name, **arguments)
    else:
        model = create_model(name, **arguments)
    info: Any = model.feature_info
    picked = pick_strides(info.reduction())
    places = [info.out_indices[i] for i in picked] if picked else [info.out_indices[-1]]
    return TimmBackbone(create_model(name, out_indices=tuple(places), **arguments), canvas)
