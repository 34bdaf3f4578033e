"""What a recipe may say: every key, its type, its range and its default.

A recipe is whole: one YAML file, nothing inherited. Keys left out take the defaults written here. An unknown key is an
error. Importing this module loads neither torch nor timm.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _to_size(value: Any) -> Any:
    """An image size is one number or two; "224", "224x192" and "[224, 192]" come from a command line."""
    parts = value.strip("[]() ").replace("x", ",").split(",") if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    try:
        sides = [int(part) for part in parts if not isinstance(part, bool) and float(part) == int(part)]
    except (TypeError, ValueError):
        sides = []
    if len(sides) != len(parts) or len(sides) not in (1, 2):
        raise ValueError("wanted a side in pixels, or height and width, such as 224 or 224x192")
    return tuple(sides) if len(sides) == 2 else (sides[0], sides[0])


def _to_list(value: Any) -> Any:
    """One word, or several with commas between, where a list is wanted."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Side = Annotated[int, Field(gt=0)]
ImageSize = Annotated[tuple[Side, Side], BeforeValidator(_to_size)]
Words = Annotated[list[str], BeforeValidator(_to_list)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Group(BaseModel):
    """Base of all groups: unknown keys are refused, values are checked when set."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class ModelGroup(Group):
    """Which network, and its constructor arguments.

    name: one of `allmlp list`, or `timm/NAME`.
    img_size: height and width in pixels; default the model's own.
    in_chans: channels of the images; default 3.
    num_classes: default as many as the data has.
    drop_rate, drop_path_rate: dropout before the classifier, and stochastic depth.
    head_bias: what the classifier's bias starts at; default as the model initialises it.
    args: any other constructor argument, such as {embed_dim: 96, depth: 4}.
    head: detect, segment: what stands on the network: faster_rcnn, mask_rcnn, cascade_rcnn, cascade_mask_rcnn; upernet,
        eanet. Default mask_rcnn and upernet.
    size: detect, segment: "small" trains on a laptop, "paper" has the published widths and settings.
    """

    name: str = "mixer_nano"
    img_size: ImageSize | None = None
    in_chans: Count | None = None
    num_classes: Count | None = None
    drop_rate: Rate = 0.0
    drop_path_rate: Rate = 0.0
    head_bias: float | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    head: str | None = None
    size: Literal["small", "paper"] = "small"


class OptimGroup(Group):
    """The optimiser, made by `timm.optim`.

    opt: timm's name, such as adamw, momentum (SGD without Nesterov's correction), sgd (with it), lamb, lion.
    lr: peak learning rate.
    lr_batch: if given, `lr` is for this many images a step and is scaled in proportion to the step's real number.
    weight_decay, no_decay: decay, and shell patterns of the parameters spared; default the model's own sound rule (all
        1-D parameters and position embeddings). An empty list decays everything.
    layer_decay: each earlier layer learns this times the rate of the next; default off.
    clip: largest global norm of the gradient; null leaves it alone.
    """

    opt: str = "adamw"
    lr: Positive = 1e-3
    lr_batch: Count | None = None
    weight_decay: NotNegative = 0.05
    no_decay: Words | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    momentum: Rate | None = None
    betas: tuple[Rate, Rate] | None = None
    eps: Positive | None = None
    clip: Positive | None = 1.0


class ScheduleGroup(Group):
    """How the learning rate moves: linear warm-up, then the curve down to `min_lr`, then at `min_lr` to the end.

    warmup_epochs or warmup_steps: length of the warm-up (steps win if given); of epochs at most a fifth of the run, so
        that a recipe can be tried with few.
    warmup_lr: the rate of the first step, as it is, not scaled by `optim.lr_batch`; default a step above 0.
    warmup_overlaps: whether the curve begins with the run, under the warm-up, as timm's does; default after it.
    cooldown_epochs: how many of the last epochs stay at `min_lr`; at most a fifth of the run.
    by_epoch: whether the rate moves between epochs only.
    min_lr: where cosine, linear and poly end; same unit as `warmup_lr`, and no more than the peak.
    power: of poly. milestones, gamma: of step, in epochs, and the factor at each.
    """

    kind: Literal["cosine", "linear", "poly", "step", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    warmup_lr: NotNegative | None = None
    warmup_overlaps: bool = False
    cooldown_epochs: NotNegative = 0.0
    by_epoch: bool = False
    min_lr: NotNegative = 0.0
    power: Positive = 1.0
    milestones: list[NotNegative] = Field(default_factory=list)
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class EmaGroup(Group):
    """Averaged weights, which are the ones that are evaluated and saved.

    decay: of the exponential moving average a step; null turns it off.
    warmup: the decay in use is min(decay, (1 + step) / (10 + step)), so that a short run is not held back by its start.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    warmup: bool = True


class DataGroup(Group):
    """Which images, how they are split and read.

    name: a folder of images, a .csv or .parquet file of path,label, `digits`, or a timm name (hfds/..., wds/...).
    root, download, options: for timm names: where they are kept, whether they may be fetched, the reader's own options.
        root is also where a table's relative paths start; default its own folder.
    val_fraction, split_seed: for data without a split of its own: share held out, stratified, and the seed of the draw.
    on_bad_image: whether an unreadable file is listed and skipped, or stops the run.
    workers: processes that read images; auto chooses by the machine and the size of the images.
    crop_pct, crop_mode, interpolation, mean, std: how images are prepared (allmlp.data.ImageSpec); default the model's
        own. They travel with the trained model.

    Of detection and segmentation (allmlp.data.coco, allmlp.data.mask_folder):

    name: a folder or JSON file of COCO's form; a folder of images and mask files; `digit_scenes`.
    train_json, train_images, train_masks, val_json, val_images, val_masks: files and folders, in place of those found.
    keep_empty: train on images without an object too.
    classes, label_rule, id_map: of mask files: names or a file of them; plain or zero_ignored; {number: label}.
    check: "headers" opens every file before the run, "full" decodes it, "auto" decodes small data sets only.
    train_scenes, val_scenes, scene_size: of `digit_scenes`: how many, and their side in pixels.
    short_side, long_side: images are shrunk or enlarged until one side meets its bound; default by `augment.kind`. They
        travel with the trained model.
    """

    name: str = "digits"
    root: str | None = None
    download: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    on_bad_image: Literal["skip", "stop"] = "skip"
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    mean: list[float] | None = None
    std: list[Positive] | None = None
    train_json: str | None = None
    train_images: str | None = None
    train_masks: str | None = None
    val_json: str | None = None
    val_images: str | None = None
    val_masks: str | None = None
    keep_empty: bool = False
    classes: str | list[str] | None = None
    label_rule: Literal["plain", "zero_ignored"] | None = None
    id_map: str | dict[int, int] | None = None
    check: Literal["auto", "headers", "full"] = "auto"
    train_scenes: Count = 2000
    val_scenes: Count = 400
    scene_size: Annotated[int, Field(ge=32)] = 128
    short_side: Count | None = None
    long_side: Count | None = None


class AugmentGroup(Group):
    """What happens to training images; evaluation never uses it.

    kind: "imagenet" (random resized crop through timm), "small" (shift, turn, zoom of the whole image: for small
        images and few of them) or "none" (as at evaluation). Of detection and segmentation: "paper" (the multi-scale
        policies of COCO, the crops of ADE20K), "small" (the same for small images) or "none".
    args: detection, segmentation: changes of what `kind` stands for, by the names of DetectionAugment and
        SegmentationAugment (allmlp.data.dense_transforms), such as {crop_chance: 0.5}.
    flip: chance of a mirror image; default 0 in "small", since it costs digits and letters dearly, 0.5 in "imagenet".
    shift: "small": largest shift as a share of the side; rotate: largest turn in degrees; zoom: change of scale.
    fill: "small": what a shift uncovers: zeros, border or reflection.
    color_jitter: strength. erase: chance that a random rectangle is erased.
    auto_augment: "imagenet": timm's policy, such as rand-m9-mstd0.5-inc1; null for none.
    crop_area, crop_ratio, interpolation: "imagenet": of the random crop.
    repeats: how often each image comes up in an epoch's batches, side by side with itself (repeated augmentation).
    mixup, cutmix: alpha of each (0 is off). mix_prob: chance that a batch is mixed. switch_prob: of cutmix if both.
    mix_mode: one draw for each batch, pair or elem.
    """

    kind: Literal["imagenet", "paper", "small", "none"] = "small"
    args: dict[str, Any] = Field(default_factory=dict)
    flip: Fraction | None = None
    shift: Fraction = 0.1
    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0
    zoom: Rate = 0.1
    fill: Literal["zeros", "border", "reflection"] = "border"
    color_jitter: Fraction = 0.0
    erase: Fraction = 0.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    crop_area: tuple[Positive, Positive] = (0.08, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    repeats: Count = 1
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    mix_prob: Fraction = 1.0
    switch_prob: Fraction = 0.5
    mix_mode: Literal["batch", "pair", "elem"] = "batch"


class InferenceGroup(Group):
    """How a segmenter sees an image when it is judged or used; it travels with the trained model.

    scales: sizes, in units of the usual one, whose probabilities are averaged; flip: each mirrored too.
    """

    scales: Annotated[list[Positive], Field(min_length=1)] = [1.0]
    flip: bool = False


class Recipe(Group):
    """A whole training run.

    task: classify, detect or segment.
    init: a run folder or weight file to start from; `reinit` are patterns of our keys that start anew beside the head.
    epochs, batch_size: passes over the data, and images in a forward pass over all devices together.
    accumulate: batches in an optimiser step.
    seed: of the weights, the order and the augmentation; the same recipe on the same machine gives the same weights.
    loss: ce (softmax cross-entropy) or bce (sigmoid, summed over classes).
    freeze: shell patterns of parameters that do not learn.
    early_stop: stop after this many epochs without a better result; default never.
    keep: which weights the run ends with: those of the last step, or of the best epoch by the evaluation split.
    precision: auto is fp32 on a CPU and bf16 on a GPU.
    device, devices, num_nodes, strategy: as Lightning's accelerator, devices, num_nodes and strategy.
    loggers: beside metrics.csv, which is always written: tensorboard, wandb, mlflow.
    checkpoint_minutes: also save inside an epoch when this long has passed.
    progress: auto draws a bar on a terminal and lines elsewhere; or bar, lines, none.
    """

    task: Literal["classify", "detect", "segment"] = "classify"
    model: ModelGroup = Field(default_factory=ModelGroup)
    data: DataGroup = Field(default_factory=DataGroup)
    init: str | None = None
    reinit: Words = Field(default_factory=list)
    epochs: Count = 30
    batch_size: Count = 64
    accumulate: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    augment: AugmentGroup = Field(default_factory=AugmentGroup)
    inference: InferenceGroup = Field(default_factory=InferenceGroup)
    loss: Literal["ce", "bce"] = "ce"
    label_smoothing: Rate = 0.0
    optim: OptimGroup = Field(default_factory=OptimGroup)
    schedule: ScheduleGroup = Field(default_factory=ScheduleGroup)
    ema: EmaGroup = Field(default_factory=EmaGroup)
    freeze: Words = Field(default_factory=list)
    early_stop: Count | None = None
    keep: Literal["last", "best"] = "last"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    devices: Count = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    loggers: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], BeforeValidator(_to_list)] = ["tensorboard"]
    checkpoint_minutes: Positive = 15.0
    progress: Literal["auto", "bar", "lines", "none"] = "auto"

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value not in ("auto", "cpu", "gpu", "cuda", "mps", "tpu"):
            raise ValueError("wanted auto, cpu, cuda, mps or tpu; how many go into devices=N")
        return "cuda" if value == "gpu" else value

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        processes = self.devices * self.num_nodes
        if self.batch_size % processes:
            raise ValueError(
                f"batch_size counts over all devices: wanted a multiple of {processes}, got {self.batch_size}"
            )
        return self
