"""Parameter groups, optimiser and learning rate, from a recipe. The rate is a pure function of the step."""

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_info
from torch import nn

from allmlp.errors import InputError
from allmlp.recipes import Recipe
from allmlp.recipes.schema import OptimGroup, ScheduleGroup


def freeze(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Stop parameters from learning, by shell pattern of their names. Returns the names.

    Raises:
        InputError: a pattern matches nothing, or nothing would be left to learn.
    """
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"freeze: no parameter matches {pattern!r}; the names begin {', '.join(names[:4])} ...")
    frozen = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if names and len(frozen) == len(names):
        raise InputError(f"freeze: {list(patterns)} leaves nothing to learn; keep at least the classifier free.")
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return frozen


def parameter_groups(network: nn.Module, optim: OptimGroup) -> list[dict[str, Any]]:
    """Groups of equal weight decay and learning-rate scale; `lr_scale` carries the latter.

    Which parameters are spared decay: those that match `optim.no_decay`, or, without it, those of the network's own
    `no_weight_decay()` and all with at most one axis.

    Layer-wise decay: a parameter of layer i of n (timm's `group_matcher` order) learns at
    `layer_decay ** (n - 1 - i)` times the rate of the last.
    """
    spared: set[str] = getattr(network, "no_weight_decay", set)()
    layers: dict[str, int] = {}
    if optim.layer_decay is not None:
        matcher: Any = getattr(network, "group_matcher", None)
        if matcher is None:
            raise InputError("optim.layer_decay: this network does not say how its layers are grouped; leave it out.")
        layers = group_parameters(network, matcher(coarse=False), reverse=True)
    last = max(layers.values(), default=0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if optim.no_decay is not None:
            bare = any(fnmatch.fnmatch(name, pattern) for pattern in optim.no_decay)
        else:
            bare = parameter.ndim <= 1 or any(fnmatch.fnmatch(name, pattern) for pattern in spared)
        decay = 0.0 if bare else optim.weight_decay
        scale = 1.0 if optim.layer_decay is None else optim.layer_decay ** (last - layers.get(name, last))
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def peak_rate(recipe: Recipe) -> float:
    """`optim.lr`, scaled to the images of one optimiser step if `optim.lr_batch` is given."""
    if recipe.optim.lr_batch is None:
        return recipe.optim.lr
    return recipe.optim.lr * recipe.batch_size * recipe.accumulate / recipe.optim.lr_batch


def create_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimiser of the recipe's name over the network's parameter groups.

    Raises:
        InputError: timm knows no such optimiser, or it does not take the given settings.
    """
    optim = recipe.optim
    extra = {name: getattr(optim, name) for name in ("momentum", "betas", "eps") if getattr(optim, name) is not None}
    groups = parameter_groups(network, optim)
    try:
        info: Any = get_optimizer_info(optim.opt)
        if ignored := [name for name in extra if not getattr(info, f"has_{name}")]:  # timm would drop them in silence
            raise ValueError(f"it has no {' and no '.join(ignored)}")
        if optim.opt in ("adamw", "adam"):
            extra["fused"] = True  # one kernel a step; on two cores a nano model's step costs a fifth of the plain loop
        return create_optimizer_v2(groups, optim.opt, lr=peak_rate(recipe), weight_decay=optim.weight_decay, **extra)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"optim.opt={optim.opt}: {error}. Wanted one of timm.optim.list_optimizers(), "
            "such as adamw, momentum or lamb."
        ) from error


class Schedule:
    """The learning rate at every optimiser step: linear warm-up to `peak`, then the curve, then its end.

    Args:
        settings: the recipe's schedule.
        peak: highest rate.
        steps_per_epoch: optimiser steps in an epoch; epochs: of the whole run.

    Raises:
        InputError: the warm-up is longer than the run.
    """

    def __init__(self, settings: ScheduleGroup, peak: float, steps_per_epoch: int, epochs: int) -> None:
        self.settings = settings
        self.peak = peak
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps_per_epoch * epochs
        by_epochs = min(round(settings.warmup_epochs * steps_per_epoch), self.steps // 5)
        self.warmup = settings.warmup_steps if settings.warmup_steps is not None else by_epochs
        self.start = 0 if settings.warmup_overlaps else self.warmup
        self.end = self.steps - 1 - min(round(settings.cooldown_epochs * steps_per_epoch), self.steps // 5)
        if self.warmup and self.warmup >= self.steps:
            raise InputError(
                f"schedule.warmup_steps: wanted fewer than the run's {self.steps} steps; got {self.warmup}."
            )

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step number `step`, counted from 0."""
        settings = self.settings
        if settings.by_epoch:
            step -= step % self.steps_per_epoch
        if step < self.warmup:
            if settings.warmup_lr is None:
                return self.peak * (step + 1) / (self.warmup + 1)
            return settings.warmup_lr + (self.peak - settings.warmup_lr) * step / self.warmup
        progress = min(1.0, (step - self.start) / max(1, self.end - self.start))
        least = min(settings.min_lr, self.peak)
        span = self.peak - least
        if settings.kind == "cosine":
            return least + span * 0.5 * (1 + math.cos(math.pi * progress))
        if settings.kind == "linear":
            return least + span * (1 - progress)
        if settings.kind == "poly":
            return least + span * (1 - progress) ** settings.power
        if settings.kind == "step":
            passed = sum(step >= milestone * self.steps_per_epoch for milestone in settings.milestones)
            return self.peak * settings.gamma**passed
        return self.peak

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rate of every group for this step; returns the unscaled rate."""
        rate = self.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate
