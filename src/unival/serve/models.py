"""Several models of one architecture on one network, whose weights move between them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from unival import files
from unival.engine.batches.protocols import MediaReader
from unival.engine.inference.predictor import Predictor
from unival.errors import UserError, nearest
from unival.merging.live import Interpolation
from unival.model import folder as model_folder
from unival.model.processing import SETTINGS_FILE
from unival.record import Modality
from unival.serve.uploads import Uploads
from unival.tasks import TaskConfig
from unival.tasks.folder import carried, foreign, tasks_of
from unival.vocab import TOKENIZER_FILES
from unival.weights import read_specs

DESCRIBED = {"architectures", "auto_map", "dtype", "processor_class", "transformers_version"}
"""Keys of settings that say how they are opened and stored, not what the model is."""


class Choice(NamedTuple):
    """The weights to answer with: (1 - t) first + t second."""

    first: str
    second: str
    t: float


class Models:
    """What can be asked with which weights. The first folder is loaded, the others when they are asked.

    Args:
        folders: model folders; the names are their paths, of absolute ones the last part.
        device: where the network runs.

    Raises:
        UserError: a folder that is no whole model, or of another architecture than the first.
    """

    def __init__(self, folders: Sequence[Path], device: torch.device | str = "cpu") -> None:
        self.folders: dict[str, Path] = {}
        for folder in folders:  # clients need not know where things lie on this machine
            short = folder.name if folder.is_absolute() else str(folder)
            self.folders[str(folder) if short in self.folders else short] = folder
        self.default = next(iter(self.folders))
        self.network, self.processor = model_folder.read(folders[0])
        # all that is said of a model is read once: its folder may go while its weights are served
        self.tasks = {name: tasks_of(folder) for name, folder in self.folders.items()}
        self.own = {name: list(carried(folder)) for name, folder in self.folders.items()}
        self._learned = {name: model_folder.learned(folder) for name, folder in self.folders.items()}
        for folder in folders[1:]:
            check_alike(folder, folders[0])
        self.network.to(torch.device(device)).eval()  # type: ignore[arg-type]
        self.uploads = Uploads(self.processor)
        self.predictor = lru_cache(maxsize=16)(self._predictor)
        self._line: Interpolation | None = None
        self._at = self.choice()

    def choice(self, first: str = "", second: str = "", t: float = 0.0) -> Choice:
        """The choice of a person: nothing is the default, one name this model, two a point between them.

        Raises:
            UserError: an unknown name, or a way without its end.
        """
        if t and not second:
            raise UserError("t: give `second` too, the model that it moves to")
        for name in filter(None, (first, second)):
            if name not in self.folders:
                raise UserError(f"unknown model '{name}': {nearest(name, self.folders)}")
        return Choice(first or self.default, second or self.default, t)

    def learned(self, choice: Choice, modality: Modality) -> bool:
        """Whether a model of the choice was trained on such media; True where that is not known."""
        known = [self._learned[name] for name in _named(choice)]
        return any(modalities is None or modality in modalities for modalities in known)

    def foreign(self, choice: Choice, tasks: Iterable[str]) -> list[str]:
        """Tasks that are those of no model of the choice."""
        return foreign(tasks, [self.own[name] for name in _named(choice)])

    def move(self, choice: Choice) -> None:
        """Give the network these weights. Of one thread, the one that predicts.

        Raises:
            UserError: weights that cannot be read or do not fit.
        """
        if choice == self._at:
            return
        if self._line is None or choice[:2] != self._at[:2]:
            ends = self.folders[choice.first], self.folders[choice.second]
            self._line = None  # its tensors go before others come
            # batch norm's counters, which differ and say nothing, are those of the first
            self._line = Interpolation(self.network, *ends, base=ends[0])
        self._line.move(choice.t)
        self._at = choice

    def _predictor(self, choice: Choice) -> Predictor:
        """What answers with the tasks of a choice, by whichever weights the network has."""
        tasks: dict[str, TaskConfig] = {}
        for name in reversed(_named(choice)):
            tasks |= self.tasks[name]
        store = cast(MediaReader, self.uploads)  # what reads raw files is not asked for
        return Predictor(self.network, self.processor, tasks, store=store)


def _named(choice: Choice) -> tuple[str, ...]:
    return (choice.first, choice.second) if choice.t else (choice.first,)


def check_alike(folder: Path, first: Path) -> None:
    """Check that a model folder is whole and its weights fit the network of the first.

    Raises:
        UserError: they do not.
    """
    own, other = (model_folder.read_config(place).to_dict() for place in (folder, first))
    if {name for name in {*own, *other} - DESCRIBED if own.get(name) != other.get(name)}:
        raise UserError(f"{folder}: has another architecture than {first}: serve it by itself")
    for name in (*TOKENIZER_FILES, SETTINGS_FILE):
        if _settings(folder / name) != _settings(first / name):
            raise UserError(f"{folder}: its {name} is not that of {first}: serve it by itself")
    shapes = [{n: s.shape for n, s in read_specs(place)[1].items()} for place in (folder, first)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{folder}: has other tensors than {first}: serve it by itself")


def _settings(path: Path) -> dict[str, Any]:
    """What a file of settings says of the model."""
    return {key: value for key, value in files.read_json(path).items() if key not in DESCRIBED}


def found_in(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Model folders that are given, or lie below a folder that is; and why others there are left out.

    Raises:
        UserError: a folder that neither is nor holds a model.
    """
    models: list[Path] = []
    left: list[str] = []
    for folder in folders:
        if (folder / "config.json").is_file() or not folder.is_dir():
            models.append(folder)
            continue
        below = sorted(path.parent for path in folder.rglob("config.json"))
        if not below:
            raise UserError(f"{folder}: no model there: give a folder that holds config.json")
        for path in below:
            try:
                check_alike(path, models[0] if models else path)
                models.append(path)
            except UserError as error:
                left.append(str(error))
    if not models:
        raise UserError(f"{folders[0]}: no whole model there: {left[0]}")
    return list(dict.fromkeys(models)), left
