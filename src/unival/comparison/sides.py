"""What a person can name to compare, found and brought into one form.

reports/ or a checkout      of this clone or another one
models/finetune/vqa         a model folder; below multirun/, of a sweep's job
made.jsonl                  predictions for the rows of one task, of `unival score --model`
multirun/<sweep>[/<job>]    all jobs of a sweep, those that differ in the seed alone as one; or one job
a commit, a DVC experiment  what Git and DVC's cache have of it
a run                       of MLflow, by its id or its name; that of `evaluate` holds the whole study
a,b,c                       a group of seeds: any of these, a comma between them
"""

import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unival import config, files, provenance, tracking
from unival.data.remote import local
from unival.errors import UserError
from unival.lineage import merged_by
from unival.study import archive, tables
from unival.study.results import read_configs, read_curve
from unival.study.tables import Curve, Run

Key = tuple[str, str, str]
"""Model, task, and the split with its shift, as the file of the predictions is called."""
TRAINING, MERGING = "training", "merge"
"""The process of a member that is one model: of two trainings, or two merges, the same."""


@dataclass(frozen=True)
class Member:
    """One study, or one model: of a group of seeds, one seed."""

    name: str
    cells: Mapping[Key, Path] = field(default_factory=dict)
    """Where its predictions are."""
    model: str = ""
    """Folder below models/ of the one model that it is; empty: a whole study."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Process -> resolved configuration."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    run_id: str | None = None
    """The run of MLflow that a comparison is put on."""
    data: Path | None = None
    """A prepared benchmark, to look at rows."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Split -> digest of its files, where it is known."""
    repeats: Mapping[int, Path] = field(default_factory=dict)
    """Other seeds of the study -> the primary scores of their rows (`unival.study.row_scores`)."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Task -> the metric that stands for it, where it is known."""

    @property
    def seeds(self) -> set[Any]:
        """The seeds of its trainings."""
        numbers = {(one.get("train") or {}).get("seed") for one in self.configs.values()}
        return numbers - {None}


@dataclass(frozen=True)
class Side:
    """A side of a comparison: one member, or a group of seeds."""

    name: str
    members: list[Member]

    @property
    def model(self) -> str:
        """The one model that it is; empty: a study."""
        return self.members[0].model


def read(text: str, scratch: Path) -> list[Side]:
    """What is named so: one side, of a sweep as many as it has jobs that differ in more than the seed.

    Args:
        scratch: a folder for what has to be brought from Git, DVC or MLflow.

    Raises:
        UserError: nothing is named so, or it holds no results.
    """
    if "," in text and not Path(text).exists():
        parts = [side for part in text.split(",") if part for side in read(part, scratch)]
        if not parts:
            raise UserError(f"{text}: names nothing: write what is compared between the commas")
        return [Side(text, [member for side in parts for member in side.members])]
    path = Path(text)
    if jobs := _jobs(path):
        return _by_seed(text, jobs)
    return [Side(text, [_source(text, path, scratch)])]


def _source(text: str, path: Path, scratch: Path) -> Member:
    if path.is_dir():
        return _of_folder(text, path)
    if path.is_file():
        return Member(text, {(text, "rows", "test"): path}, model=text)
    if commit := _commit(text):
        return _of_commit(text, commit, scratch)
    past = tracking.find(text)
    if past is None:
        raise UserError(
            f"{text}: no folder, file, commit, experiment of DVC or run of {tracking.store_name()} is called "
            "so: give a folder of reports, a model, a sweep, predictions, or what `mlflow` or `dvc exp show` "
            "call it"
        )
    return _of_run(text, past, scratch)


def _of_folder(text: str, path: Path) -> Member:
    """A model, a sweep's job, a folder of reports, or a checkout with one."""
    if (path / "model.safetensors").is_file():
        return _of_model(text, path)
    if (path / "config.yaml").is_file():
        return _with_cells(_of_job(text, path), path)
    if (path / "reports").is_dir():
        return _of_study(text, path, path / "reports")
    if (path / "metrics").is_dir():
        return _of_study(text, path.parent if path.name == "reports" else path, path)
    raise UserError(
        f"{path}: neither a model, a job of a sweep nor reports: `dvc repro evaluate` writes them"
    )


def _of_study(text: str, root: Path, reports: Path) -> Member:
    configs = read_configs(root / "build/config")
    configs.pop("seeds", None)  # it holds the others once more, for every seed
    names = [path.stem for path in (reports / "runs").glob("*.json")]
    runs = {name: tables.read_json(reports / f"runs/{name}.json", Run) for name in sorted(names)}
    cells = {_key(path.relative_to(reports / "predictions")): path for path in _predictions(reports)}
    curves = {name: curve for name in configs or runs if (curve := read_curve(reports / "curves", name))}
    if not (cells or runs or curves):
        raise UserError(f"{text}: no results in {reports}: run `dvc repro evaluate` there")
    data, digests = _data(root, reports, configs)
    run_id = runs["evaluate"].run_id if "evaluate" in runs else None
    scores = reports / "metrics/tasks.json"
    metrics = {
        task: score["metric"] for task, score in (files.read_json(scores) if scores.is_file() else {}).items()
    }
    for one in configs.values():
        tasks = one.get("tasks")
        metrics |= {task: settings["metric"] for task, settings in tasks.items()} if tasks else {}
    repeats = {int(path.parts[-3]): path for path in sorted(reports.glob("seeds/*/metrics/rows.parquet"))}
    return Member(text, cells, "", configs, curves, runs, run_id, data, digests, repeats, metrics)


def _predictions(reports: Path) -> list[Path]:
    return sorted((reports / "predictions").rglob("*.jsonl"))


def _key(path: Path) -> Key:
    """Of `finetune/vqa/vqa/test-blur-3.jsonl`."""
    return "/".join(path.parts[:-2]), path.parts[-2], path.stem


def _data(
    root: Path, reports: Path, configs: Mapping[str, Mapping[str, Any]]
) -> tuple[Path | None, dict[str, str]]:
    """The prepared data (of this checkout where the study has none of its own) and their digests."""
    place = local(configs.get("evaluate", {}).get("data", "data/processed/world"))
    own = [folder for folder in (root / place, root / "data") if (folder / "benchmark.json").is_file()]
    summary = reports / "summary.json"
    digests: dict[str, str] = {}
    if own:
        splits = files.read_json(own[0] / "benchmark.json")["splits"]
        digests = {name: split["digest"] for name, split in splits.items()}
    elif summary.is_file():
        digests = files.read_json(summary)["provenance"]["data"]
    media = [folder for folder in (root / place, place) if (folder / "test").is_dir()]
    return (media[0] if media else None), digests


def _of_model(text: str, path: Path) -> Member:
    """A model folder: its cells are those of the study that it lies in, else they are computed here."""
    parts = path.resolve().parts
    if "models" not in parts:
        raise UserError(f"{path}: not a model of a study: it must be inside models/")
    place = len(parts) - 1 - parts[::-1].index("models")
    root, model = Path(*parts[:place]), "/".join(parts[place + 1 :])
    if (root / "config.yaml").is_file():
        study = _of_job(text, root)
    elif (root / "reports").is_dir():
        study = _of_study(text, root, root / "reports")
    else:
        study = Member(text)
    return _one_model(study, model, path)


def _one_model(study: Member, model: str, path: Path) -> Member:
    stage, _, item = model.partition("/")
    cells = {key: file for key, file in study.cells.items() if key[0] == model}
    made = stage == "merged"
    process, called = ("merge", MERGING) if made else (f"{stage}-{item}", TRAINING)
    settings = study.configs.get(process)
    if made and settings:
        settings = merged_by(settings, item)
    run = study.runs.get(process)
    return replace(
        study,
        model=model,
        cells=cells or _scored(path, model, "test"),
        configs={called: _one_task(settings)} if settings else {},
        curves={called: study.curves[process]} if process in study.curves else {},
        runs={called: run} if run else {},
        run_id=run.run_id if run else None,
    )


def _scored(folder: Path, model: str, split: str) -> dict[Key, Path]:
    """Cells of a model on its tasks, computed here unless `evaluate` knows them."""
    from unival.stages import evaluate
    from unival.study.benchmark import Benchmark
    from unival.study.cells import CellSpec
    from unival.study.leaderboard import made
    from unival.tasks.folder import carried

    path = Path("build/config/evaluate.yaml")
    settings = config.build(evaluate.Config, config.load(path), str(path))
    benchmark = Benchmark(settings.data, settings.tasks)
    tasks = [task for task in made(model).get("tasks", carried(folder)) if benchmark.has(split, task)]
    specs = [
        CellSpec(model, "finetuned", task, split, settings.rows) for task in tasks if task in settings.tasks
    ]
    print(f"{folder}: {split} rows of {', '.join(tasks)} are scored now", file=sys.stderr)
    cells = evaluate.cells_of(settings, benchmark, Path("scratch/evaluate/cells"))
    results = evaluate.of_model(cells, folder, specs)
    return {(model, result.spec.task, split): result.predictions for result in results}


def _jobs(path: Path) -> list[Path]:
    """The jobs of a sweep that have finished, in their order; none where the folder is no sweep."""
    jobs = [runs.parents[1] for runs in path.glob("*/reports/runs")]
    finished = [job for job in jobs if job.name.isdecimal() and (job / "config.yaml").is_file()]
    return sorted(finished, key=lambda job: int(job.name))


def _of_job(text: str, path: Path) -> Member:
    """A job of a sweep, as its stage left it."""
    values = config.load(path / "config.yaml")
    name = "-".join(part for part in (values.get("stage"), values.get("item")) if part)
    study = _of_study(text, path, path / "reports")
    data, digests = _data(Path(), Path("reports"), read_configs(Path("build/config")))
    run_id = study.runs[name].run_id if name in study.runs else None
    curves = {name: curve} if (curve := read_curve(path / "reports/curves", name)) else {}
    return replace(study, configs={name: values}, curves=curves, run_id=run_id, data=data, digests=digests)


def _with_cells(job: Member, path: Path) -> Member:
    """What a job trained is scored on validation rows, for choosing is what a sweep is for."""
    cells = dict(job.cells)
    for file in [] if cells else sorted(path.glob("models/*/*/model.safetensors")):
        cells |= _scored(file.parent, "/".join(file.parent.parts[-2:]), "val")
    return replace(job, cells=cells)


def _by_seed(text: str, jobs: list[Path]) -> list[Side]:
    """Jobs whose configurations differ in the seed alone are one side."""
    members = [_with_cells(_of_job(f"{jobs[0].parent.name}/{job.name}", job), job) for job in jobs]

    def but_seed(member: Member) -> str:
        values = {name: config.flat(one) for name, one in member.configs.items()}
        return files.digest(
            {n: {k: v for k, v in f.items() if k.split(".")[-1] != "seed"} for n, f in values.items()}
        )

    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(but_seed(member), []).append(member)
    names = [",".join(member.name.rpartition("/")[2] for member in group) for group in groups.values()]
    return [
        Side(f"{jobs[0].parent.name}/{name}", group)
        for name, group in zip(names, groups.values(), strict=True)
    ]


def _commit(text: str) -> str:
    """The commit of a revision, or of an experiment of DVC; empty where there is none."""
    commit = provenance.git("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}")
    names = provenance.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    named = [line.split()[0] for line in names if line.rsplit("/", 1)[-1] == text]
    return commit or (named[-1] if named else "")


def _of_commit(text: str, commit: str, scratch: Path) -> Member:
    """What Git has of a commit, and the predictions that DVC has of it."""
    folder = scratch / commit[:12]
    if not folder.exists():
        folder.mkdir(parents=True)
        packed = folder / "tree.tar"
        provenance.git("archive", "--output", str(packed), commit, "--", "build/config", "reports")
        if packed.is_file() and packed.stat().st_size:  # Git leaves an empty file where it fails
            with tarfile.open(packed) as tree:
                tree.extractall(folder, filter="data")
        out = folder / "reports/predictions"
        get = [sys.executable, "-m", "dvc", "get", "--quiet", ".", "reports/predictions"]
        subprocess.run([*get, "--rev", commit, "--out", str(out)], capture_output=True, check=False)
    try:
        return _of_study(text, folder, folder / "reports")
    except UserError as error:
        fix = "commit dvc.lock and reports/, or name the run of `evaluate` in MLflow"
        raise UserError(f"{text}: commit {commit[:12]} holds no results: {fix}") from error


def _of_run(text: str, past: tracking.Past, scratch: Path) -> Member:
    """A run of MLflow: of `evaluate` the whole study, of other stages configuration, curve and time."""
    folder = scratch / past.run_id
    folder.mkdir(parents=True, exist_ok=True)
    packed = tracking.fetch(past.run_id, folder)
    if packed is not None:
        archive.unpack(packed, folder / "study")
        return replace(_of_study(text, folder / "study", folder / "study/reports"), run_id=past.run_id)
    values = config.parse(past.config, f"config/resolved.yaml of run {past.run_id}") if past.config else None
    return Member(
        text,
        configs={past.process: values} if values else {},
        curves={past.process: past.curve} if past.curve else {},
        runs={past.process: _run(past)} if past.seconds is not None else {},
        run_id=past.run_id,
    )


def _run(past: tracking.Past) -> Run:
    return Run(
        stage=past.tags.get("unival.stage", ""),
        item=past.tags.get("unival.item"),
        config_hash=past.tags.get("unival.config_hash", ""),
        run_id=past.run_id,
        seconds=past.seconds or 0.0,
        peak_mib=0,
    )


def limited(sides: list[Side]) -> list[Side]:
    """Of each side what the others have, too.

    Runs of one stage are its process, whatever their items. Beside one model of a study, of other studies the
    model of the same name is used.

    Raises:
        UserError: several models beside whole studies, or a study without this model.
    """
    members = [member for side in sides for member in side.members]
    done = [{*member.configs, *member.curves, *member.runs} for member in members]
    stages = {process.partition("-")[0] for one in done for process in one}
    if len(stages) == 1 and len(set().union(*done)) > 1 and all(len(one) == 1 for one in done):
        (stage,) = stages
        return [replace(side, members=[_called(one, stage) for one in side.members]) for side in sides]
    models = list(dict.fromkeys(side.model for side in sides if side.model))
    if not models or all(side.model for side in sides):
        return sides
    if len(models) > 1:
        raise UserError(f"{', '.join(models)}: compare models with each other, or one of them with studies")
    return [side if side.model else replace(side, members=list(_limit(side, models[0]))) for side in sides]


def _called(member: Member, process: str) -> Member:
    """A member of one process, by another name of that."""
    (own,) = {*member.configs, *member.curves, *member.runs}
    return replace(
        member,
        configs={process: _one_task(member.configs[own])} if member.configs else {},
        curves={process: member.curves[own]} if member.curves else {},
        runs={process: member.runs[own]} if member.runs else {},
    )


def _one_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the settings of its task, where that is one, under the same key for every task."""
    tasks = values.get("tasks") or {}
    if len(tasks) != 1:
        return dict(values)
    (task,) = tasks.values()
    return {**{key: value for key, value in values.items() if key != "tasks"}, "task": task}


def _limit(side: Side, model: str) -> Iterator[Member]:
    for member in side.members:
        if not any(key[0] == model for key in member.cells):
            raise UserError(f"{member.name}: no rows of {model} there")
        yield _one_model(member, model, Path("models") / model)
