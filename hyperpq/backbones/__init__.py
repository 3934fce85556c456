"""Image encoders: frozen networks that turn pixels into features.

`load_backbone` loads one by its name and `available_backbones` lists the names; every `Backbone`
takes batches of up to `BATCH_SIZE` images. The default, EfficientNet-Lite0, runs in ONNX Runtime
on the CPU and needs no download; timm, OpenCLIP, ONNX and TorchScript networks are supported too.
`TunedWeights` is what fine-tuning changes in a network, and `load_backbone` takes it.
"""

from hyperpq.backbones.base import BATCH_SIZE, Backbone
from hyperpq.backbones.registry import available_backbones, load_backbone
from hyperpq.backbones.tuned import TunedWeights

__all__ = ["BATCH_SIZE", "Backbone", "TunedWeights", "available_backbones", "load_backbone"]
