"""GPUs: memory and dense matrix rates, from NVIDIA's data sheets (their larger figures assume sparsity)."""

import re
from dataclasses import dataclass

from unival.errors import UserError, nearest

GIB = 2**30
USABLE = 0.92
"""Of the memory; the rest is for the context, the libraries' work space and fragmentation."""


@dataclass(frozen=True)
class Device:
    """One GPU."""

    name: str
    gib: float
    tflops: float
    """Dense bfloat16 rate, TFLOP/s."""
    float32: float
    """Rate in float32, TFLOP/s: PyTorch multiplies matrices in TF32 only where it is told to."""

    @property
    def usable(self) -> int:
        """Bytes that tensors may take."""
        return int(self.gib * GIB * USABLE)

    def rate(self, precision: str) -> float:
        """FLOP/s at which matrices are multiplied at best."""
        return 1e12 * (self.tflops if precision == "bfloat16" else self.float32)


DEVICES = {
    "h100": Device("h100", 80e9 / GIB, 989.0, 67.0),
    "h200": Device("h200", 141e9 / GIB, 989.0, 67.0),
    "a100": Device("a100", 80e9 / GIB, 312.0, 19.5),
    "l40s": Device("l40s", 48e9 / GIB, 362.0, 91.6),
}
"""H100 and H200 as SXM, A100 with 80 GB."""


def known(name: str) -> Device | None:
    """The device by the name that its driver gives it. None where its rates are not known: the PCIe and NVL
    variants of H100 and H200 are slower."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    chosen = next((device for key, device in DEVICES.items() if key.upper() in words), None)
    slower = chosen is not None and chosen.tflops == DEVICES["h100"].tflops and {"PCIE", "NVL"} & set(words)
    return None if slower else chosen


def read(text: str) -> Device:
    """A device by its name, or `<GiB>,<TFLOP/s>`, at the precision of the run.

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
    return Device(text, gib, tflops, tflops)
