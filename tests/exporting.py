"""Small networks of every family, and boxes to suppress, for the tests of export and backends."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import allmlp
from allmlp.models import create_model

FAMILIES: dict[str, dict[str, Any]] = {
    "mixer_nano": {"embed_dim": 16, "depth": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 16},
    "resmlp_nano": {"embed_dim": 16, "depth": 2},
    "ff_nano": {"embed_dim": 16, "depth": 2},
    "eamlp_nano": {"embed_dim": 32, "depth": 2, "num_heads": 8},
    "as_mlp_nano": {"embed_dim": 8, "depths": (1, 1, 1, 1)},
    "repmlpnet_nano": {"depths": (1, 1, 1, 1)},
    "vip_s7": {"img_size": 28, "depths": (1, 1, 1, 1), "embed_dims": (16,) * 4, "segment_dims": (8, 4, 4, 4)},
}


def with_some_head(network: Any) -> nn.Module:
    """In evaluation mode, its classifier drawn anew: one that starts at zero would agree with everything."""
    nn.init.normal_(network.get_classifier().weight, std=0.3)
    return network.eval()


def small(name: str) -> nn.Module:
    """The folded form of a family's small network of 10 classes."""
    return allmlp.fold(with_some_head(create_model(name, num_classes=10, **FAMILIES[name])))


def images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Normal noise (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def boxes_to_suppress(batch: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes (batch, count, 4), many of which overlap, and their scores, some of them equal."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (batch, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, corner.shape)], axis=2)
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(rng.integers(0, 50, (batch, count)) / 50).float()
