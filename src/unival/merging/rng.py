"""Random masks that depend on (seed, model, tensor, element) alone: not on order, chunks or threads."""

import hashlib

import numpy as np

PER_COUNTER = 8
"""A Philox counter gives four 64-bit words: eight 32-bit numbers, one per element."""


def mask_key(seed: int, model: str, tensor: str) -> int:
    """The 128-bit Philox key of one tensor of one model."""
    text = f"{seed}\0{model}\0{tensor}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")


def keep_mask(key: int, start: int, count: int, density: float) -> np.ndarray:
    """Float32 zeros and ones for the elements start .. start + count: P(one) = `density` (to 2^-32).

    `start` is a multiple of `PER_COUNTER`.
    """
    if density >= 1:
        return np.ones(count, dtype=np.float32)
    generator = np.random.Philox(key=key, counter=start // PER_COUNTER)
    numbers = generator.random_raw(-(-count // 2)).view(np.uint32)[:count]
    kept: np.ndarray = numbers < np.uint32(min(round(density * 2**32), 2**32 - 1))
    return kept.astype(np.float32)
