"""The text towers of published CLIPs and SigLIPs into TextTower."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fsfast.errors import CheckpointError
from fsfast.models.averages import Weights
from fsfast.models.checkpoints.layouts import Source
from fsfast.models.checkpoints.matching import Loaded, check_fit, fill, shapes_of, storage_note
from fsfast.models.checkpoints.names import OPEN_CLIP, TRANSFORMERS
from fsfast.models.checkpoints.shards import Checkpoint
from fsfast.models.text import TextConfig, TextKind, TextTower

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_FILE = {OPEN_CLIP: "open_clip_config.json", TRANSFORMERS: "config.json"}
# Layout → layer of TextTower → theirs; OpenAI's files have open_clip's names.
_RENAMED: Mapping[str, Mapping[str, str]] = {
    OPEN_CLIP: {
        "block": "transformer.resblocks.",
        **{"self_attn.out_proj": "attn.out_proj", "linear1": "mlp.c_fc", "linear2": "mlp.c_proj"},
        **{"norm1": "ln_1", "norm2": "ln_2"},
    },
    TRANSFORMERS: {
        "block": "encoder.layers.",
        **{"self_attn.out_proj": "self_attn.out_proj", "linear1": "mlp.fc1", "linear2": "mlp.fc2"},
        **{"norm1": "layer_norm1", "norm2": "layer_norm2"},
        **{"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"},
    },
}
# How the names of a text tower begin where nothing stands before them.
_PARTS = ("transformer.", "token_embedding", "positional_embedding", "ln_final", "text_projection")
# Saved by OpenAI's own files, whose networks use QuickGELU.
_OPENAI = {"input_resolution", "context_length", "vocab_size"}
_KINDS: Mapping[str, TextKind] = {
    **dict.fromkeys(("clip", "clip_text_model"), "clip"),
    **dict.fromkeys(("siglip", "siglip_text_model", "siglip2", "siglip2_text_model"), "siglip"),
}
# What JSON files of transformers leave out.
_DEFAULTS: Mapping[TextKind, Mapping[str, Any]] = {
    "clip": {
        **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12},
        **{"num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu"},
        "layer_norm_eps": 1e-5,
    },
    "siglip": {
        **{"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
        **{"num_attention_heads": 12, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh"},
        "layer_norm_eps": 1e-6,
    },
}
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# Channels of a head in every CLIP's text tower.
_HEAD = 64


def load_text_tower(
    path: str | os.PathLike[str],
    activation: str | None = None,
    *,
    weights: Weights | None = None,
    values: bool = True,
) -> Loaded[TextTower]:
    """Load the text tower of a CLIP or a SigLIP.

    Args:
        path: a weights file (safetensors, or torch.save), an index of shards, or a directory with either: a whole CLIP
            in the names of OpenAI, open_clip or transformers, or a SigLIP in those of transformers.
        activation: "quick_gelu" or "gelu", for a CLIP's file alone that does not say it.
        weights: "raw" or "ema", where the file holds raw weights and their average.
        values: False compares names and shapes alone: the module has no memory, and no file is hashed.

    Returns:
        the tower, float32 on the CPU, in evaluation mode and without gradients, with its provenance.

    Raises:
        CheckpointError: there is no text tower, or none of these; its heads or its activation are not known; its
            tensors are not exactly those that it should have; a file does not hold the weights that are meant, is
            missing, damaged or of another kind.
        ValueError: weights are none of the two.
    """
    checkpoint = Checkpoint(path, weights)
    names = _find(checkpoint)
    config, notes = _configured(checkpoint, names, activation)
    with torch.device("meta"):
        module = TextTower(config)
    shapes = shapes_of(module)
    sources = {weight: names.source(weight) for weight in shapes}
    notes += checkpoint.choice.note()
    what = f"the text tower of a {'CLIP' if config.kind == 'clip' else 'SigLIP'} of width {config.width}"
    check_fit(checkpoint, shapes, sources, names.concerns, what, "take the checkpoint of the whole model")
    if not values:
        return Loaded(module, names.layout, (), notes)
    fill(module, checkpoint, sources)
    return Loaded(module, names.layout, checkpoint.files(), notes + storage_note(checkpoint))


@dataclass(frozen=True)
class _Names:
    """How a checkpoint names its text tower.

    Attributes:
        layout: OPEN_CLIP or TRANSFORMERS.
        prefix: of the tower's names, "" or ending with a dot.
        kind: CLIP's or SigLIP's.
    """

    layout: str
    prefix: str
    kind: TextKind

    def source(self, weight: str) -> Source:
        """Where a weight of TextTower is, given by its name there."""
        if weight == "positional_embedding":
            theirs = "embeddings.position_embedding.weight" if self.layout == TRANSFORMERS else weight
            return Source((self.prefix + theirs,))
        stem, _, end = weight.rpartition(".")
        if stem == "projection":
            return self._projection(end)
        renamed = _RENAMED[self.layout]
        block = _BLOCK.fullmatch(stem)
        inside = block[2] if block else stem
        around = f"{self.prefix}{renamed['block']}{block[1]}." if block else self.prefix
        if inside == "self_attn" and end.startswith("in_proj_"):
            kind = end.removeprefix("in_proj_")
            if self.layout == OPEN_CLIP:
                return Source((f"{around}attn.in_proj_{kind}",))
            return Source(tuple(f"{around}self_attn.{part}_proj.{kind}" for part in "qkv"))
        return Source((f"{around}{renamed.get(inside, inside)}.{end}",))

    def _projection(self, end: str) -> Source:
        if self.layout == OPEN_CLIP:
            return Source((f"{self.prefix}text_projection",), transposed=True)
        if self.kind == "siglip":
            return Source((f"{self.prefix}head.{end}",))
        return Source((f"{self.prefix.removesuffix('text_model.')}text_projection.{end}",))

    def concerns(self, name: str) -> bool:
        """Whether a tensor belongs to the tower."""
        if not name.startswith(self.prefix) or name.endswith("embeddings.position_ids"):
            return False
        return self.layout == TRANSFORMERS or name.removeprefix(self.prefix).startswith(_PARTS)


def _find(checkpoint: Checkpoint) -> _Names:
    found = []
    for layout, sign in (
        (OPEN_CLIP, "token_embedding.weight"),
        (TRANSFORMERS, "embeddings.token_embedding.weight"),
    ):
        for name in checkpoint.names:
            prefix = name.removesuffix(sign)
            whole = name == sign or name.endswith(f".{sign}")
            if whole and not prefix.endswith("embeddings."):
                found.append((layout, prefix))
    if len(found) != 1:
        raise CheckpointError(
            f"{checkpoint.path}: wanted the text tower of a CLIP (open_clip's and OpenAI's token_embedding.weight, "
            "transformers' text_model.embeddings.token_embedding.weight) or of a SigLIP (as transformers saves it), "
            f"got {len(found) or 'none'}; take the checkpoint of the whole model; image towers and LLaVA have none"
        )
    layout, prefix = found[0]
    if layout == OPEN_CLIP and f"{prefix}text_projection.weight" in checkpoint.names:
        raise CheckpointError(
            f"{checkpoint.path}: this is a SigLIP in open_clip's names, whose text tower is not read; take the "
            "checkpoint that transformers reads"
        )
    siglip = layout == TRANSFORMERS and f"{prefix}head.weight" in checkpoint.names
    return _Names(layout, prefix, "siglip" if siglip else "clip")


def _configured(
    checkpoint: Checkpoint, names: _Names, activation: str | None
) -> tuple[TextConfig, tuple[str, ...]]:
    shown = _shown(checkpoint, names)
    record = checkpoint.settings(_FILE[names.layout])
    try:
        parse = _from_transformers if names.layout == TRANSFORMERS else _from_open_clip
        said = _usual(checkpoint, names, shown) if record is None else parse(record, names.kind, shown)
        if activation is None and said["activation"] is None:
            raise ValueError(
                "the weights of a text tower do not show its activation; say activation='quick_gelu' (--activation) "
                "for OpenAI's and all that began with them, 'gelu' for most of LAION's, or give the directory with its "
                f"{_FILE[names.layout]}"
            )
        if activation is not None and said["activation"] not in (None, activation):
            raise ValueError(f"wanted activation={activation}, got {said['activation']}; leave it out")
        config = TextConfig(names.kind, **{**shown, **said, "activation": said["activation"] or activation})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    by = "its size and layout" if record is None else _FILE[names.layout]
    whose = by if said["activation"] else "the caller"
    return config, (f"text heads={config.heads}: {by}", f"text activation={config.activation}: {whose}")


def _shown(checkpoint: Checkpoint, names: _Names) -> dict[str, int]:
    """What the shapes of a tower show."""

    def shape(weight: str, axes: int) -> tuple[int, ...]:
        source = names.source(weight)
        (name, *_) = source.stored
        if name not in checkpoint.names or len(found := checkpoint.shape(name)) != axes:
            raise CheckpointError(f"{checkpoint.path}: wanted {name} with {axes} axes; take the whole model")
        return found[::-1] if source.transposed else found

    vocabulary, width = shape("token_embedding.weight", 2)
    blocks = re.compile(re.escape(names.prefix + _RENAMED[names.layout]["block"]) + r"(\d{1,3})\.")
    layers = 1 + max((int(match[1]) for match in map(blocks.match, checkpoint.names) if match), default=-1)
    return {
        "vocabulary": vocabulary,
        "context": shape("positional_embedding", 2)[0],
        "width": width,
        "layers": layers,
        "hidden": shape("blocks.0.linear1.weight", 2)[0],
        "embed_dim": shape("projection.weight", 2)[0],
    }


def _usual(checkpoint: Checkpoint, names: _Names, shown: Mapping[str, int]) -> dict[str, Any]:
    """What every CLIP has; for files that stand alone."""
    if names.kind == "siglip" or shown["width"] % _HEAD:
        raise ValueError(
            "weights do not show how many heads the text tower has; give the directory with its "
            f"{_FILE[names.layout]}"
        )
    openai = {name.rpartition(".")[2] for name in checkpoint.names} >= _OPENAI
    return {
        "heads": shown["width"] // _HEAD,
        "activation": "quick_gelu" if openai else None,
        "norm_eps": 1e-5,
    }


def _from_transformers(record: dict[str, Any], kind: TextKind, shown: Mapping[str, int]) -> dict[str, Any]:
    text = record.get("text_config") or record
    model_type = text.get("model_type", record.get("model_type"))
    if _KINDS.get(str(model_type)) != kind:
        raise ValueError(
            f"wanted config.json to describe a text tower of {kind}, got model_type={model_type!r}"
        )
    said = {**_DEFAULTS[kind], **{name: value for name, value in text.items() if value is not None}}
    _compare(
        said,
        {
            "vocab_size": shown["vocabulary"],
            "max_position_embeddings": shown["context"],
            "hidden_size": shown["width"],
            "num_hidden_layers": shown["layers"],
            "intermediate_size": shown["hidden"],
        },
    )
    if said["hidden_act"] not in _ACTIVATIONS:
        raise ValueError(f"wanted hidden_act as one of {', '.join(_ACTIVATIONS)}, got {said['hidden_act']!r}")
    return {
        "heads": said["num_attention_heads"],
        "activation": _ACTIVATIONS[said["hidden_act"]],
        "norm_eps": said["layer_norm_eps"],
    }


def _from_open_clip(record: dict[str, Any], kind: TextKind, shown: Mapping[str, int]) -> dict[str, Any]:
    model = record.get("model_cfg", record)
    text = dict(model.get("text_cfg") or {})
    said = {
        "context_length": text.pop("context_length", 77),
        "vocab_size": text.pop("vocab_size", 49408),
        "width": text.pop("width", 512),
        "layers": text.pop("layers", 12),
        "mlp_ratio": text.pop("mlp_ratio", 4.0),
    }
    _compare(
        said,
        {
            "context_length": shown["context"],
            "vocab_size": shown["vocabulary"],
            "width": shown["width"],
            "layers": shown["layers"],
            "mlp_ratio": shown["hidden"] / shown["width"],
        },
    )
    heads = text.pop("heads", 8)
    if asked := [f"{name}={value!r}" for name, value in text.items() if value]:
        raise ValueError(
            f"open_clip_config.json: {asked[0]} asks for something that CLIP's text tower does not do"
        )
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    return {"heads": heads, "activation": activation, "norm_eps": 1e-5}


def _compare(said: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    for name, value in shown.items():
        if said[name] != value:
            raise ValueError(
                f"the configuration of its text tower says {name}={said[name]!r}, the weights {value!r}"
            )
