"""Every architecture, one file each. Importing this registers all names with timm as `allmlp_NAME`."""

from collections.abc import Mapping

from torch import Tensor

from allmlp.models._loading import LoadReport, load_official
from allmlp.models._registry import check_name, create_model, list_models
from allmlp.models.as_mlp import AsMlp
from allmlp.models.attn_only import AttentionOnly
from allmlp.models.controls import LeNet5, PlainMlp
from allmlp.models.ea_mlp import EaMlp
from allmlp.models.external_attention import ExternalAttention, MultiHeadExternalAttention
from allmlp.models.ff_only import FeedForwardOnly
from allmlp.models.mixer import MlpMixer
from allmlp.models.repmlp_pure import RepMlpPure
from allmlp.models.repmlp_resnet import RepMlpResNet
from allmlp.models.repmlp_v1 import RepMlpV1Block
from allmlp.models.repmlpnet import RepMlpNet
from allmlp.models.resmlp import ResMlp
from allmlp.models.vip import VisionPermutator

__all__ = [
    "AsMlp",
    "AttentionOnly",
    "EaMlp",
    "ExternalAttention",
    "FeedForwardOnly",
    "LeNet5",
    "LoadReport",
    "MlpMixer",
    "MultiHeadExternalAttention",
    "PlainMlp",
    "RepMlpNet",
    "RepMlpPure",
    "RepMlpResNet",
    "RepMlpV1Block",
    "ResMlp",
    "VisionPermutator",
    "check_name",
    "create_model",
    "list_models",
    "load_official",
]

_ARCHITECTURES = (
    MlpMixer,
    ResMlp,
    FeedForwardOnly,
    ExternalAttention,
    MultiHeadExternalAttention,
    EaMlp,
    AsMlp,
    RepMlpNet,
    RepMlpResNet,
    RepMlpV1Block,
    VisionPermutator,
)


def architecture_of(state: Mapping[str, Tensor]) -> str | None:
    """The name of the architecture whose checkpoint layout a state dict has, or None."""
    for architecture in _ARCHITECTURES:
        for layout in architecture.layouts:
            if layout.detect(state):
                return f"{architecture.__name__} ({layout.name} layout)"
    return None
