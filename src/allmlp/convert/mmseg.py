"""Checkpoints of AS-MLP's segmentation fork: mmsegmentation 0.11's names, which the heads here share.

Source: svip-lab/AS-MLP-Semantic-Segmentation @ c9838f9: mmseg/models/backbones/asmlp.py, configs/asmlp (Apache-2.0).
"""

from collections.abc import Sequence

from allmlp.convert.layout import Layout
from allmlp.convert.mmdet import whole_model

_HEADS = ("decode_head.", "auxiliary_head.")


def segmenter_layouts(backbone: Sequence[Layout]) -> tuple[Layout, ...]:
    """UPerNet files with their auxiliary head, for a backbone with these layouts."""
    return (whole_model("mmseg", backbone, _head_key, "decode_head."),)


def _head_key(key: str) -> str | None:
    return key if key.startswith(_HEADS) else None
