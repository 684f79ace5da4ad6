"""Where a result comes from and what was made of it: from `dvc.lock`, `reports/runs/` and the configuration.

A stage of `dvc.lock` is joined to those whose outs it reads. What it says holds for the files at hand; how
each stage was run is in the note of its last run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unival import code, compose, config, explain, files, provenance
from unival.errors import UserError, nearest

LOCK = Path("dvc.lock")
NOTES = Path("reports/runs")
SCORES = Path("reports/metrics/tasks.json")
PLACES = (
    "",
    "models",
    "models/merged",
    "models/finetune",
    "models/pretrain",
    "reports/figures",
    "reports/metrics",
    "reports",
)
"""Where a file or folder is looked for that is given by the end of its path."""
MADE = "made.json"
"""In the folder of a merged model: tasks, and the updates of every model behind it."""
SHORTEST = 6
"""Characters of a digest, run or commit that are enough."""
ROUNDING = (*provenance.KERNELS, "threads", "ranks")
"""What of a machine must be equal for equal bytes."""


@dataclass(frozen=True)
class Process:
    """A stage, or one item of it, as `dvc.lock` has it."""

    name: str
    command: str
    reads: dict[str, str]
    """Path -> DVC's hash."""
    writes: dict[str, str]

    @property
    def stage(self) -> str:
        """Its stage."""
        return self.name.partition("@")[0]

    @property
    def item(self) -> str | None:
        """Its phase or task."""
        return self.name.partition("@")[2] or None

    @cached_property
    def note(self) -> dict[str, Any]:
        """What its last run has noted; nothing where that is gone."""
        path = NOTES / f"{self.name.replace('@', '-')}.json"
        return files.read_json(path) if path.is_file() else {}

    def resolved(self) -> dict[str, Any]:
        """Its resolved configuration; none where what is here is no more the run's."""
        path = compose.file_of(self.stage, self.item)
        values = config.load(path) if path.is_file() else {}
        return values if files.digest(values) == self.note.get("config_hash") else {}

    def merges(self) -> dict[str, dict[str, Any]]:
        """Folder of every merged model -> its part of the `configuration`, and the `inputs` of its record."""
        found, settings = {}, self.resolved()
        for note in (note for out in self.writes for note in sorted(Path(out).glob(f"*/{MADE}"))):
            record = note.with_name("merge.json")
            inputs = files.read_json(record)["inputs"] if record.is_file() else []
            made = {"configuration": merged_by(settings, note.parent.name), "inputs": inputs}
            found[note.parent.as_posix()] = made
        return found

    def configured(self, tree: Any) -> dict[str, dict[str, Any]]:
        """Dotted key -> `value` and the `file` and `key` that set it; none where that is not known."""
        values, described = config.flat(self.resolved()), {}
        if not values or tree is None:
            return {}
        try:
            history = explain.history(tree, compose.read_params(), self.stage, self.item)
        except UserError:  # the code or conf/ at hand is another one
            return {}
        for key, settings in history.items():
            layer = {"file": settings[-1].file, "key": settings[-1].key} if settings else {}
            described[key] = {"value": values.get(key), **layer}
        return described


def merged_by(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What of the configuration of the stage merge makes one model.

    Its recipe, how its coefficients are chosen, and how it is refinetuned; empty: no model is called so.
    """
    refinetune = settings.get("refinetune", {}).get(name)
    recipe = refinetune.get("recipe") if refinetune else name
    parts = {
        "recipe": settings.get("recipes", {}).get(recipe),
        "search": settings.get("search", {}).get(recipe),
        "batch_norm": recipe in settings.get("batch_norm", []) or None,
        "refinetune": refinetune,
    }
    return {key: value for key, value in parts.items() if value is not None}


class Lineage:
    """The graph of all processes of `dvc.lock`."""

    def __init__(self) -> None:
        """Read the file.

        Raises:
            UserError: there is none.
        """
        if not LOCK.is_file():
            raise UserError(f"{LOCK}: no file: nothing was made here yet: dvc repro")
        self.processes = {
            name: Process(name, stage["cmd"], _hashes(stage.get("deps")), _hashes(stage.get("outs")))
            for name, stage in config.load(LOCK)["stages"].items()
            if name != "compose"
        }

    @cached_property
    def tree(self) -> Any:
        """The configuration of all stages; None where the code or conf/ at hand is another one."""
        try:
            return compose.compose(compose.read_params())
        except UserError:
            return None

    def parents(self, name: str) -> dict[str, list[str]]:
        """Processes that wrote what one reads, and what of it."""
        files_of: dict[str, list[str]] = {}
        for path in self.processes[name].reads:
            for other in self.processes.values():
                if other.name != name and any(_overlap(path, out) for out in other.writes):
                    files_of.setdefault(other.name, []).append(path)
        return files_of

    def before(self, name: str) -> list[str]:
        """All that a process hangs on, the nearest first."""
        return _reached(name, self.parents)

    def after(self, name: str) -> list[str]:
        """All that hangs on a process, the nearest first."""
        return _reached(name, lambda one: [other for other in self.processes if one in self.parents(other)])

    def find(self, thing: str) -> tuple[str, list[str]]:
        """What a word names, in words, and the processes that made it.

        Raises:
            UserError: nothing is called so.
        """
        for look in (self._score, self._process, self._path, self._run, self._digest, self._commit):
            if match := look(thing):
                return match
        hint = nearest(thing, [*self.processes, *_scores()])
        raise UserError(f"'{thing}' is not a score, process, file, run, digest or commit here: {hint}")

    def _score(self, thing: str) -> tuple[str, list[str]] | None:
        if (score := _scores().get(thing)) is None or "evaluate" not in self.processes:
            return None
        spread = f"[{score['low']:g}, {score['high']:g}]"
        shown = f"{score['value']:g} {spread}, {score['metric']}, {score['n']}"
        model = [name for name in (f"finetune@{thing}",) if name in self.processes]
        return f"{thing} = {shown} rows of the test split ({SCORES})", ["evaluate", *model]

    def _process(self, thing: str) -> tuple[str, list[str]] | None:
        names = [name for name in self.processes if thing in (name, name.replace("@", "-"))]
        return (f"process {names[0]}", names) if names else None

    def _path(self, thing: str) -> tuple[str, list[str]] | None:
        for place in PLACES if thing else ():
            for path in (Path(place) / thing, Path(place) / f"{thing}.png"):
                within = (path.as_posix(), *(str(parent) for parent in path.parents))
                names = [name for name, one in self.processes.items() if {*within} & {*one.writes}]
                if names and path.exists():
                    return f"{path.as_posix()}", names
        return None

    def _run(self, thing: str) -> tuple[str, list[str]] | None:
        return self._noted(thing, "run", lambda note: [note.get("run_id")])

    def _digest(self, thing: str) -> tuple[str, list[str]] | None:
        if len(thing) < SHORTEST:
            return None
        for one in self.processes.values():
            for path, md5 in one.writes.items():
                if md5.startswith(thing):
                    return f"{path}, DVC's hash {md5}", [one.name]
                for split, digest in _splits(Path(path)).items():
                    if digest.startswith(thing):
                        return f"split {split} of the data, digest {digest}", [one.name]
        return self._noted(thing, "configuration", lambda note: [note.get("config_hash")])

    def _commit(self, thing: str) -> tuple[str, list[str]] | None:
        commit = provenance.git("rev-parse", "--verify", "--quiet", f"{thing}^{{commit}}")
        return self._noted(commit, "code of commit", _commits) if commit else None

    def _noted(self, thing: str, what: str, of: Any) -> tuple[str, list[str]] | None:
        """Processes whose note holds a word that begins with this."""
        names = [
            name
            for name, one in self.processes.items()
            if len(thing) >= SHORTEST and any(word and word.startswith(thing) for word in of(one.note))
        ]
        return (f"{what} {thing}", names) if names else None

    def behind(self, what: str, made_by: list[str]) -> list[str]:
        """All that a thing hangs on beside the processes that made it, the nearest first."""
        nearest = made_by[-1]  # of a score the expert, whose ancestors are its own
        before = [name for name in self.before(nearest) if name not in made_by]
        note = Path(what) / MADE
        if not note.is_file():
            return before
        own = {model.replace("/", "@") for model in files.read_json(note)["updates"]}
        return [name for name in before if name in own or not name.startswith("finetune@")]

    def describe(self, name: str) -> dict[str, Any]:
        """All that is known of how a process ran."""
        one = self.processes[name]
        return {
            "command": f"dvc repro {name}",
            "run": one.note,
            "configuration": one.configured(self.tree),
            "code_here": code.digest(f"unival.stages.{one.stage}"),
            "reads": one.reads,
            "data": {path: splits for path in one.reads if (splits := _splits(Path(path)))},
            "writes": one.writes,
            "merges": one.merges(),
            "parents": self.parents(name),
        }


def lines(process: Mapping[str, Any], what: str) -> Iterator[str]:
    """What `describe` gives, for a person who asked for `what`."""
    note, made_by = process["run"], process["run"].get("code", {})
    yield f"  again: {process['command']}"
    if note:
        machine = [f"{key} {value}" for key, value in note.get("machine", {}).items() if key in ROUNDING]
        yield f"  run {note['run_id'] or 'without MLflow'}: {note['seconds']} s; {', '.join(machine)}"
    if made_by:
        commit, uncommitted = made_by["commit"][:12], made_by["uncommitted"][:12]
        changes = f", with what `git diff {commit} {uncommitted}` shows" if uncommitted else ""
        began = made_by.get("began", {}).get("commit", "")[:12]
        here = "as it is here" if made_by["digest"] == process["code_here"] else "other code than here"
        yield f"  code of commit {commit or 'none'}{changes}{f', begun at {began}' if began else ''}: {here}"
    if settings := process["configuration"]:
        typed = {key: one for key, one in settings.items() if one.get("file") == str(compose.PARAMS)}
        chosen = f"set in {compose.PARAMS}:" if typed else f"none set in {compose.PARAMS}"
        yield f"  configuration {note['config_hash']}, {len(settings)} values; {chosen}"
        yield from (f"    {key} = {one['value']} ({one['key']})" for key, one in typed.items())
    elif note:
        yield f"  configuration {note['config_hash']}, no longer that of {compose.BUILD}"
    for key, value in config.flat(process["merges"].get(what, {}).get("configuration", {})).items():
        if value not in (None, [], {}):
            yield f"    {key} = {value}"
    for path, md5 in process["reads"].items():
        if path.startswith("build/"):  # told above
            continue
        splits = process["data"].get(path, {})
        digests = f": {', '.join(f'{split} {digest}' for split, digest in splits.items())}" if splits else ""
        yield f"  reads {path} {md5[:12]}{digests}"


def check(one: Process) -> str:
    """Make the outs of a process again in a scratch folder, by the code that made them; says how it went.

    Raises:
        UserError: it cannot be made again, or is not what was recorded.
    """
    made_by = one.note.get("code", {})
    commit = provenance.made_by(made_by)
    if not commit or not one.resolved():
        raise UserError(f"{one.name}: its code or configuration is not known any more: dvc repro {one.name}")
    folder = provenance.root() / "scratch" / "check" / f"{one.name}-{commit[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    provenance.check_out(commit, folder)
    resolved = compose.file_of(one.stage, one.item)
    files.write_text(folder / resolved, resolved.read_text(encoding="utf-8"))
    # the report tells how the others ran, which is no dependency: their seconds change no result
    for path in (*one.reads, str(compose.BUILD), str(NOTES)):
        if Path(path).exists():
            _link(Path(path), folder / path)
    copied = {provenance.CODE: f"{made_by['commit']}:{made_by['uncommitted']}"}
    environment = provenance.alone(DVC_ROOT=str(folder), PYTHONPATH=str(folder / "src"), **copied)
    command = [sys.executable, "-m", "unival", "run", one.stage, "--config", str(resolved)]
    if subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
        raise UserError(f"{one.name}: it failed in {folder}")
    said = _compared(one, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return said


def _link(source: Path, target: Path) -> None:
    """Hard links: a merge records relative paths, and symbolic ones would lead out of the folder."""
    for path in files_of(source):
        place = target / path.relative_to(source)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), place)
        except OSError:  # another file system
            files.copy(path, place)


def _compared(one: Process, folder: Path) -> str:
    """How the outs in a folder compare with those at hand.

    Raises:
        UserError: bytes differ where they should not, or scores by more than their intervals.
    """
    paths = [path for out in one.writes if not out.startswith(str(NOTES)) for path in files_of(Path(out))]
    differing = [str(path) for path in paths if not equal(path, folder / path)]
    if not differing:
        return f"{one.name}: {len(paths)} files made again, the same bytes"
    again = files.read_json(folder / NOTES / f"{one.name.replace('@', '-')}.json")["machine"]
    then = one.note.get("machine", {})
    other = [key for key in ROUNDING if again.get(key) != then.get(key)]
    shown = f"{len(differing)} of {len(paths)} files have other bytes ({', '.join(differing[:3])})"
    if not other:
        raise UserError(f"{one.name}: {shown}, on a machine that should give the same: see {folder}")
    if not (folder / SCORES).is_file():
        return f"{one.name}: {shown}: another {', '.join(other)} rounds otherwise; it has no scores"
    scores = files.read_json(folder / SCORES)
    outside = [
        f"{task} {scores[task]['value']:g}"
        for task, score in _scores().items()
        if not score["low"] <= scores[task]["value"] <= score["high"]
    ]
    if outside:
        raise UserError(f"{one.name}: outside of their intervals: {', '.join(outside)}: see {folder}")
    return f"{one.name}: {shown}: another {', '.join(other)} rounds otherwise; scores are within intervals"


def _commits(note: Mapping[str, Any]) -> list[str | None]:
    return [note.get("code", {}).get(key) for key in ("commit", "uncommitted")]


def _hashes(entries: list[dict[str, Any]] | None) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in entries or []}


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    return Path(one) == Path(other) or Path(one) in Path(other).parents or Path(other) in Path(one).parents


def _reached(start: str, following: Any) -> list[str]:
    reached = [start]
    for name in reached:
        reached += [other for other in following(name) if other not in reached]
    return reached[1:]


def _scores() -> dict[str, Any]:
    return files.read_json(SCORES) if SCORES.is_file() else {}


def _splits(folder: Path) -> dict[str, str]:
    """Split -> digest of prepared data; none of another folder."""
    path = folder / "benchmark.json"
    splits = files.read_json(path)["splits"] if path.is_file() else {}
    return {name: split["digest"] for name, split in splits.items()}


def files_of(path: Path) -> list[Path]:
    """The files of a folder, or the file itself."""
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def equal(one: Path, other: Path) -> bool:
    """Whether a file has the bytes of another one, which may be missing."""
    return other.is_file() and files.file_digest(one) == files.file_digest(other)
