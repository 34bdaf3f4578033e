"""The timm plumbing of hierarchical models: stages of blocks over maps that shrink between stages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from allmlp.errors import InputError
from allmlp.models._base import AllMlpModel, take_indices


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms leave their running statistics alone: a recomputation sees a batch that they have counted."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), recomputed in the backward pass."""
    if torch.compiler.is_compiling():  # a compiled recomputation writes no buffers, and takes no contexts
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


class HierarchicalModel(AllMlpModel):
    """A stem, then stages of blocks with a downsampling layer between them, then a norm.

    A subclass sets `stem` (images to a map), `stages` (nn.ModuleList of nn.Sequential), `downsamples` (nn.ModuleList,
    one fewer; identity where nothing happens) and `norm`, and calls `_describe_stages`. Maps are (b, c, h, w)
    inside unless it overrides `to_nchw`, and always where features come out.
    """

    stem_pattern: ClassVar[str] = r"^stem"
    stem: nn.Module
    stages: nn.ModuleList
    downsamples: nn.ModuleList
    norm: nn.Module

    def _describe_stages(self, channels: Sequence[int], reductions: Sequence[int]) -> None:
        self.feature_info = [
            {"module": f"stages.{i}", "num_chs": c, "reduction": r}
            for i, (c, r) in enumerate(zip(channels, reductions))
        ]

    def to_nchw(self, x: Tensor) -> Tensor:
        """A map of this architecture as (b, c, h, w)."""
        return x

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """A map through the blocks of one stage."""
        stage = self.stages[index]
        if self.grad_checkpointing and self.training:
            for block in stage:  # type: ignore[attr-defined]
                x = _checkpointed(block, x)
            return x
        return stage(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the normed map of the last stage, (b, c, h, w)."""
        x = self.stem(self.check_input(x))
        for index in range(len(self.stages)):
            x = self.run_stage(index, x)
            if index < len(self.downsamples):
                x = self.downsamples[index](x)
        return self.to_nchw(self.norm(x))

    def pool(self, x: Tensor) -> Tensor:
        """Mean over the map, or the map itself if `global_pool` is ''."""
        return x.mean(dim=(2, 3)) if self.global_pool == "avg" else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Stage outputs, before downsampling, as (b, c, h, w).

        Args:
            x: images.
            indices: which stages: None all, an integer the last n, a sequence those.
            norm: apply the final norm to the last stage's map (the others have other widths and stay as they are).
            stop_early: skip the stages after the last one asked for.
            output_fmt: "NCHW", the only one.
            intermediates_only: return the list alone, without the final features.

        Returns:
            The list, or (final features, list).
        """
        if output_fmt != "NCHW":
            raise InputError(f"Wanted output_fmt 'NCHW'; got {output_fmt!r}.")
        taken = take_indices(len(self.stages), indices)
        count = max(taken) + 1 if stop_early else len(self.stages)
        x = self.stem(self.check_input(x))
        kept: list[Tensor] = []
        for index in range(count):
            x = self.run_stage(index, x)
            if index in taken:
                last = index == len(self.feature_info) - 1
                kept.append(self.to_nchw(self.norm(x) if norm and last else x))
            if index < min(len(self.downsamples), count - 1):
                x = self.downsamples[index](x)
        return kept if intermediates_only else (self.to_nchw(self.norm(x)), kept)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for, and the norm and head if told. Returns the indices kept."""
        taken = take_indices(len(self.stages), indices)
        last = max(taken)
        self.stages = self.stages[: last + 1]
        self.downsamples = self.downsamples[:last]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem, stages and blocks, for layer-wise learning rates."""
        if coarse:
            blocks: Any = r"^(?:stages|downsamples)\.(\d+)"
        else:
            blocks = [
                (r"^stages\.(\d+)\.(\d+)", None),
                (r"^downsamples\.(\d+)", (9999,)),
                (r"^norm", (99999,)),
            ]
        return {"stem": self.stem_pattern, "blocks": blocks}
