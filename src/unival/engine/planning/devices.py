"""GPUs: memory and dense matrix rates, from NVIDIA's data sheets (their larger figures assume sparsity)."""

from dataclasses import dataclass

from unival.errors import UserError, nearest

GIB = 2**30
FLOAT32_SHARE = 0.5
"""Of the bfloat16 rate, in TF32, on all of them."""
USABLE = 0.92
"""Of the memory; the rest is for the context, the libraries' work space and fragmentation."""


@dataclass(frozen=True)
class Device:
    """One GPU."""

    name: str
    gib: float
    tflops: float
    """Dense bfloat16 rate, TFLOP/s."""

    @property
    def usable(self) -> int:
        """Bytes that tensors may take."""
        return int(self.gib * GIB * USABLE)

    def rate(self, precision: str) -> float:
        """FLOP/s at which matrices are multiplied at best."""
        return self.tflops * 1e12 * (1.0 if precision == "bfloat16" else FLOAT32_SHARE)


DEVICES = {
    "h100": Device("h100", 80e9 / GIB, 989.0),
    "h200": Device("h200", 141e9 / GIB, 989.0),
    "a100": Device("a100", 80e9 / GIB, 312.0),
    "l40s": Device("l40s", 48e9 / GIB, 362.0),
}
"""H100 and H200 as SXM, A100 with 80 GB."""


def read(text: str) -> Device:
    """A device by its name, or `<GiB>,<TFLOP/s>`.

    Raises:
        UserError: neither.
    """
    if text in DEVICES:
        return DEVICES[text]
    try:
        gib, tflops = map(float, text.split(","))
    except ValueError:
        raise UserError(
            f"--device {text}: {nearest(text, DEVICES)}; others as <GiB>,<TFLOP/s>, as 24,165"
        ) from None
    if not 0 < gib < float("inf") or not 0 < tflops < float("inf"):
        raise UserError(f"--device {text}: memory in GiB and rate in TFLOP/s must be above 0")
    return Device(text, gib, tflops)
