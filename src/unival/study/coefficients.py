"""What a merge takes from data: coefficients chosen on validation rows, statistics of training rows.

Neither ever sees a test row. `Fit.search` gives the recipe with the chosen coefficients, `Fit.statistics` the
files that Fisher and RegMean need.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from unival import code, files, provenance, weights
from unival.merging import ModuleRule, Recipe, collect, search
from unival.merging.adamerging import adamerging, entropy
from unival.merging.live import merge_into
from unival.merging.recipe_digest import recipe_digest
from unival.record import Record
from unival.study.merge_settings import Search
from unival.tasks import TaskConfig
from unival.tracking import Tracker

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unival.engine.batches.collate import Batch
    from unival.engine.batches.rows import Rows
    from unival.engine.train import Evaluate
    from unival.model.modeling import UnivalForConditionalGeneration
    from unival.model.processing import UnivalProcessor
    from unival.study.benchmark import Benchmark
    from unival.study.models import Loaded
    from unival.tasks import Example, Task

BATCH = 16
"""Rows of a batch of AdaMerging (the paper's), and of one that batch norm's statistics are estimated on."""


class Fit:
    """Searches and statistics of one benchmark around one pretrained model; kept in `folder`."""

    def __init__(
        self,
        base: Path,
        experts: Path,
        tasks: Mapping[str, TaskConfig],
        benchmark: "Benchmark",
        folder: Path,
        tracker: Tracker,
    ) -> None:
        self.base, self.tasks, self.benchmark, self.tracker = base, tasks, benchmark, tracker
        self.experts, self.folder = experts, folder
        self._alone: dict[tuple[str, int], float] = {}

    @cached_property
    def _live(self) -> "Loaded":
        """The pretrained model, whose weights the trials take the place of, and its processor."""
        from unival.study.models import load_model

        return load_model(self.base)

    def search(
        self,
        name: str,
        recipe: Recipe,
        folders: Mapping[str, Path],
        settings: Search,
        statistics: Mapping[str, Path],
    ) -> Recipe:
        """The recipe with the best coefficients found; evaluations are remembered across runs."""
        if settings.strategy == "entropy":
            return self._by_entropy(recipe, folders, settings)
        evaluate = self._validation(recipe.models, settings.rows)

        def score(point: Mapping[str, float]) -> float:
            trial = applied(recipe, point, settings)
            scores = evaluate(merge_into(self._live[0], trial, folders, self.base, statistics))
            shares = [
                scores[f"{task}/score"] / max(self._expert(task, settings.rows), 1e-9)
                for task in recipe.models
            ]
            return sum(shares) / len(shares)

        context = {
            "recipe": recipe_digest(recipe), "rows": settings.rows, "data": self.benchmark.digest("val"),
            "models": [_weights_digest(folder) for folder in (self.base, *folders.values())],
            "tasks": {task: asdict(self.tasks[task]) for task in recipe.models},
            "statistics": {model: files.file_digest(path) for model, path in statistics.items()},
            "made_by": _made_by(),
        }  # fmt: skip
        objective = search.Objective(score, "val", context, settings.budget, self.folder / "searches.json")
        point, best = _run(objective, recipe, settings)
        for number, (_, value) in enumerate(objective.history):
            if value > search.NO_SCORE:
                self.tracker.metrics({f"search/{name}": value}, number)
        metrics = {f"best/{name}_{key}": value for key, value in point.items()}
        self.tracker.metrics({**metrics, f"best/{name}_share": best})
        return applied(recipe, point, settings)

    def _validation(self, tasks: tuple[str, ...], rows: int) -> "Evaluate":
        from unival.engine.settings import SelectionConfig
        from unival.study.benchmark import validation

        chosen = {task: self.tasks[task] for task in tasks}
        evaluate = validation(self.benchmark, chosen, self._live[1], SelectionConfig(1, rows))
        assert evaluate is not None
        # of one task, `evaluate` gives the metrics without the task's name
        return evaluate if len(tasks) > 1 else lambda model: {f"{tasks[0]}/score": evaluate(model)["score"]}

    def _expert(self, task: str, rows: int) -> float:
        """The score of a task's expert on the same rows."""
        from unival.study.models import load_model

        if (task, rows) not in self._alone:
            model, _ = load_model(self.experts / task)
            self._alone[task, rows] = self._validation((task,), rows)(model)[f"{task}/score"]
        return self._alone[task, rows]

    def statistics(self, kind: Literal["fisher", "grams"], task: str, folder: Path, rows: int) -> Path:
        """Fisher information or Gram matrices of a model on the first training rows of its task, as a file.

        The Fisher information is the empirical one: with the targets of the rows.
        """
        from unival.study.benchmark import TRAIN
        from unival.study.models import load_model

        weights, data = _weights_digest(folder), self.benchmark.digest(TRAIN)
        known = [weights, data, asdict(self.tasks[task]), rows, _made_by()]
        out = self.folder / "statistics" / f"{kind}-{task}-{files.digest(known)}.safetensors"
        seal = out.with_suffix(".json")
        whole = files.read_sealed(seal)
        if whole and out.is_file() and files.file_digest(out) == whole["sha256"]:
            return out
        model, processor = load_model(folder)
        model.eval()
        sources = self.benchmark.training_rows({task: self.tasks[task]}, processor)
        size = min(rows, len(sources[task].records))
        single = _batches(sources, model, processor, task, size, 1)  # row by row: nothing is padded
        if kind == "fisher":
            collected = collect.fisher(model, single, log_likelihood)
        else:
            collected = collect.grams(model, single, logits)
        collect.save(out, collected, {"kind": kind, "task": task, "rows": size, "model": weights})
        files.write_sealed(seal, {"sha256": files.file_digest(out)})
        return out

    def batch_norm(
        self,
        recipe: Recipe,
        folders: Mapping[str, Path],
        statistics: Mapping[str, Path],
        rows: int,
        out: Path,
    ) -> None:
        """The statistics of batch norm that the merge has on training rows of its tasks, as a file."""
        from unival.study.benchmark import TRAIN

        model, processor = self._live
        merge_into(model, recipe, folders, self.base, statistics).eval()
        sources = self.benchmark.training_rows({task: self.tasks[task] for task in recipe.models}, processor)
        batches = (
            batch
            for task in recipe.models
            for batch in _batches(sources, model, processor, task, rows, BATCH)
        )
        collected = collect.reestimate_batch_norm(model, batches, logits)
        about = {"tasks": list(recipe.models), "rows": rows, "data": self.benchmark.digest(TRAIN)}
        collect.save(out, collected, about)

    def _by_entropy(self, recipe: Recipe, folders: Mapping[str, Path], settings: Search) -> Recipe:
        """AdaMerging on the entropy of the tokens that the starting merge decodes for validation inputs."""
        model, processor = self._live
        merge_into(model, recipe, folders, self.base)
        sources = {task: self._decoded(task, settings.rows) for task in recipe.models}
        streams = {
            task: _batches(sources, model, processor, task, settings.rows, BATCH, endless=True)
            for task in sources
        }
        states = {name: weights.load(folder / weights.WEIGHTS) for name, folder in folders.items()}
        turns = itertools.islice(itertools.cycle(streams.values()), settings.budget)
        table = adamerging(
            model.eval(),
            _moved(weights.load(self.base / weights.WEIGHTS), model.device),
            {name: _moved(state, model.device) for name, state in states.items()},
            (next(stream) for stream in turns),
            lambda call, batch: entropy(*logits_and_mask(call, batch)),
            start=recipe.options.get("scale", 0.3),
        )
        rules = tuple(ModuleRule(f"^{re.escape(name)}$", weights=own) for name, own in table.items())
        return replace(recipe, options={**recipe.options, "scale": 1.0}, modules=rules)

    def _decoded(self, task: str, rows: int) -> "Rows":
        """Validation rows whose targets are what the model itself says."""
        from unival.engine.batches.rows import Rows
        from unival.engine.inference.predict import predict
        from unival.study.benchmark import VAL

        model, processor = self._live
        asked = self.benchmark.rows_of(task, self.tasks[task], processor, VAL, rows)
        said = {one.id: one.text for one in predict(model, processor, asked)}
        return Rows(cast("Task", _Said(asked.task, said)), asked.records, asked.store)


class _Said:
    """A task whose targets are given texts, as far as a collator asks it."""

    def __init__(self, task: "Task", texts: Mapping[str, str]) -> None:
        self.task, self.texts = task, texts

    def finetuning(self, record: Record, rng: Any) -> "list[Example]":
        """The example of a row."""
        return [replace(self.task.inference(record), target=f" {self.texts[record.id].strip()}")]


def applied(recipe: Recipe, point: Mapping[str, float], settings: Search) -> Recipe:
    """The recipe with these coefficients; a greedy soup leaves out the models of weight 0."""
    if settings.strategy == "greedy":
        return replace(recipe, models=tuple(model for model in recipe.models if point[model]))
    weights = {model: point.get(model, (recipe.weights or {}).get(model, 1.0)) for model in recipe.models}
    options = {key: value for key, value in point.items() if key not in recipe.models}
    changed = any(model in point for model in recipe.models)
    return replace(
        recipe, weights=weights if changed else recipe.weights, options={**recipe.options, **options}
    )


def _run(objective: search.Objective, recipe: Recipe, settings: Search) -> tuple[search.Coefficients, float]:
    if settings.strategy == "greedy":
        return search.greedy_soup(objective, recipe.models)
    if settings.strategy == "grid":
        return search.grid(objective, settings.over)
    bounds = {key: (low, high) for key, (low, high) in settings.over.items()}
    if settings.strategy == "coordinate":
        return search.coordinate(objective, bounds)
    assert settings.budget is not None
    return search.optuna_search(objective, bounds, settings.budget, recipe.seed)


def _batches(
    sources: "Mapping[str, Rows]",
    model: "UnivalForConditionalGeneration",
    processor: "UnivalProcessor",
    task: str,
    rows: int,
    size: int,
    endless: bool = False,
) -> "Iterator[Batch]":
    """Batches of the first rows of a task, without augmentation, where the model is."""
    from unival.engine.batches.collate import Collator
    from unival.engine.batches.sampler import RowRef

    collate = Collator(sources, processor, 0, "finetuning")
    rows, start = min(rows, len(sources[task].records)), 0
    while endless or start < rows:
        indices = [i % rows for i in range(start, start + size if endless else min(start + size, rows))]
        yield collate([RowRef(task, index, task, index) for index in indices], 0).to(model.device)
        start += size


def logits(call: Callable[..., Any], batch: "Batch") -> "list[Tensor]":
    """Logits (B, T, V) of every part of a batch."""
    return [call(**part.inputs, **batch.media, use_cache=False).logits for part in batch.parts]


def logits_and_mask(call: Callable[..., Any], batch: "Batch") -> "tuple[Tensor, Tensor]":
    """Logits at all target places of a batch (P, V), and which of them count (P,)."""
    import torch

    from unival.model.loss import IGNORED

    logits_PV = torch.cat([values.flatten(0, 1) for values in logits(call, batch)])
    labels = torch.cat([part.labels_BT.flatten() for part in batch.parts])
    return logits_PV, labels != IGNORED


def log_likelihood(model: Callable[..., Any], batch: "Batch") -> "Tensor":
    """log p(target | input), summed over the target's tokens."""
    from torch.nn import functional as F

    from unival.model.loss import IGNORED

    losses = [
        F.cross_entropy(values.float().transpose(1, 2), part.labels_BT, ignore_index=IGNORED, reduction="sum")
        for values, part in zip(logits(model, batch), batch.parts, strict=True)
    ]
    return -sum(losses[1:], losses[0])


def _moved(state: Mapping[str, "Tensor"], device: "torch.device") -> "dict[str, Tensor]":
    return {name: value.to(device) for name, value in state.items()}


def _made_by() -> list[Any]:
    """What is behind a search and behind statistics, besides data and models."""
    return [code.digest("unival.study.coefficients"), provenance.kernels()]


def _weights_digest(folder: Path) -> str:
    return files.file_digest(folder / "model.safetensors")
