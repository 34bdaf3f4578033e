"""The timm plumbing of isotropic models: one token grid from the first block to the last."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models import checkpoint, checkpoint_seq
from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.models._base import AllMlpModel, Size, take_indices, to_size


class IsotropicModel(AllMlpModel):
    """A model of `depth` equal blocks over tokens (b, n, c).

    A subclass sets `blocks` (nn.Sequential) and `norm`, calls `_describe_tokens`, and implements `embed`: images to
    tokens, class tokens first.
    """

    num_prefix_tokens: ClassVar[int] = 0
    stem_pattern: ClassVar[str] = r"^stem"  # parameters that belong to the stem, for layer-wise decay
    blocks: nn.Sequential
    norm: nn.Module
    grid_size: Size

    def _describe_tokens(self, img_size: int | Sequence[int], patch_size: int, depth: int) -> None:
        self.patch_size = patch_size
        self.grid_size = self.grid_of(to_size(img_size))
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": self.num_features, "reduction": patch_size} for i in range(depth)
        ]

    def grid_of(self, size: Size) -> Size:
        """The token grid of images of this size.

        Raises:
            InputError: the patch does not divide the image.
        """
        patch = self.patch_size
        if size[0] % patch or size[1] % patch or min(size) < patch:
            near = " x ".join(str(max(patch, round(side / patch) * patch)) for side in size)
            raise InputError(
                f"Wanted an image size that the patch size {patch} divides; got {size[0]} x {size[1]}. "
                f"The nearest that works is {near}."
            )
        return size[0] // patch, size[1] // patch

    def size_of_tokens(self, tokens: int) -> Size:
        """The image size of a file with this many tokens a map: this model's own, else a square.

        Raises:
            InputError: the number of tokens is neither.
        """
        if tokens == self.grid_size[0] * self.grid_size[1]:
            return self.arguments["img_size"]
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise InputError(
                f"The file mixes {tokens} tokens, which is neither a square grid nor this model's "
                f"{self.grid_size[0]} x {self.grid_size[1]}. Build the model with the file's img_size, load, then "
                "call set_input_size."
            )
        return side * self.patch_size, side * self.patch_size

    def _set_size(self, size: Size) -> None:
        self.grid_size = self.grid_of(size)
        super()._set_size(size)

    def embed(self, x: Tensor) -> Tensor:
        """Images (b, in_chans, height, width) to tokens (b, n, c)."""
        raise NotImplementedError

    def map_size(self, x: Tensor) -> Size:
        """The token grid of an image batch."""
        return self.grid_size

    def run_blocks(self, tokens: Tensor) -> Tensor:
        """Tokens through all blocks."""
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(self.blocks, tokens)
        return self.blocks(tokens)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to normed tokens (b, n, c)."""
        return self.norm(self.run_blocks(self.embed(x)))

    def pool(self, x: Tensor) -> Tensor:
        """Mean over tokens, or the class token if `global_pool` is "token"."""
        if self.global_pool == "token":
            return x[:, 0]
        if self.global_pool == "avg":
            return x[:, self.num_prefix_tokens :].mean(dim=1) if self.num_prefix_tokens else x.mean(dim=1)
        return x

    def check_pool(self, global_pool: str) -> None:
        """Raise unless this architecture pools so."""
        allowed = ("avg", "") if self.num_prefix_tokens == 0 else ("token", "avg", "")
        if global_pool not in allowed:
            raise InputError(f"Wanted global_pool out of {allowed}; got {global_pool!r}.")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features after chosen blocks, as maps (b, c, h, w) or tokens (b, n, c) without class tokens.

        Args:
            x: images.
            indices: which blocks: None all, an integer the last n, a sequence those.
            norm: apply the final norm to each.
            stop_early: skip the blocks after the last one asked for.
            output_fmt: "NCHW" or "NLC".
            intermediates_only: return the list alone, without the final features.

        Returns:
            The list, or (final features, list).
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(f"Wanted output_fmt 'NCHW' or 'NLC'; got {output_fmt!r}.")
        taken = take_indices(len(self.blocks), indices)
        last = max(taken) + 1 if stop_early else len(self.blocks)
        height, width = self.map_size(x)
        tokens = self.embed(x)
        kept: list[Tensor] = []
        for index, block in enumerate(self.blocks[:last]):
            tokens = checkpoint(block, tokens) if self.grad_checkpointing and self.training else block(tokens)
            if index in taken:
                kept.append(self.norm(tokens) if norm else tokens)
        if self.num_prefix_tokens:
            kept = [y[:, self.num_prefix_tokens :] for y in kept]
        if output_fmt == "NCHW":
            kept = [y.transpose(1, 2).reshape(y.shape[0], -1, height, width) for y in kept]
        return kept if intermediates_only else (self.norm(tokens), kept)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks after the last one asked for, and the norm and head if told. Returns the indices kept."""
        taken = take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: max(taken) + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise learning rates."""
        return {"stem": self.stem_pattern, "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}
