"""Faults injected into every stage and command, each followed by the same command without one.

    PYTHONPATH=src python -m tests.faults.campaign --size 0.1 --work /tmp/faults

After each, the command must have ended rightly (one line, no traceback, no process left), what is there must
be whole, the inputs untouched, and the same command must give the bytes that it gives undisturbed. The
moments are random and the same in every campaign. A campaign that was stopped goes on with the same words.
Commands whose name ends in "in MLflow" are killed, and must leave the runs that they leave undisturbed.
"""

import argparse
import dataclasses
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch

from tests.faults import commands, kinds, process, serving
from tests.faults.commands import COMMANDS, ROOT, Command
from tests.faults.kinds import KINDS, Place
from tests.faults.process import Disk, Ended, Fault
from tests.workflow.logged import logged
from unival import cli, code, config, files
from unival.stages import STAGES, module

OWN = re.compile(
    r"(^|/)\.|^(scratch|mlspool|mlartifacts)/|^mlflow\.db|^reports/runs/|^multirun/[^/]+/(?!\d+/(models|reports)/)|"
    r"^multirun/.*/reports/runs/"
)
"""What a command keeps for itself, and notes of time and place."""
Files = dict[str, str]


def found(place: Place) -> Files:
    """Digest of every file that the command gives; of sweeps the last."""
    paths = {str(path.relative_to(place.folder)): path for path in place.left()}
    last = max((name.split("/")[1] for name in paths if name.startswith("multirun/")), default="")
    kept = {name: path for name, path in paths.items() if not OWN.search(name)}
    if last:
        kept = {name.replace(last, "*"): path for name, path in kept.items() if last in name}
    return {name: files.file_digest(path) for name, path in kept.items()}


def runs(place: Place, experiment: str) -> Files:
    """Digest of every part of what MLflow has of an experiment; runs of equal names together."""
    copy = place.logs / f"{time.time_ns()}.db"  # MLflow keeps files open by their name
    shutil.copyfile(place.folder / "mlflow.db", copy)
    found: dict[str, list[object]] = {}

    def note(name: str, one: dict[str, object]) -> None:
        below = one.pop("below")
        for key, value in config.flat(one).items():
            found.setdefault(f"MLflow's {name}, {key}", []).append(value)
        for run in below:
            note(f"{name} > {run['name']}", run)

    for run in logged(f"sqlite:///{copy}", experiment, place.logs):
        note(run["name"], run)
    return {name: files.digest(values) for name, values in found.items()}


def clear(place: Place) -> None:
    """Only the inputs stay."""
    for path in place.left():
        path.unlink()
    for path in sorted(place.folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


class Bench:
    """A command with its inputs, and what it gives undisturbed."""

    def __init__(self, name: str, command: Command, study: Path, work: Path) -> None:
        self.name, self.command = name, command
        disk = Disk(work / "disk")
        folder, logs = disk.folder / "here", work / "logs"
        logs.mkdir(exist_ok=True)
        folder.mkdir()
        commands.workspace(study, folder, command.inputs)
        inputs = frozenset(path for path in folder.rglob("*") if path.is_file())
        self.place = Place(folder, logs, disk, inputs, 0, 0, 0, 0)
        self.given = self._inputs()
        used = disk.used()
        first, ended = self._undisturbed()
        grown = disk.used() - used
        largest = max((path.stat().st_size for path in self.place.left()), default=0)
        clear(self.place)
        second, again = self._undisturbed()
        clear(self.place)
        self.right = {name: digest for name, digest in first.items() if second.get(name) == digest}
        self.printed = ended.printed
        self.varies = sorted(first.keys() - self.right.keys())
        seconds = (ended.seconds + again.seconds) / 2
        self.place = dataclasses.replace(
            self.place,
            seconds=seconds,
            changes=min(ended.changes, again.changes),
            grown=grown,
            largest=largest,
        )

    def _undisturbed(self) -> tuple[Files, Ended]:
        ended = kinds.run(self.command, self.place, Fault())
        if ended.status or not ended.changes:
            raise RuntimeError(f"{self.name}: exit {ended.status}\n{ended.said}")
        return self._whole(), ended

    def _whole(self) -> Files:
        """What the command gives, with its runs: `sync` sends what a slow store has not taken."""
        if not self.command.logs:
            return found(self.place)
        process.run(["sync"], self.place.folder, self.place.logs)
        return found(self.place) | runs(self.place, self.command.logs)

    def _inputs(self) -> Files:
        return {str(path): files.file_digest(path) for path in sorted(self.place.inputs)}

    def inject(self, kind: str, number: int) -> dict[str, object]:
        """One fault, and the run after it."""
        rng = random.Random(f"{self.name}/{kind}/{number}")
        ended, words, right = KINDS[kind](self.command, self.place, rng)
        harm = list(_wrong_end(ended, right))
        done = bool(self.command.logs) and ended.status == 0  # it was about to end
        if kind != "leftovers damaged":  # there the harm is ours
            whole = kind in ("clock jumps", "tracking store") or (
                bool(self.command.logs) and not ended.status
            )
            harm += self._wrong_files("it left", whole)
        if ended.status == 0 and kind == "input damaged":
            harm += self._wrong_files("with a damaged input", whole=True)
        if self._inputs() != self.given:
            harm.append("an input was changed")
        if done:
            clear(self.place)  # a second one logs a second run
        again = kinds.run(self.command, self.place, Fault())
        harm += [f"again: {what}" for what in _wrong_end(again, frozenset({0}))]
        harm += self._wrong_files("again", whole=True)
        if self.command.prints and again.printed != self.printed:
            harm.append("again: it prints something else")
        clear(self.place)
        return {
            "fault": words,
            "status": ended.status,
            "harm": harm,
            "said": _tail(ended, harm),
            "again": _tail(again, harm),
        }

    def _wrong_files(self, when: str, whole: bool) -> list[str]:
        """Outs that are others than undisturbed; `whole`: also those that are missing."""
        there = self._whole() if whole else found(self.place)
        wrong = [
            name
            for name, digest in self.right.items()
            if there.get(name, None if whole else digest) != digest
        ]
        return [f"{when}: {name} is {'missing' if name not in there else 'another'}" for name in wrong]

    def close(self) -> None:
        """Give the disk back."""
        self.place.disk.close()


def _tail(ended: Ended, harm: list[str]) -> str:
    """The end of what it said; more of it where something is to be looked into."""
    return ended.said.strip()[-6000 if harm else -600 :]


def _wrong_end(ended: Ended, right: frozenset[int]) -> list[str]:
    wrong = []
    if ended.hung:
        wrong.append(f"no end after {process.LIMIT:.0f} s")
    elif ended.status not in right:
        wrong.append(f"exit {ended.status}")
    lines = ended.said.splitlines()
    if any(line.startswith("Traceback") and not before.startswith("Exception ignored")  # Python shuts down
           for before, line in pairwise(["", *lines])):  # fmt: skip
        wrong.append("traceback")
    if ended.status == 2 and not re.search("^unival: ", ended.said, re.MULTILINE):
        wrong.append("no line of ours")
    if ended.orphans:
        wrong.append("a process is left")
    return wrong


def warm_up() -> None:
    """Import all that commands import, once for all processes."""
    torch.set_num_threads(1)
    for name, _ in cli.COMMANDS.values():
        importlib.import_module(f"unival.commands.{name}")
    for stage in STAGES:
        module(stage)
        code.digest(f"unival.stages.{stage}")
    for name in ("study.curve", "engine.inference.predictor", "merging", "model.convert", "serve.server"):
        importlib.import_module(f"unival.{name}")
    for name in ("mlflow", "hydra", "matplotlib.pyplot", "transformers.utils.logging"):
        importlib.import_module(name)
    for name in [name for name in os.environ if name.startswith(("UNIVAL_", "MLFLOW_", "DVC_"))]:
        del os.environ[name]
    os.environ |= {"UNIVAL_TRACKING": "off", "UNIVAL_RUNTIME": "cpu", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(ROOT / "src"),
                   "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}  # fmt: skip


def share_of(size: float, names: list[str], share: int, shares: int) -> list[tuple[str, int]]:
    """Command and number of its faults, for one of several processes: each takes other commands."""
    return [
        (name, max(1, round(size * (serving.FAULTS if name == "serve" else COMMANDS[name].faults))))
        for name in names[share::shares]
    ]


def work_on(part: list[tuple[str, int]], study: Path, work: Path, results: Path) -> None:
    """Inject the faults of these commands that are not among the results yet."""
    done = {(line["command"], line["kind"], line["number"]) for line in read(results)}
    for name, count in part:
        if sum(command == name for command, *_ in done) >= count:
            continue
        Disk.unmount(work / "disk")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        bench = serving.Bench(study, work) if name == "serve" else Bench(name, COMMANDS[name], study, work)
        try:
            fit = list(serving.KINDS) if name == "serve" else kinds.of(bench.command, bench.place)
            for index in range(count):
                kind, number = fit[index % len(fit)], index // len(fit)
                if (name, kind, number) in done:
                    continue
                line = {"command": name, "kind": kind, "number": number, **bench.inject(kind, number)}
                with results.open("a") as handle:
                    handle.write(json.dumps(line) + "\n")
                shown = f"{name}: {kind}: {line['fault']}: exit {line['status']}"
                print(shown, *(f"LOST: {what}" for what in line["harm"]), sep="; ", flush=True)
        finally:
            bench.close()
        print(f"{name}: {count} faults; not compared: {', '.join(bench.varies) or 'nothing'}", flush=True)


def read(results: Path) -> list[dict[str, object]]:
    """What has been injected so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(lines: list[dict[str, object]]) -> str:
    """Markdown: commands down, kinds across, lost of injected."""
    names = list(dict.fromkeys(str(line["command"]) for line in lines))
    columns = list(dict.fromkeys([*KINDS, *serving.KINDS]))
    columns = [kind for kind in columns if any(line["kind"] == kind for line in lines)]
    all_of = Counter((line["command"], line["kind"]) for line in lines)
    lost = Counter((line["command"], line["kind"]) for line in lines if line["harm"])

    def cell(*keys: tuple[object, object]) -> str:
        count, bad = sum(all_of[key] for key in keys), sum(lost[key] for key in keys)
        return (f"{count}, lost {bad}" if bad else str(count)) if count else ""

    rows = [
        [name, *(cell((name, kind)) for kind in columns), cell(*((name, kind) for kind in columns))]
        for name in names
    ]
    rows.append(["all", *(cell(*((name, kind) for name in names)) for kind in columns), cell(*all_of)])
    head = ["command", *columns, "all"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Run the campaign; exit status 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=1.0, help="share of the whole campaign's faults (1)")
    parser.add_argument("--work", type=Path, required=True, help="folder of the study and the results")
    parser.add_argument("--jobs", type=int, default=1, help="commands under test at once (1)")
    parser.add_argument("--only", nargs="*", default=[*COMMANDS, "serve"], help="commands")
    options = parser.parse_args()
    work = options.work.resolve()
    warm_up()
    study, results = work / "study", work / "results.jsonl"
    if not study.exists():
        part = work / "part"
        shutil.rmtree(part, ignore_errors=True)
        (work / "logs").mkdir(parents=True, exist_ok=True)
        commands.make(part, work / "logs")
        part.rename(study)
    jobs = []
    for number in range(options.jobs):
        job = os.fork()
        if not job:
            process.adopt_orphans()
            part = share_of(options.size, options.only, number, options.jobs)
            work_on(part, study, work / f"job-{number}", results)
            os._exit(0)
        jobs.append(job)
    failed = [job for job in jobs if os.waitpid(job, 0)[1]]
    lines = read(results)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    print(table(lines), f"\nat {commit.stdout.strip()}")
    sys.exit(bool(failed) or any(line["harm"] for line in lines))


if __name__ == "__main__":
    main()
