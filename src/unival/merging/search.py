"""Search for merge coefficients on a selection split, by number of evaluations, with a memory.

`Objective` evaluates coefficients (names to numbers) once each and counts; results are kept in a JSON file
under the digest of what was evaluated, so a search that is started again does not repeat work.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unival import files
from unival.errors import UserError

Coefficients = dict[str, float]
ROUNDS = 4
NO_SCORE = -math.inf
"""Of a point whose evaluation gave NaN or infinity: every other point is better."""


class BudgetSpentError(Exception):
    """The evaluations of a search are used up."""


@dataclass
class Objective:
    """A score to maximise, evaluated on the selection split.

    Args:
        evaluate: coefficients -> score.
        split: the name of the selection split.
        context: what else decides the score (recipe, input digests, rows); part of the key of the memory.
        budget: how many evaluations may be made; those remembered are free.
        cache: a JSON file, or None for memory only.
    """

    evaluate: Callable[[Coefficients], float]
    split: str
    context: Any = None
    budget: int | None = None
    cache: Path | None = None
    evaluations: int = 0
    history: list[tuple[Coefficients, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known = self._stored()

    def _stored(self) -> dict[str, float | None]:
        """What is remembered; nothing where the file is damaged."""
        stored = files.read_sealed(self.cache) if self.cache is not None else None
        return dict(stored["scores"]) if stored else {}

    def _store(self) -> None:
        """Add to what other searches have stored meanwhile."""
        if self.cache is not None:
            with files.locked(self.cache.with_name(f".{self.cache.name}.lock")):
                self._known = {**self._stored(), **self._known}
                files.write_sealed(self.cache, {"scores": self._known})

    def __call__(self, coefficients: Mapping[str, float]) -> float:
        """The score, or NO_SCORE; raises `BudgetSpentError` when it would need one evaluation too many."""
        point = {name: float(value) for name, value in sorted(coefficients.items())}
        key = files.digest({"at": point, "split": self.split, "context": self.context})
        if key not in self._known:
            if self.budget is not None and self.evaluations >= self.budget:
                raise BudgetSpentError
            self.evaluations += 1
            score = float(self.evaluate(point))
            self._known[key] = score if math.isfinite(score) else None
            self._store()
        known = self._known[key]
        self.history.append((point, NO_SCORE if known is None else known))
        return self.history[-1][1]

    @property
    def best(self) -> tuple[Coefficients, float]:
        """The best point so far; of equal ones the first.

        Raises:
            UserError: nothing was evaluated, or no score is a finite number.
        """
        if not self.history:
            raise UserError("search: the budget allows no evaluation: raise it")
        if self.leader[1] == NO_SCORE:
            raise UserError(
                f"search: none of {len(self.history)} points has a finite score on '{self.split}': look at "
                "the models' predictions there"
            )
        return self.leader

    @property
    def leader(self) -> tuple[Coefficients, float]:
        """The best point so far, even where none has a score."""
        return max(self.history, key=lambda entry: entry[1])


def grid(objective: Objective, axes: Mapping[str, Sequence[float]]) -> tuple[Coefficients, float]:
    """Every combination of the values of each coefficient, until the budget is spent."""
    return _spend(objective, lambda: [
        objective(dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())
    ])  # fmt: skip


def greedy_soup(objective: Objective, models: Sequence[str]) -> tuple[Coefficients, float]:
    """Greedy soup (Wortsman et al. 2022, arXiv 2203.05482): models from best to worst; one that improves the
    mean stays. `objective` takes the weight of each model (0 or 1 over the number of ingredients).
    """
    soup: list[str] = []
    score = -float("inf")
    with contextlib.suppress(BudgetSpentError):
        alone = {model: objective(_uniform([model], models)) for model in sorted(models)}
        order = sorted(alone, key=lambda model: (-alone[model], model))
        soup, score = [order[0]], alone[order[0]]
        for model in order[1:]:
            improved = objective(_uniform([*soup, model], models))
            if improved > score:
                soup, score = [*soup, model], improved
    return (_uniform(soup, models), score) if score > NO_SCORE else objective.best


def _uniform(soup: Sequence[str], models: Sequence[str]) -> Coefficients:
    return {model: 1 / len(soup) if model in soup else 0.0 for model in models}


def coordinate(objective: Objective, bounds: Mapping[str, tuple[float, float]]) -> tuple[Coefficients, float]:
    """From the middle: coordinate steps, then a quadratic surrogate of all points seen; the step halves.

    Each of the ROUNDS evaluates both sides of the best point along each coefficient, fits a quadratic (with
    as many terms as the points determine, ridge for the rest) and evaluates its best point inside the bounds.
    """
    names = sorted(bounds)
    low, high = (np.array([bounds[name][side] for name in names]) for side in (0, 1))

    def at(point: np.ndarray) -> float:
        return objective(dict(zip(names, np.round(point, 6).tolist(), strict=True)))

    def run() -> None:
        at((low + high) / 2)
        step = (high - low) / 4
        for _ in range(ROUNDS):
            for axis in range(len(names)):
                for side in (-1, 1):
                    centre = _vector(objective.leader[0], names)
                    move = np.zeros(len(names))
                    move[axis] = side * step[axis]
                    at(np.clip(centre + move, low, high))
            at(_surrogate_best(objective.history, names, low, high))
            step = step / 2

    return _spend(objective, run)


def _vector(point: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    return np.array([point[name] for name in names])


def _features(points: np.ndarray) -> np.ndarray:
    """1, x_i, x_i^2 and x_i x_j of points scaled to [-1, 1]."""
    pairs = [points[:, i] * points[:, j] for i, j in itertools.combinations(range(points.shape[1]), 2)]
    return np.column_stack([np.ones(len(points)), points, points**2, *pairs])


def _surrogate_best(
    history: Sequence[tuple[Coefficients, float]], names: Sequence[str], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The best of many places under a ridge fit of a quadratic to the history."""
    width = np.where(high > low, high - low, 1)
    known = [(_vector(point, names), score) for point, score in history if score > NO_SCORE]
    if not known:
        return (low + high) / 2
    scaled = 2 * (np.array([point for point, _ in known]) - low) / width - 1
    values = np.array([score for _, score in known])
    design = _features(scaled)
    spread = values.std() or 1.0
    weights = np.exp((values - values.max()) / spread)  # near the top the fit matters most
    system = design.T * weights @ design + 1e-3 * np.eye(design.shape[1])
    fit = np.linalg.solve(system, design.T @ (weights * (values - values.mean())))
    generator = np.random.default_rng(0)
    places = np.vstack([generator.uniform(-1, 1, (4096, len(names))), scaled])
    place = places[int(np.argmax(_features(places) @ fit))]
    return low + (place + 1) / 2 * width


def optuna_search(
    objective: Objective, bounds: Mapping[str, tuple[float, float]], trials: int, seed: int = 0
) -> tuple[Coefficients, float]:
    """Optuna's TPE sampler through ask and tell, seeded.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("search: Optuna is not installed: pip install 'unival[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def run() -> None:
        for _ in range(trials):
            trial = study.ask()
            point = {name: trial.suggest_float(name, *bounds[name]) for name in sorted(bounds)}
            score = objective(point)
            failed = optuna.trial.TrialState.FAIL if score == NO_SCORE else None
            study.tell(trial, None if failed else score, state=failed)

    return _spend(objective, run)


def _spend(objective: Objective, run: Callable[[], Any]) -> tuple[Coefficients, float]:
    """Run a strategy until it ends or the budget does; the best point it met."""
    with contextlib.suppress(BudgetSpentError):
        run()
    return objective.best
