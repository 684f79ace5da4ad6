"""What is fuzzed: each target takes bytes and does what the package does with such a file or request.

It may return or raise UserError; anything else is a fault. Seeds are small whole inputs.
"""

import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.data import official
from tests.model import malicious
from unival import config, files, sample, weights
from unival.data import media
from unival.data.manifest import check_row
from unival.data.media.containers import cut_short
from unival.data.sources import digit_sets, formats, ofa_tsv, safe_pickle, splits, web
from unival.engine.inference import predictions, score
from unival.errors import UserError
from unival.merging import as_recipe, merge
from unival.merging.merge_json import read_record
from unival.metrics import java
from unival.metrics.tokenise import tokenise
from unival.model.convert.reader import Checkpoint
from unival.model.convert.unpickler import plain, unpickle
from unival.serve.asked import of_form, of_json
from unival.vocab import UnivalTokenizer
from unival.vqa_answers import normalise, soft_answers, stripped

BOUNDARY = "frontier"
RECIPE = "method: ties\nmodels: [a, b]\noptions: {density: 0.2}\nweights: {a: 0.3, b: 0.7}\n"
QUESTION = {"id": "1", "prediction": "red", "answers": {"red": 1.0}, "media": {"image": "k"}}
CAPTION = {"id": "1", "prediction": "a cat", "references": ["a cat"], "probability": 0.5}
BOX = {"id": "1", "prediction": [1, 2, 3, 4], "box": [1, 2, 3, 5], "size": [20, 20]}
HEAD = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
FORM = f'{HEAD}"file"; filename="a.png"\r\n\r\nbytes\r\n{HEAD}"text"\r\n\r\nwhat?\r\n--{BOUNDARY}--\r\n'


@dataclass(frozen=True)
class Target:
    """What is fuzzed, from what, and how much of all."""

    run: Callable[[bytes, Path], Any]
    """Of the input and a folder in memory."""
    seeds: tuple[bytes, ...]
    millions: float
    """Executions at the whole size."""
    longest: int = 1024
    """Bytes of an input."""


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _loaded(data: bytes) -> Any:
    """What `json` makes of it; a damaged one is no input of the target."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise UserError("no JSON") from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _all(rows: Iterable[Any]) -> None:
    for _ in rows:
        pass


def _answers(data: bytes, folder: Path) -> None:
    text = _text(data)
    stripped(text)
    normalise(text)
    soft_answers(text.split("\n"))


def _split(data: bytes, folder: Path) -> None:
    splits.split_of(_text(data))


def _tokenizer() -> Callable[[bytes, Path], None]:
    tokenizer = UnivalTokenizer.from_folder(sample.FOLDER)
    size = len(tokenizer)

    def run(data: bytes, folder: Path) -> None:
        tokenizer.decode_text(tokenizer.encode_text(_text(data)))
        tokenizer.decode_text([byte * 7 % size for byte in data])

    return run


def _pickle(data: bytes, folder: Path) -> None:
    safe_pickle.loads(data, "refs.p")


def _checkpoint_pickle(data: bytes, folder: Path) -> None:
    plain(unpickle(io.BytesIO(data), "a.pt", lambda storage: None))


def _checkpoint(data: bytes, folder: Path) -> None:
    found = Checkpoint(_file(data, folder, "a.pt"))
    if isinstance(found.tree, dict):
        for tensor in found.tensors(found.tree.get("model"), "model").values():
            tensor.sum()


def _header(data: bytes, folder: Path) -> None:
    weights.read_specs(_file(struct.pack("<Q", len(data)) + data + bytes(64), folder, "a.safetensors"))


def _index(data: bytes, folder: Path) -> None:
    weights.weight_files(_file(data, folder, weights.INDEX).parent)


def _recipe(data: bytes, folder: Path) -> None:
    value = config.parse(_text(data), "recipe.yaml")
    if isinstance(value, dict):
        as_recipe(value)


def _predictions(data: bytes, folder: Path) -> None:
    _all(score.scores(predictions.read(_file(data, folder, "p.jsonl")), None))


def _merge_record(data: bytes, folder: Path) -> None:
    _file(data, folder, "merge.json")
    read_record(folder)


def _sealed(data: bytes, folder: Path) -> None:
    files.read_sealed(_file(data, folder, "sealed.json"))


def _rows(load: formats.Load, name: str) -> Callable[[bytes, Path], None]:
    return lambda data, folder: _all(load(_file(data, folder, name)))


def _row(data: bytes, folder: Path) -> None:
    value = _loaded(data)
    if isinstance(value, dict):
        check_row(value)


def _ofa_row(data: bytes, folder: Path) -> None:
    try:
        ofa_tsv._parsed(_text(data).split("\t"))
    except formats.BAD_ROW:  # a row that is listed as bad
        return


def _tar(data: bytes, folder: Path) -> None:
    _file(data, folder, "cc-train-0.tar")
    _all(web.read_tars(folder))


def _idx(data: bytes, folder: Path) -> None:
    digit_sets.read_idx(_file(data, folder, "images-idx3-ubyte"))


def _request(data: bytes, folder: Path) -> None:
    asked = of_json(_loaded(data))
    asked.modality, asked.questions  # noqa: B018


def _form(data: bytes, folder: Path) -> None:
    asked = of_form(f"multipart/form-data; boundary={BOUNDARY}", data)
    asked.modality, asked.questions  # noqa: B018


def _container(data: bytes, folder: Path) -> None:
    cut_short(data)


def _picture(data: bytes, folder: Path) -> None:
    media.describe("image", data, "a.jpg")


def _sound(data: bytes, folder: Path) -> None:
    media.describe("audio", data, "a.wav")


def _clip(data: bytes, folder: Path) -> None:
    media.describe("video", data, "a.mp4")


def targets() -> dict[str, Target]:
    """All of them by name."""
    java.available = lambda: False  # a process of its own for each input
    texts = tuple(text.encode() for text in ("It's a dog, isn't it?", "10 %", "<code_3> two  cats", "x1 y2"))
    pickles = tuple(malicious.pickles(Path("marker")).values())
    plain_pickles = (pickle.dumps(official.REFS, 2), pickle.dumps([1, 2.5, ("a", {"b": None})], 4))
    media_of = (official.PNG, official.JPG, official.MP4, official.WAV, official.GIF.getvalue())
    rows = (official.table("image|caption", "a.jpg|a dog"), official.lines({"image": "a"}), '[{"a": 1}]')
    tables = tuple(row.encode() for row in rows)
    return {
        "answers": Target(_answers, texts, 0.6, 256),
        "caption tokeniser": Target(lambda data, _: tokenise(_text(data)), texts, 1.0, 256),
        "tokenizer": Target(_tokenizer(), texts, 0.2, 256),
        "names of splits": Target(_split, (b"captions_train2017.json", b"val"), 1.0, 128),
        "containers": Target(_container, media_of, 4.0, 4096),
        "pickled annotations": Target(_pickle, (*pickles, *plain_pickles), 1.0),
        "checkpoint's pickle": Target(_checkpoint_pickle, (*pickles, *plain_pickles), 1.0),
        "checkpoint": Target(_checkpoint, _checkpoints(), 0.05, 4096),
        "safetensors header": Target(_header, (_json(HEADER),), 0.3),
        "index of shards": Target(_index, (_json({"weight_map": {"a": "b.safetensors"}}),), 0.15),
        "recipe": Target(_recipe, (RECIPE.encode(),), 0.03, 512),
        "predictions": Target(_predictions, tuple(map(_json, (QUESTION, CAPTION, BOX))), 0.03),
        "merge.json": Target(_merge_record, (_merged(),), 0.1, 2048),
        "sealed file": Target(_sealed, (_json({"a": 1, files.SEAL: files.digest({"a": 1})}),), 0.2),
        "JSON list": Target(_rows(formats.json_rows(), "a.json"), tables, 0.1),
        "JSON lines": Target(_rows(formats.jsonl_rows, "a.jsonl"), tables, 0.2),
        "CSV": Target(_rows(formats.csv_rows("image", "caption"), "a.csv"), tables, 0.2),
        "row": Target(_row, (_json({"id": "1", "task": "caption", "text": "a", "references": ["b"]}),), 0.4),
        "OFA's row": Target(_ofa_row, (b"1\ti1\ta dog&&one dog\tdog&&ball\taGk=",), 0.4),
        "tar": Target(_tar, (official.archive(a_dot_jpg=b"x", a_dot_txt=b"a dog"),), 0.05, 12288),
        "IDX array": Target(_idx, (official.idx(2, 4, 4),), 0.2),
        "request in JSON": Target(
            _request, (_json({"file": "aGk=", "name": "a.png", "text": "what?"}),), 0.3
        ),
        "request as a form": Target(_form, (FORM.encode(),), 0.05, 4096),
        "picture": Target(_picture, media_of[:2], 0.01, 4096),
        "sound": Target(_sound, media_of[3:4], 0.01, 4096),
        "clip": Target(_clip, media_of[2:3], 0.005, 8192),
    }


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [16, 28]},
}


def _merged() -> bytes:
    """The record of a merge of two tensors."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.safetensors" for name in "ab"}
        for path in paths.values():
            weights.save({"w": torch.ones(2)}, path)
        merge({"method": "average", "models": ["a", "b"]}, paths, None, Path(folder) / "merged")
        return (Path(folder) / "merged/merge.json").read_bytes()


def _checkpoints() -> tuple[bytes, ...]:
    """Both of PyTorch's layouts."""
    whole = b"\x80\x02}X\x05\x00\x00\x00model}X\x01\x00\x00\x00w" + malicious.tensor() + b"ss."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        malicious.archive(path, whole, {"0": bytes(16)})
        zipped = path.read_bytes()
        malicious.stream(path, whole)
        return zipped, path.read_bytes()
