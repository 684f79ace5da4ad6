"""Coverage-guided fuzzing of all that reads what others made.

    pip install atheris==3.0.0
    PYTHONPATH=src python -m tests.fuzz.run --size 0.01

Each target runs in a process of its own until it has had its executions, in at most 2 GiB and 20 seconds an
input; it may end in success or one line (UserError). What ends otherwise is kept in the folder `--work`.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["unival"]):
    from tests.fuzz.targets import Target, targets

from unival.errors import UserError

LIMITS = ("-rss_limit_mb=2048", "-timeout=20")
EXECUTIONS = re.compile(r"number_of_executed_units:\s+(\d+)")


def fuzz(target: Target, words: Sequence[str]) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    corpus, place = folder / "corpus", folder / "files"
    for made in (corpus, place):
        made.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)

    def once(data: bytes) -> None:
        try:
            target.run(data, place)
        except UserError as error:
            if not str(error).strip():
                raise AssertionError("an error without words") from error

    atheris.Setup([sys.argv[0], *words, f"-max_len={target.longest}", str(corpus)], once)
    atheris.Fuzz()


def executions(name: str, target: Target, runs: int, work: Path) -> tuple[int, bool]:
    """How many there were in a process of its own, and whether one failed."""
    stem = work / re.sub(r"\W+", "-", name)
    log = stem.with_suffix(".log")
    process = os.fork()
    if not process:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
        fuzz(target, [f"-runs={runs}", *LIMITS, "-print_final_stats=1", f"-artifact_prefix={stem}-"])
    status = os.waitpid(process, 0)[1]
    found = EXECUTIONS.search(log.read_text(errors="replace"))
    return int(found[1]) if found else 0, status != 0


def main() -> None:
    """Fuzz; exit status 1 where something failed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--size", type=float, default=1.0, help="share of all executions (1)")
    parser.add_argument("--work", type=Path, default=Path("scratch/fuzz"), help="for logs and what failed")
    parser.add_argument("--only", nargs="*", help="targets")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    total, failures = 0, 0
    print("| target | executions | seconds | failed |\n| --- | --- | --- | --- |")
    for name, target in targets().items():
        if options.only and name not in options.only:
            continue
        begun = time.monotonic()
        count, failed = executions(name, target, round(target.millions * 1e6 * options.size), options.work)
        total, failures = total + count, failures + failed
        passed = time.monotonic() - begun
        print(f"| {name} | {count:,} | {passed:.0f} | {'yes' if failed else 'no'} |", flush=True)
    print(f"| all | {total:,} | | {failures} |")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
