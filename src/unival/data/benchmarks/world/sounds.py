"""Short sounds: steady tones, sweeps, beeps, dialed digits (DTMF), noise; one, or two in a row."""

import json
from dataclasses import asdict, dataclass
from random import Random

import numpy as np

from unival.data.benchmarks.world.concepts import pick
from unival.record import NUMBERS

RATE = 8000
SECONDS = 1.2
PITCHES: dict[str, tuple[float, float]] = {"low": (220, 380), "high": (1100, 1700)}
"""Hertz."""
KINDS = ("tone", "sweep", "beeps", "dial", "noise")
_ROWS, _COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)
DTMF = {
    NUMBERS[digit]: (_ROWS[row], _COLUMNS[column])
    for digit, (row, column) in {0: (3, 1), **{n: divmod(n - 1, 3) for n in range(1, 10)}}.items()
}
"""The two frequencies of a telephone key (ITU-T Q.23)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One part of a sound; fields that its kind does not use stay empty."""

    kind: str
    pitch: str = ""
    """low or high: tones and beeps."""
    direction: str = ""
    """rising or falling: sweeps."""
    count: int = 0
    """How many beeps."""
    digits: tuple[str, ...] = ()
    """Dialed digits in order."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Events in order."""

    events: tuple[Event, ...]

    def facts(self) -> str:
        """JSON of what is true, for the caption checker."""
        return json.dumps({"medium": "audio", **asdict(self)}, separators=(",", ":"))


def _event(rng: Random, kind: str, short: bool) -> Event:
    if kind == "tone":
        return Event(kind, pitch=pick(rng, tuple(PITCHES)))
    if kind == "sweep":
        return Event(kind, direction=pick(rng, ("rising", "falling")))
    if kind == "beeps":
        return Event(kind, pitch=pick(rng, tuple(PITCHES)), count=rng.randint(2, 3 if short else 5))
    if kind == "dial":
        return Event(kind, digits=tuple(pick(rng, NUMBERS) for _ in range(rng.randint(1, 2 if short else 3))))
    return Event(kind)


def _sine(frequency_S: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * np.cumsum(frequency_S) / RATE)


def _fade(wave_S: np.ndarray) -> np.ndarray:
    ramp = np.minimum(np.arange(len(wave_S)) / 60, 1.0)
    return wave_S * ramp * ramp[::-1]


def _render(rng: Random, event: Event, samples: int) -> np.ndarray:
    """The event as float samples, `samples` long."""
    if event.kind == "noise":
        return _fade(np.random.default_rng(rng.getrandbits(63)).normal(0, 0.35, samples))
    if event.kind == "tone":
        return _fade(_sine(np.full(samples, rng.uniform(*PITCHES[event.pitch]))))
    if event.kind == "sweep":
        low, high = rng.uniform(250, 450), rng.uniform(1100, 1800)
        ends = (low, high) if event.direction == "rising" else (high, low)
        return _fade(_sine(np.geomspace(*ends, samples)))
    if event.kind == "beeps":
        frequency = rng.uniform(*PITCHES[event.pitch])
        beep = _fade(_sine(np.full(int(0.07 * RATE), frequency)))
        return _row([beep] * event.count, int(rng.uniform(0.09, 0.12) * RATE), samples)
    times = np.arange(int(rng.uniform(0.15, 0.19) * RATE)) / RATE
    keys = [sum(np.sin(2 * np.pi * f * times) for f in DTMF[digit]) / 2 for digit in event.digits]
    return _row([_fade(np.asarray(key)) for key in keys], int(0.06 * RATE), samples)


def _row(parts: list[np.ndarray], gap: int, samples: int) -> np.ndarray:
    """Parts with gaps between, cut or filled up to `samples`."""
    wave = np.concatenate([np.concatenate([part, np.zeros(gap)]) for part in parts])[:samples]
    return np.concatenate([wave, np.zeros(samples - len(wave))])


def make_sound(rng: Random) -> tuple[Sound, np.ndarray]:
    """A random sound and its samples, float32 in [-1, 1], 1.2 s at 8 kHz."""
    total = int(SECONDS * RATE)
    two = rng.random() < 0.5
    kinds = rng.sample(KINDS, 2) if two else [pick(rng, KINDS)]
    events = tuple(_event(rng, kind, two) for kind in kinds)
    pause = int(0.06 * RATE) if two else 0
    length = (total - pause) // len(events)
    parts = [_render(rng, event, length) for event in events]
    wave = parts[0] if not two else np.concatenate([parts[0], np.zeros(pause), parts[1]])
    wave = wave * rng.uniform(0.4, 0.8)
    wave = wave + np.random.default_rng(rng.getrandbits(63)).normal(0, 0.01, len(wave))
    return Sound(events), np.clip(wave, -1, 1).astype(np.float32)
