"""The model card, README.md of a model folder: what the folder's own records say, for people and for the hub.

What the pipeline writes hangs on these records alone (no dates, no places of this machine): equal folders
have equal cards. A folder is there before it is evaluated, so `unival card` adds the scores on test rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import eval_results_to_model_index
from huggingface_hub.utils import HFValidationError, validate_repo_id

from unival import config, files
from unival.errors import UserError
from unival.folders import FILES
from unival.merging.merge_json import RECORD
from unival.model.convert import CONVERSION_FILE
from unival.model.folder import read_config
from unival.study import tables
from unival.study.benchmark import Benchmark
from unival.study.tables import CellScore, Run, TaskScore
from unival.tasks.folder import carried

CARD = "README.md"
RESULTS = ".eval_results"
TRAINING = "training.json"
NOTE = "made.json"
"""Of a merge: its tasks, and the updates of finetuning behind it, by model."""
ORIGIN = "origin"
"""Key of training.json: the start and the data, which a stage knows and training does not."""
_USE = """\
## Use

With transformers, timm and torchaudio:

```python
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{name}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
batch = processor({medium}text={prompt}){kind}
print(processor.batch_decode(model.generate(**batch, max_new_tokens=40))[0])
```
"""
_ARGUMENTS = {
    "image": ("images=image, ", "  # a PIL image"),
    "video": ("videos=frames, ", "  # uint8, (frames, height, width, 3)"),
    "audio": ("audio=samples, ", "  # mono, at processor.sampling_rate"),
    "text": ("", ""),
}
_LIMITS = """\
## Limits

It answers what its tasks ask, in their prompts; on other tasks and other data it has not been tested.
"""


class Scores(NamedTuple):
    """What was measured of a model."""

    cells: Sequence[CellScore]
    """Primary metrics, in and out of distribution."""
    tasks: Mapping[str, TaskScore]
    """Baselines of the tasks."""
    runs: Mapping[str, Run]
    """Process -> what it took: those that made the model and all models behind it, the first first."""


def write_trained(
    folder: Path, benchmark: Benchmark, start: Path | str | None, splits: Iterable[str] = ("train", "val")
) -> None:
    """Note in training.json what a stage trained on (splits of the data) and from, and write the card."""
    parent = None if start is None else "/".join(Path(start).parts[-2:])  # wherever models/ lies
    path = folder / TRAINING
    digests = {split: benchmark.digest(split) for split in splits}
    origin = {"start": parent, "data": benchmark.folder.name, "digests": digests}
    files.write_json(path, files.read_json(path) | {ORIGIN: origin})
    write(folder)


def write(folder: Path, scores: Scores | None = None) -> None:
    """Write the card of a model folder, and note it in the record that lists the folder's files.

    Raises:
        UserError: as `text`.
    """
    files.write_text(folder / CARD, text(folder, scores))
    _note(folder, CARD)


def write_results(folder: Path, scores: Scores, benchmark: str) -> Path:
    """Write the scores in distribution in the hub's newer form, which its leaderboards read.

    Args:
        benchmark: a data set of the hub that is registered there as a benchmark, <owner>/<name>, with a task
            of the same name for each of ours.

    Raises:
        UserError: no such name can be on the hub.
    """
    try:
        validate_repo_id(benchmark)
        owner, name = benchmark.split("/")
    except (HFValidationError, ValueError) as error:
        raise UserError(f"--benchmark {benchmark}: give a data set of the hub as <owner>/<name>") from error
    entries = [
        EvalResultEntry(
            dataset_id=benchmark, task_id=cell.task, value=cell.value,
            notes=f"{cell.metric} on {cell.split}, 95 % interval {_interval(cell)}, n={cell.n}",
        )
        for cell in scores.cells
        if not cell.shifted
    ]  # fmt: skip
    path = f"{RESULTS}/{owner}-{name}.yaml"
    files.write_text(folder / path, config.dump(eval_result_entries_to_yaml(entries)))
    _note(folder, path)
    return folder / path


def _note(folder: Path, name: str) -> None:
    """List a file in the records that list the folder's own."""
    for record in (folder / RECORD, folder / CONVERSION_FILE):
        content = files.read_json(record) if record.is_file() else {}
        if name not in content.get(FILES, [name]):
            files.write_json(record, content | {FILES: sorted([*content[FILES], name])})


def scores_of(folder: Path) -> Scores | None:
    """What the study that a folder of models/ belongs to has measured of it; None where there is nothing.

    Raises:
        UserError: a damaged table.
    """
    folder = folder.resolve()
    metrics = _checkout(folder) / "reports/metrics"
    if not (metrics / "cells.csv").is_file():
        return None
    name = "/".join(folder.parts[-2:])
    cells = [
        row for row in tables.read(metrics / "cells.csv", CellScore) if row.model == name and row.primary
    ]
    if not cells:
        return None
    return Scores(cells, tables.read_entries(metrics / "tasks.json", TaskScore), runs_behind(folder))


def runs_behind(folder: Path) -> dict[str, Run]:
    """Runs of the processes that made a folder of models/ and all models behind it, where they are known.

    Raises:
        UserError: a damaged record.
    """
    folder = folder.resolve()
    kind, name = folder.parts[-2:]
    notes = [files.read_json(folder / note) for note in (TRAINING, NOTE) if (folder / note).is_file()]
    behind = [note.get(ORIGIN, {}).get("start") for note in notes]
    behind += [model for note in notes for model in note.get("updates", {}) if "/" in model]
    runs: dict[str, Run] = {}
    for model in filter(None, behind):
        runs |= runs_behind(folder.parents[1] / model)
    process = "merge" if kind == "merged" else f"{kind}-{name}"
    record = _checkout(folder) / f"reports/runs/{process}.json"
    return runs | ({process: tables.read_json(record, Run)} if record.is_file() else {})


def _checkout(folder: Path) -> Path:
    """Where `models/<kind>/<name>` lies; of a place higher up the root, which has no reports."""
    return folder.parents[min(2, len(folder.parents) - 1)]


def text(folder: Path, scores: Scores | None = None) -> str:
    """The card of a model folder, with its scores on test rows where they are given.

    Raises:
        UserError: no model there, or a damaged record.
    """
    model = read_config(folder)
    records = {
        name: files.read_json(folder / name) for name in (TRAINING, RECORD, NOTE) if (folder / name).is_file()
    }
    name = folder.resolve().name
    try:
        merged, trained = records.get(RECORD), records.get(TRAINING)
        parts = [_data(trained), _training(trained)] if trained else []
        parts += [_merge(merged)] if merged else []
        parts += [_scores(scores)] if scores else []
        parts += [_cost(scores.runs)] if scores and scores.runs else []
        head = _metadata(list(model.media), trained, merged)
        tasks = _tasks(trained, records.get(NOTE))
        if scores:
            head["metrics"] = sorted({cell.metric for cell in scores.cells})
            head["model-index"] = _results(name, scores, head)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: its records do not have {error}: make the folder again") from error
    media = [*model.media, "text"]
    sizes = f"width {model.d_model}, {model.encoder_layers} + {model.decoder_layers} layers"
    first = f"A UnIVAL model: {', '.join(media)} in, text out; {sizes}, {model.vocab_size} tokens."
    if tasks:
        first += f"\n\nTasks: {', '.join(tasks)}."
    parts += [_use(folder, media[0]), _LIMITS]
    blocks = [f"---\n{config.dump(head)}---", f"# {name}", first, *parts]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _use(folder: Path, first: str) -> str:
    """How to ask the first task of a folder; without tasks, about its first medium."""
    asked = [(task.modality, task.prompt.replace("{text}", "...")) for task in carried(folder).values()]
    modality, prompt = asked[0] if asked else (first, " ...")
    medium, kind = _ARGUMENTS[modality]
    return _USE.format(name=folder.resolve().name, medium=medium, prompt=json.dumps(prompt), kind=kind)


def _metadata(media: list[str], trained: Any, merged: Any) -> dict[str, Any]:
    """The block that the hub reads."""
    head: dict[str, Any] = {"library_name": "transformers"}
    if trained or merged:  # weights of others have their own licence
        head["license"] = "apache-2.0"
    head["pipeline_tag"] = "image-text-to-text" if media == ["image"] else "any-to-any"
    head["tags"] = ["unival", *media]
    if merged:
        head |= {"tags": [*head["tags"], "merge"], "base_model": merged["recipe"]["models"]}
        head["base_model_relation"] = "merge"
    elif origin := (trained or {}).get(ORIGIN):
        head["datasets"] = [origin["data"]]
        if origin["start"]:
            head |= {"base_model": [Path(origin["start"]).name], "base_model_relation": "finetune"}
    return head


def _results(name: str, scores: Scores, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores in distribution, as the hub's metadata have them."""
    data = head.get("datasets", ["test rows of its tasks"])[0]
    entries = [
        EvalResult(
            task_type=head["pipeline_tag"], task_name=cell.task, dataset_type=data, dataset_name=data,
            dataset_config=cell.task,  # results of one data set and configuration are made one
            dataset_split=cell.split, metric_type=cell.metric, metric_value=cell.value,
        )
        for cell in scores.cells
        if not cell.shifted
    ]  # fmt: skip
    return eval_results_to_model_index(name, entries) if entries else []


def _scores(scores: Scores) -> str:
    lines = [
        "## Scores",
        "",
        "On test rows, with 95 % bootstrap intervals; *without the medium*: the better of",
    ]
    lines += ["what the task's model says of media of other rows and the best constant answers.", ""]
    lines += [
        "| task | rows | metric | value | interval | n | without the medium |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in scores.cells:
        rows = f"{cell.split}, {cell.shift} {cell.severity}" if cell.shift else cell.split
        known = scores.tasks.get(cell.task)
        blind = f"{known.baseline:.3f}" if known and not cell.shifted else ""
        value = f"{cell.value:.3f} | {_interval(cell)}"
        lines.append(f"| {cell.task} | {rows} | {cell.metric} | {value} | {cell.n} | {blind} |")
    return "\n".join(lines)


def _interval(cell: CellScore) -> str:
    return f"[{cell.low:.3f}, {cell.high:.3f}]"


def _cost(runs: Mapping[str, Run]) -> str:
    lines = ["## Cost", "", "| process | seconds | cores | core hours | processor |", "|---|---|---|---|---|"]
    hours = 0.0
    for process, run in runs.items():
        if machine := run.machine:  # runs of earlier commits lack it
            cores = int(machine["ranks"]) * int(machine.get("threads", 1))
            hours += (own := run.seconds * cores / 3600)
            row = f"{process} | {run.seconds:.0f} | {cores} | {own:.3f} | {machine['processor']}"
            lines.append(f"| {row} |")
    lines += ["", f"{hours:.3f} core hours for the model and all that it was made from, with reading and"]
    lines += ["selection; `merge` is the stage that makes all merges. Of a process that was interrupted, the"]
    lines += [f"last run. At most {max(run.peak_mib for run in runs.values()):,} MiB in a process."]
    return "\n".join(lines)


def _tasks(trained: Any, made: Any) -> list[str]:
    """Tasks of a merge, or of the mixture of a training."""
    if made:
        return list(made["tasks"])
    return [stream["task"] for stream in trained["train"]["mixture"]["streams"]] if trained else []


def _data(trained: Mapping[str, Any]) -> str:
    rows = [f"| {task} | {count} |" for task, count in sorted(trained["rows"].items())]
    lines = ["## Data", "", "| task | training rows |", "|---|---|", *rows]
    if origin := trained.get(ORIGIN):
        lines += ["", f"Prepared data `{origin['data']}`:", ""]
        lines += [f"- `{split}`: digest `{digest}`" for split, digest in sorted(origin["digests"].items())]
    return "\n".join(lines)


def _training(trained: Mapping[str, Any]) -> str:
    lines = ["## Training", "", f"{trained['steps']} steps"]
    if trained["score"] is not None:  # else nothing was selected
        lines[-1] += f"; weights of step {trained['best_step']}, the best on validation rows"
        lines[-1] += f" (score {trained['score']:.4f})"
    lines[-1] += "."
    if start := trained.get(ORIGIN, {}).get("start"):
        lines += ["", f"Started from `{start}`."]
    return "\n".join([*lines, "", "```yaml", config.dump(trained["train"]).strip(), "```"])


def _merge(record: Mapping[str, Any]) -> str:
    inputs = {**record["inputs"], **({"(base)": record["base"]} if record["base"] else {})}
    digests = [
        f"| {model} | {file} | `{digest}` |"
        for model, its in inputs.items()
        for file, digest in sorted(its.items())
    ]
    recipe = {key: value for key, value in record["recipe"].items() if value not in (None, [], {})}
    lines = ["## Merge", "", "```yaml", config.dump(recipe).strip(), "```", ""]
    lines += ["| model | file | SHA-256 |", "|---|---|---|", *digests, ""]
    lines += [
        f"Recipe `{record['recipe_digest']}`; `unival merge verify` repeats it. Data: cards of its models."
    ]
    return "\n".join(lines)
