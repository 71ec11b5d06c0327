"""How much memory M rows need, known before they are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fsfast.errors import BackendUnavailable

# Libraries' workspaces and the allocator's cut-offs come on top of what is measured.
_RESERVE = 0.05


@dataclass(frozen=True)
class MemoryPlan:
    """What a micro-batch needs beside what is in place already.

    Attributes:
        fixed: bytes, whatever the number of rows.
        per_row: bytes of every row.
        available: bytes that are free.
        device: its name.
    """

    fixed: int
    per_row: int
    available: int
    device: str

    @classmethod
    def measured(cls, peak: Callable[[int], int], fixed: int, available: int, device: str) -> MemoryPlan:
        """Draw a line above the peaks of one, two and four rows.

        One row's workspace may be larger than two rows': the steeper part counts, and at least half of the mean.

        Args:
            peak: runs so many rows and returns the bytes that they needed at most.
            fixed: bytes needed besides: sums and anchors.
            available: bytes that are free.
            device: its name.
        """
        one, two = peak(1), peak(2)
        # Where four do not fit, more need not be known.
        four = peak(4) if 4 * two <= available else 2 * two
        per_row = max(two - one, (four - two) // 2, four // 8)
        return cls(fixed + max(one - per_row, 0), per_row, available, device)

    def needed(self, rows: int) -> int:
        """Return the bytes that `rows` rows need, with a reserve."""
        return int((self.fixed + rows * self.per_row) * (1 + _RESERVE))

    def most_rows(self) -> int:
        """Return the largest M that fits; 0 for none."""
        return max(int((self.available / (1 + _RESERVE) - self.fixed) // max(self.per_row, 1)), 0)

    def check(self, rows: int) -> None:
        """Refuse more rows than fit.

        Raises:
            BackendUnavailable: with the M that would fit.
        """
        if self.needed(rows) > self.available:
            raise self.refusal(rows)

    def refusal(self, rows: int) -> BackendUnavailable:
        """Return the error that says how many rows would fit."""
        most = min(self.most_rows(), rows - 1)
        remedy = f"micro_batch={most} would fit" if most else "not even one row fits: free memory on it"
        return BackendUnavailable(
            f"wanted micro-batches of {rows} rows, which need {_gb(self.needed(rows))}; {self.device} has "
            f"{_gb(self.available)} left ({_gb(self.per_row)} per row); {remedy}"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def available_bytes(device: torch.device) -> int:
    """Return what is free on a GPU, with what torch holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def planned(run: Callable[[int], object], fixed: int, device: torch.device) -> MemoryPlan:
    """Measure what a few rows need on a GPU.

    Args:
        run: computes the networks for so many rows, on the current stream.
        fixed: bytes needed besides: sums and anchors.
        device: which GPU.

    Raises:
        BackendUnavailable: not even two rows fit.
    """

    def peak(rows: int) -> int:
        # Libraries take their workspaces in the first run.
        run(rows)
        return peak_of(lambda: run(rows), device)

    name = torch.cuda.get_device_name(device)
    try:
        return MemoryPlan.measured(peak, fixed, available_bytes(device), name)
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        raise BackendUnavailable(f"not even two rows fit into the memory of {name}: {first}") from None


def peak_of(run: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that a call holds at most on a GPU beyond what is held now."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)
