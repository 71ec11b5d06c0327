"""What a smoothed vision tower costs a host beside its own: ViT-B/16 of transformers, and engines in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import fsfast
from benchmarks.cpu import serving
from benchmarks.measuring import built
from benchmarks.measuring.harness import Row, measure_together, row
from fsfast.machine import available_threads

N0 = (1, 4, 16)
PLAIN = "the host's own"


def towers(runs: int = 5) -> Iterator[Row]:
    """One image of 224×224 through the tower that a host calls, in float32: its own, and smoothed ones."""
    import torch

    from fsfast.integrations.tower import SmoothedTower

    torch.set_num_threads(available_threads())
    with contextlib.ExitStack() as stack:
        for label, engine in (
            ("encoder", built.vit_float32()),
            ("purifier + encoder + mapper", built.purified_float32()),
        ):
            encoder = stack.enter_context(fsfast.SmoothedEncoder(engine))
            levels = torch.from_numpy(serving.picture(encoder))[None]
            calls: dict[str, Callable[[], object]] = {}
            for n0 in N0:
                tower = SmoothedTower(encoder, n0, form="levels")
                calls[f"smoothed, n0={n0}"] = partial(tower.features, levels)
            plain = own_tower()
            calls[PLAIN] = partial(plain, torch.zeros(1, 3, 224, 224))
            timings = measure_together(calls, runs=runs)
            for variant, timing in timings.items():
                share = {"share": timings[PLAIN].p50 / timing.p50, "of": "the host's own tower"}
                yield row(f"tower, {label}", variant, available_threads(), timing, 1, "images/s", **share)


def own_tower() -> Callable[[object], object]:
    """Return the vision tower that transformers makes of ViT-B/16's configuration, with random weights."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    torch.manual_seed(0)
    tower = CLIPVisionModel(config).eval()
    return torch.inference_mode()(lambda pixels: tower(pixels).last_hidden_state)
