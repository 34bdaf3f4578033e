"""Dense prediction: backbones with feature pyramids, detectors and segmenters, on plain PyTorch and torchvision."""

from allmlp.dense.backbone import Backbone, create_backbone
from allmlp.dense.detector import Detector, create_detector
from allmlp.dense.postprocess import Detections, paste_mask, paste_masks, rescale_boxes, to_lists
from allmlp.dense.segmenter import Segmenter, create_segmenter

__all__ = [
    "Backbone",
    "Detections",
    "Detector",
    "Segmenter",
    "create_backbone",
    "create_detector",
    "create_segmenter",
    "paste_mask",
    "paste_masks",
    "rescale_boxes",
    "to_lists",
]
