"""Order of a stream that is read in lanes, for data too large for every machine to hold all of them.

The draws of a stream go round its lanes: position p is of lane p mod L. Each lane has its own stretch of
consecutive rows, the same in every pass, and reads it block after block: blocks in random order, and so are
the rows of each. Stretches follow each other as the lanes do when their bits are read backwards, so that
every second lane, or every fourth, has one half or quarter of the rows. Media lie in shards in the order in
which rows need them: a rank that is dealt such lanes needs such a part of the shards. Every pass holds each
row once; fewer than L rows that remain end it.
"""

import zlib

import numpy as np

MOST = 256
"""Lanes of a stream, a power of two: the most ranks that may each have shards of their own."""


class Lanes:
    """Rows of the streams of a run. Keeps the order of the blocks of each lane that is asked for, and of the
    rows of its open block; what it gives depends on neither.

    Args:
        block: rows of a block.
    """

    def __init__(self, seed: int, block: int) -> None:
        self.seed, self.block = seed, block
        self._orders: dict[tuple[str, int, int], tuple[tuple[int, ...], np.ndarray]] = {}

    def row(self, stream: str, position: int, size: int) -> int:
        """Of the `size` rows of a stream, the one that is drawn at a position."""
        lanes = self.count(size)
        rows = size // lanes
        epoch, place = divmod(position, size)
        if place >= rows * lanes:
            return place
        lane, place = position % lanes, place // lanes
        stretch = int(f"{lane:0{lanes.bit_length() - 1}b}"[::-1], 2)
        blocks = -(-rows // self.block)
        order = self._order(stream, lane, blocks, epoch)
        lacking = blocks * self.block - rows  # in the last block, wherever it comes
        if place >= (int(np.argmax(order)) + 1) * self.block - lacking:
            place += lacking
        block = int(order[place // self.block])
        length = min(self.block, rows - block * self.block)
        within = self._order(stream, lane, length, epoch, block)
        return stretch * rows + block * self.block + int(within[place % self.block])

    def count(self, size: int) -> int:
        """Lanes of a stream of `size` rows: each has a block at least, so that few rows are one lane."""
        return min(MOST, 1 << max(size // self.block, 1).bit_length() - 1)

    def _order(self, stream: str, lane: int, size: int, *version: int) -> np.ndarray:
        """A permutation, int64 (size,); the last one of its kind is kept."""
        slot = stream, lane, len(version)
        kept = self._orders.get(slot)
        if kept is None or kept[0] != (size, *version):
            key = (self.seed, zlib.crc32(stream.encode()), lane, *version)
            kept = (size, *version), np.random.default_rng(key).permutation(size)
            self._orders[slot] = kept
        return kept[1]
