"""Make engines of timm's networks and write what came of it: `python -m benchmarks.cpu.outside [--networks NAME …]`.

Each network, with random weights, is exported by torch.onnx, and the file by `python -m export onnx` in a process of
its own. Needs timm; onnx2torch and onnx2pytorch for two columns. Results stand in benchmarks/results/onnx/networks.csv,
and as a table in docs/engines.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import load_file
from torch import nn

from benchmarks.cpu.engines import DOCS, export_apart
from benchmarks.measuring.files import update_table
from benchmarks.measuring.harness import RESULTS, circumstances
from benchmarks.measuring.tables import markdown, measured_on, read
from fsfast.engine.engine import load_engine
from fsfast.errors import brief
from fsfast.files import write_whole

CSV = RESULTS / "onnx" / "networks.csv"
SIDE = 224
# timm's name → what its features before pooling are.
NETWORKS = {
    "convnext_atto": "map",
    "efficientnet_b0": "map",
    "mobilenetv3_small_100": "map",
    "resnet18": "map",
    "swin_tiny_patch4_window7_224": "map-last",
    "vit_tiny_patch16_224": "tokens",
}
_PLACE = re.compile(r"(<!-- onnx -->\n).*?(<!-- end of onnx -->)", re.DOTALL)
_OPENVINO = re.compile(r"^\| OpenVINO \S+ \| \d+ \| (\S+) \|", re.MULTILINE)
_PARSER = re.compile(r"^\| tensorrt\S* \S+ \| \| (.*?) \| \|$", re.MULTILINE)


class Features(nn.Module):
    """What timm calls features: before pooling."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return them, in the network's own layout."""
        features: torch.Tensor = self.network.forward_features(x)
        return features


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        network: timm's name.
        layout: what its output is; "pooled" after pooling.
        features: L×D.
        parameters_m: millions of them.
        largest: the largest magnitude of the golden output.
        ort_max_abs: the largest deviation from the file on ONNX Runtime, over batches.
        openvino_max_abs: and on OpenVINO.
        tensorrt: what TensorRT's parser said.
        onnx2torch, onnx2pytorch: what these libraries make of the engine's graph in torch: its largest deviation from
            the golden output, or why there is none.
        export_s: seconds from the start of `python -m export onnx` to its end.
    """

    network: str
    layout: str
    features: str
    parameters_m: float
    largest: float
    ort_max_abs: float
    openvino_max_abs: float
    tensorrt: str
    onnx2torch: str
    onnx2pytorch: str
    export_s: float


def build(network: str, layout: str, folder: Path) -> Row:
    """Export a network of timm's and make an engine of the file.

    Raises:
        ImportError: there is no timm.
        ValueError: the engine was not made.
    """
    import timm

    torch.manual_seed(0)
    module = timm.create_model(network, pretrained=False, num_classes=0).eval()
    parameters = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    file, out = folder / "network.onnx", folder / "engine"
    torch.onnx.export(
        module if layout == "pooled" else Features(module).eval(),
        (torch.rand(2, 3, SIDE, SIDE),),
        file,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    colours = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    line = ["onnx", str(file), "--out", str(out), "--layout", layout, *colours]
    cost = export_apart([sys.executable, "-m", "export", *line])
    manifest = load_engine(out).manifest
    card = (out / "model-card.md").read_text(encoding="utf-8")
    said = _PARSER.search(card)
    golden = load_file(out / manifest.golden)
    return Row(
        network,
        layout,
        f"{manifest.tokens}×{manifest.dim}",
        parameters,
        float(np.abs(golden["encoder.output"]).max()),
        max(row["max_abs"] for row in manifest.stages["encoder"]["float32"].parity),
        max(map(float, _OPENVINO.findall(card)), default=float("nan")),
        said[1] if said else "",
        _converted("onnx2torch", "convert", out, golden),
        _converted("onnx2pytorch", "ConvertModel", out, golden, experimental=True),
        cost.seconds,
    )


def _converted(
    library: str, name: str, engine: Path, golden: Mapping[str, np.ndarray], **options: Any
) -> str:
    """Return how far a library's torch module of the graph lies from the golden output, or why there is none."""
    try:
        convert = getattr(import_module(library), name)
        module = convert(onnx.load(engine / "encoder.float32.onnx"), **options).eval()
        pixels = torch.from_numpy(golden["encoder.input"]).requires_grad_()
        tokens = module(pixels)
        tokens.square().sum().backward()
        if pixels.grad is None or not pixels.grad.any():
            return "no gradient"
        return f"{np.abs(tokens.detach().numpy() - golden['encoder.output']).max():.3g}"
    # Libraries of others fail in their own ways.
    except Exception as error:
        return brief(error)[:120]


def write(rows: Sequence[Row], path: Path = CSV) -> None:
    """Write rows to the results file; those of other networks that stand there stay."""
    update_table(path, rows, ("network", "layout"), circumstances(), digits=3)


def render(path: Path = CSV) -> str:
    """Return the results as a Markdown table with the circumstances beneath."""
    rows = read(path)
    header = (
        "network",
        "output",
        "features",
        "ONNX Runtime",
        "OpenVINO",
        "TensorRT-RTX",
        "onnx2torch",
        "onnx2pytorch",
        "export",
    )
    cells = [
        (
            f"`{row['network']}`",
            row["layout"],
            row["features"],
            _relative(row, "ort_max_abs"),
            _relative(row, "openvino_max_abs"),
            row["tensorrt"].removeprefix("its "),
            *(_relative(row, name) for name in ("onnx2torch", "onnx2pytorch")),
            f"{float(row['export_s']):.0f} s",
        )
        for row in rows
    ]
    return (
        f"{markdown(header, cells)}\nThe largest deviation from the file on ONNX Runtime, as a share of the largest "
        "output; of the libraries that make torch modules, from the engine's golden output (none: no such module). "
        f"Random weights; measured on {measured_on(rows)}.\n"
    )


def _relative(row: dict[str, str], name: str) -> str:
    try:
        value = float(row[name]) / float(row["largest"])
    except ValueError:
        return "none"
    return f"{value:.0e}" if value else "0"


def updated(text: str, path: Path = CSV) -> str:
    """Return docs/engines.md with its table made anew."""
    return _PLACE.sub(lambda match: match[1] + render(path) + match[2], text)


def main(argv: list[str] | None = None) -> int:
    """Make engines of the networks that are named, update the results file and docs/engines.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.outside", description=__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        default=list(NETWORKS),
        choices=list(NETWORKS),
        metavar="NAME",
        help=f"of {', '.join(NETWORKS)} (default: all)",
    )
    args = parser.parse_args(argv)
    try:
        for network in args.networks:
            for layout in ("pooled", NETWORKS[network]):
                with tempfile.TemporaryDirectory() as folder:
                    row = build(network, layout, Path(folder))
                write([row])
                print(row, flush=True)
    except (ImportError, ValueError) as error:
        print(f"python -m benchmarks.cpu.outside: {error}", file=sys.stderr)
        return 2
    write_whole(DOCS, updated(DOCS.read_text(encoding="utf-8")).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
