"""What went wrong without an error: sentences that stand before the figures, and on the terminal.

Each check takes the study and gives a sentence for each fault it finds.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from unival.report import words
from unival.study.results import Results

Check = Callable[[Results], Iterator[str]]


def lines(study: Results) -> list[str]:
    """All that is to be read before the figures; empty where nothing is."""
    return [line for check in (*EVALUATED, *OTHERS) for line in check(study)]


def evaluated(study: Results) -> list[str]:
    """What can be said once the models are evaluated."""
    return [line for check in EVALUATED for line in check(study)]


def say(stage: str, sentences: Iterable[str]) -> None:
    """Print the sentences of a stage."""
    for line in sentences:
        print(f"{stage}: {line.replace('**', '')}", flush=True)


def missing_tasks(study: Results) -> Iterator[str]:
    """Tasks that should have been evaluated and have no row in any table."""
    config = study.configs.get("evaluate", {})
    splits = [facts["rows"] for facts in study.facts.get("splits", {}).values()]
    had = set().union(*splits, *study.facts.get("rejected_from", {}).values())
    others = [
        task for task in config.get("pretrained_tasks", []) if task in had
    ]  # not every benchmark has all
    for task in (*config.get("experts", []), *others):
        if task not in study.tasks:
            rows = _rows(study, "test").get(task, 0)
            why = "no model was there" if rows else f"{study.data / 'test'} has no rows of it"
            yield f"**{words.task(task)}** should have been evaluated but is in no table: {why}."


def few_rows(study: Results) -> Iterator[str]:
    """Scores of no row or one, which an interval cannot warn of, and splits of one row."""
    for split, facts in study.facts.get("splits", {}).items():
        small = [words.task(task) for task, rows in facts["rows"].items() if rows == 1]
        if small:
            yield f"Split `{split}` has **one row** of {', '.join(small)}."
    for count, what in ((0, "no rows"), (1, "one row")):
        cells = [cell for cell in study.primary() if cell.n == count]
        places = dict.fromkeys(f"{words.task(cell.task)} ({cell.shift or cell.split})" for cell in cells)
        if places:
            yield f"Scores on **{what}** say nothing: {', '.join(places)}."


def equal_predictions(study: Results) -> Iterator[str]:
    """Models that say the same whatever they are shown."""
    for cell in study.primary(shifted=False):
        said = [row.output for row in study.predictions(cell.model, cell.task)]
        if len(said) > 1 and len(set(said)) == 1:
            yield (
                f"`{cell.model}` answers **all {len(said)} rows of {words.task(cell.task)} alike**: "
                f"`{said[0] or '(nothing)'}`."
            )


def twins(study: Results) -> Iterator[str]:
    """Models that give the same predictions with the same probabilities in all tasks that they share."""
    cells = study.primary(shifted=False)
    said = {
        (cell.model, cell.task): [(row.output, row.probability) for row in rows]
        for cell in cells
        if len(rows := study.predictions(cell.model, cell.task)) > 1
    }
    names = list(dict.fromkeys(model for model, _ in said))
    tasks = {name: {task for model, task in said if model == name} for name in names}
    alike: dict[str, list[str]] = {}
    for name in names:
        for first, others in alike.items():
            shared = tasks[name] & tasks[first]
            if shared and all(said[name, task] == said[first, task] for task in shared):
                others.append(name)
                break
        else:
            alike[name] = []
    for first, others in alike.items():
        if others:
            models = ", ".join(f"`{name}`" for name in (first, *others))
            yield f"{models} are **the same model**, to judge by their predictions: compare their weights."


def below_start(study: Results) -> Iterator[str]:
    """Experts that finetuning made worse than the pretrained model that they start from."""
    for task in study.finetuned:
        change = study.comparison(f"finetune/{task}", study.pretrained, task)
        if change and change.high < 0:
            loss = words.change((change.difference, change.low, change.high))
            yield f"The expert of **{words.task(task)}** is worse than the model it starts from: {loss}."


def repeated_rows(study: Results) -> Iterator[str]:
    """Test rows that say the same of the same medium: each of them counts again."""
    for task, score in study.tasks.items():
        rows = study.predictions(score.model, task)
        seen = Counter(
            repr((row.media, row.text, row.box, row.references, row.answers, row.extra)) for row in rows
        )
        if spare := len(rows) - len(seen):
            yield f"**{spare} of {len(rows)}** test rows of {words.task(task)} repeat another one."


def unlearned_variants(study: Results) -> Iterator[str]:
    """Variants of ablations that are no better than blind in any task, so that they show nothing."""
    learned: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in study.ablations:
        known = study.tasks.get(row.task)
        above = known is None or row.low > known.baseline
        learned[row.study][row.variant] = learned[row.study].get(row.variant, False) or above
    for name, variants in learned.items():
        blind = [f"`{variant}`" for variant, above in variants.items() if not above]
        if blind:
            yield (
                f"Ablation **{words.task(name)}**: {', '.join(blind)} learned nothing (no better than blind "
                "in any task): train them for longer before reading the differences."
            )


def rejected(study: Results) -> Iterator[str]:
    """Rows and media that did not come into the benchmark."""
    total = study.facts.get("rejected", 0)
    if total:
        parts = [
            f"{split}: {', '.join(f'{words.task(what)} {count}' for what, count in counts.items())}"
            for split, counts in study.facts.get("rejected_from", {}).items()
        ]
        where = f" ({'; '.join(parts)})" if parts else ""
        yield (
            f"**{total} faults** kept rows and media out of the benchmark{where}: "
            f"`{study.data / 'rejected.parquet'}` has file, row and reason."
        )


def unreadable(study: Results) -> Iterator[str]:
    """Training rows that were left out because their media could not be read."""
    for name, curve in study.curves.items():
        count = max((row.get("data/damaged") or 0 for row in curve), default=0)
        if count:
            yield f"**{count:g} rows** of `{name}` could not be read and were left out of training."


def repeated_in_a_step(study: Results) -> Iterator[str]:
    """Streams with fewer rows than their quota, so that one step holds a row more than once."""
    for name, config in study.configs.items():
        have = _rows(study, "train") | _rows(study, (config.get("train") or {}).get("split", "train"))
        for stream in _mixture(config):
            rows, wanted = have.get(stream["task"]), stream.get("rows", 0)
            if rows is not None and 0 < rows < wanted:
                yield (
                    f"`{name}` draws {wanted} rows of {words.task(stream['task'])} a step from **{rows}**: "
                    f"each is repeated up to {-(-wanted // rows)} times in every step."
                )


def moved_though_frozen(study: Results) -> Iterator[str]:
    """Frozen modules that are not as they were."""
    norms = {
        (expert, row.module): norm
        for row in study.angles
        for expert, norm in ((row.first, row.norm_first), (row.second, row.norm_second))
    }
    for (expert, module), norm in norms.items():
        patterns = (study.configs.get(f"finetune-{expert}", {}).get("train") or {}).get("freeze", [])
        if norm > 0 and any(fnmatchcase(module, pattern) for pattern in patterns):
            yield f"`{module}` of the expert of {words.task(expert)} **moved by {norm:.3g}, though frozen**."


def _rows(study: Results, split: str) -> dict[str, int]:
    """Task -> rows of a split, as the benchmark describes itself."""
    return dict(study.facts.get("splits", {}).get(split, {}).get("rows", {}))


def _mixture(config: dict[str, Any]) -> list[dict[str, Any]]:
    return list(((config.get("train") or {}).get("mixture") or {}).get("streams") or [])


EVALUATED: tuple[Check, ...] = (missing_tasks, few_rows, equal_predictions, twins, below_start, repeated_rows)
OTHERS: tuple[Check, ...] = (
    unlearned_variants, moved_though_frozen, repeated_in_a_step, unreadable, rejected
)  # fmt: skip
