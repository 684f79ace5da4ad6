"""The script for the day when a GPU is there, tried on a CPU from end to end."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rehearse(*words: str) -> tuple[int, list[dict]]:
    """Exit status and lines of the script with the tiny model."""
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_every_check_gives_its_lines() -> None:
    status, lines = rehearse("--workers", "0", "--peak-tflops", "1", "--limit", "inf")
    assert not [line for line in lines if "failed" in line or "skipped" in line]
    assert [line["name"] for line in lines] == [
        "machine",
        *[f"correct/{name}" for name in ("logits", "loss", "gradients", "tokens")],
        *[f"correct/{name}" for name in ("logits", "loss", "gradients")],
        "memory",
        *["transformer", "resnet", "step"] * 2,
        "loader", "generate", "merge",
    ]  # fmt: skip
    assert status == 0
    steps = [line for line in lines if line["name"] in ("transformer", "step")]
    assert all(line["mfu"] == line["tflop_per_s"] > 0 for line in steps)
    assert [line["compiled"] for line in steps] == [False, False, True, True]
    assert all(line["error"] <= line["limit"] for line in lines if "limit" in line)


def test_a_check_that_fails_leaves_the_lines_of_the_others() -> None:
    status, lines = rehearse("--workers", "-1", "--only", "loader", "--only", "machine")
    assert status == 1
    assert [line["name"] for line in lines] == ["loader", "machine"]
    assert "num_workers" in lines[0]["failed"]


def test_nothing_begins_after_the_limit() -> None:
    status, lines = rehearse("--only", "generate", "--limit", "-1")
    assert (status, lines) == (0, [{"name": "generate", "skipped": "-1 s are over"}])
