"""Write the smoothed features of images to a .safetensors or .npz file.

The file holds features, directions, seeds, and which function made them; fsfast.load_features reads it.
"""

from __future__ import annotations

import argparse
import json

from fsfast.commands.common import as_text, engine_arguments, open_encoder, parse_seed, readable
from fsfast.files import check_target
from fsfast.report.text import RANDOM_WEIGHTS


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files of any size")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="name ending in .safetensors or .npz"
    )
    parser.add_argument("--n0", type=int, help="samples per image (default: the engine's)")
    parser.add_argument("--seed", type=parse_seed, help="use this seed for every image, to replay a result")
    parser.add_argument("--raw-mean", action="store_true", help="also store the mean of the raw features")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Encode the images and write one file."""
    if not args.output.endswith((".safetensors", ".npz")):
        raise ValueError(f"wanted an output name ending in .safetensors or .npz, got {args.output!r}")
    check_target(args.output)
    with open_encoder(args) as encoder:
        images = [image for image in readable(args.images, encoder, "encode") if image is not None]
        if not images:
            return 1
        seeds = None if args.seed is None else [args.seed] * len(images)
        out = encoder.encode(images, args.n0, seeds=seeds, raw_mean=args.raw_mean)
    out.save(args.output)
    if args.json:
        summary = {
            "output": as_text(args.output),
            "images": [image.name for image in images],
            "shape": list(out.features.shape),
            "n0": out.n0,
            "seeds": [f"0x{int(seed):016x}" for seed in out.seeds],
            "function_id": out.function_id,
            "random_weights": out.random_weights,
        }
        print(json.dumps(summary))
    else:
        shape = " × ".join(map(str, out.features.shape))
        print(f"{as_text(args.output)}: features {shape}, n0 = {out.n0}, σ = {out.sigma:g}")
        if out.random_weights:
            print(RANDOM_WEIGHTS)
    return 0 if len(images) == len(args.images) else 1
