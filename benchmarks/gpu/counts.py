"""What networks ask of a GPU, counted without one: `python -m benchmarks.gpu.counts`.

Launches, bytes between memory and processors, and floating-point operations of one micro-batch in bfloat16, operator by
operator, from shapes alone. An operator takes at least the longer of its two times, at the rates below; the sum is an
estimate of what nothing but better kernels can undercut, not a measurement. Launches hidden inside an operator (a
convolution's change of layout, the steps of torch's GroupNorm) are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.measuring.files import write_table
from benchmarks.measuring.harness import RESULTS
from fsfast.backends.torch.attention import with_token_attention
from fsfast.backends.torch.networks import for_device
from fsfast.models.mapper import FoldedMapper
from fsfast.models.unet import ADM256, UNET_LIGHT, FoldedUNet
from fsfast.models.vit import ViTFeatures
from fsfast.models.vit_config import VIT_L_14_336
from fsfast.report.text import table

# Of an H200 SXM: its memory, and dense bfloat16 products at 80 % of the data sheet's 989 TFLOP/s.
BYTES_PER_S = 4.8e12
FLOP_PER_S = 0.8 * 989e12
_HALF = 2
# Above so many pixels a norm's kernels read their input twice (`fsfast.kernels.cuda.group_norm_silu`).
_SMALL_PIXELS = 1024


@dataclass(frozen=True)
class Counts:
    """Of one micro-batch.

    Attributes:
        network, how: which, and whether as it is or as the device runs it.
        m: rows.
        launches: operators that do work.
        gb: 10⁹ bytes read and written.
        tflop: 10¹² floating-point operations, two for a multiplication and an addition.
        ms: the estimate, per row.
    """

    network: str
    how: str
    m: int
    launches: int
    gb: float
    tflop: float
    ms: float


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.flop, self.seconds = 0, 0, 0, 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function.is_view or function.namespace == "prim" or "view" in function.name():
            return out
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        moved = _HALF * sum(tensor.numel() for tensor in (*given, *made))
        self.launches += 1
        if "group_norm" in function.name() and given[0][0, 0].numel() > _SMALL_PIXELS:
            moved += _HALF * (made[0].numel())
            self.launches += 2
        flop = _flop(function, args, kwargs or {}, out)
        self.flop += flop
        self.bytes += moved
        self.seconds += max(moved / BYTES_PER_S, flop / FLOP_PER_S)
        return out


def _flop(function: Any, args: Any, kwargs: dict[str, Any], out: Any) -> int:
    """Return the floating-point operations of products and convolutions; of others 0."""
    packet = function.overloadpacket
    # Sums into a product's own memory have as many.
    count = flop_registry.get(torch.ops.aten.addmm if packet is torch.ops.aten.addmm_ else packet)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))


_IMAGE = (3, 256, 256)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "adm256": (lambda: FoldedUNet(ADM256), _IMAGE),
    "unet-light": (lambda: FoldedUNet(UNET_LIGHT), _IMAGE),
    "ViT-L/14-336": (lambda: ViTFeatures(VIT_L_14_336, "penultimate"), (3, 336, 336)),
    "mapper": (lambda: FoldedMapper(VIT_L_14_336.width), (VIT_L_14_336.patches, VIT_L_14_336.width)),
}


def counts(sizes: tuple[int, ...] = (4, 16)) -> Iterator[Counts]:
    """Count every network, as it is (but for its attention, as every back end has it) and as the device runs it."""
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {"plain": with_token_attention, "device": for_device}
    for name, (make, shape) in NETWORKS.items():
        for how, way in ways.items():
            for m in sizes:
                yield _counted(name, how, lambda make=make, way=way: way(make()), m, shape)  # type: ignore[misc]


def _counted(name: str, how: str, make: Callable[[], nn.Module], m: int, shape: tuple[int, ...]) -> Counts:
    with FakeTensorMode(), torch.no_grad():
        network = make()
        x = torch.empty((m, *shape))
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        for weight in network.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        with _Counter() as found:
            network(x)
    return Counts(
        name,
        how,
        m,
        found.launches,
        round(found.bytes / 1e9, 2),
        round(found.flop / 1e12, 3),
        round(1e3 * found.seconds / m, 2),
    )


def main() -> None:
    """Count all networks and write the results file."""
    rows = [asdict(row) for row in counts()]
    write_table(RESULTS / "counts" / "gpu.csv", rows)
    print(table([list(map(str, row.values())) for row in rows], list(rows[0])))


if __name__ == "__main__":
    main()
