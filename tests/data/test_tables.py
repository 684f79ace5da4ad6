"""Tables of one's own: plain columns at the first try, and the fields of a record in every usual form."""

import json
from pathlib import Path
from typing import Any

import pytest
from official import JPG, PNG, WAV, lines, write

from unival.commands import importing
from unival.data.importing import import_dataset
from unival.data.manifest import read_records
from unival.errors import UserError
from unival.record import Answer, Record


def rows(files: dict[str, str], out: Path, task: str, given: str = "train", **options: Any) -> list[Record]:
    """What is imported of files, and some photos, clips and sounds."""
    root = out / "in"
    for name, data in {"photos/a.png": PNG, "photos/b.jpg": JPG, "sounds/s.wav": WAV}.items():
        write(root / name, data)
    for name, content in files.items():
        write(root / name, content)
    import_dataset("table", root, out / "out", max_rejected=0.0, **options)
    return list(read_records(out / "out" / given, task))


RED = (Answer("red"),)
QUESTIONS = "image,question,answer\na.png,What colour is it?,red\nb.jpg,How many?,2\n"


@pytest.mark.parametrize(
    "name", ["train.csv", "train_vqa.csv", "train/vqa.csv", "train_data.csv", "my_train.csv"]
)
def test_questions(name: str, tmp_path: Path) -> None:
    first, second = rows({name: QUESTIONS}, tmp_path, "vqa")
    assert (first.image, first.text, first.answers) == ("a.png", "What colour is it?", RED)
    assert second.answers == (Answer("2"),) and first.id != second.id


def test_captions_of_one_photo_are_one_row(tmp_path: Path) -> None:
    table = 'image,caption\na.png,a dog\nb.jpg,a cat\na.png,"[a dog], at last"\n'
    first, second = rows({"train.csv": table}, tmp_path, "caption")
    assert first.references == ("a dog", "[a dog], at last") and second.references == ("a cat",)


def test_labels_of_sounds(tmp_path: Path) -> None:
    (row,) = rows({"val.csv": "audio,label\ns.wav,dog\n"}, tmp_path, "audio_qa", "val")
    assert (row.audio, row.text, row.answers) == ("s.wav", "which sound is it?", (Answer("dog"),))


def test_the_split_of_a_plain_table_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.csv: its split is not known"):
        rows({"data.csv": QUESTIONS}, tmp_path, "vqa")
    assert len(rows({}, tmp_path, "vqa", "test", split="test")) == 2


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png: no table: give a file of \.csv, \.jsonl, \.parquet"):
        import_dataset("table", write(tmp_path / "a.png", PNG), tmp_path / "out")


ANSWERS = {
    "one": ("red", RED),
    "a list": ('"[""red""]"', RED),
    "two": ('"[""red"", ""crimson""]"', (Answer("red"), Answer("crimson"))),
    "with weights": ('"[{""text"": ""red"", ""weight"": 0.5}]"', (Answer("red", 0.5),)),
    "without weights": ('"[{""text"": ""red""}]"', RED),
    "a number": ("7", (Answer("7"),)),
    "a word of JSON": ("null", (Answer("null"),)),
}


@pytest.mark.parametrize(("cell", "answers"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("column", ["answer", "answers"])
def test_answers_in_every_usual_form(
    column: str, cell: str, answers: tuple[Answer, ...], tmp_path: Path
) -> None:
    (row,) = rows({"train_vqa.csv": f"id,image,text,{column}\n1,a.png,what?,{cell}\n"}, tmp_path, "vqa")
    assert row.answers == answers and row.id == "1"


@pytest.mark.parametrize("answers", ["red", ["red"], [{"text": "red"}], [{"text": "red", "weight": 1}]])
def test_answers_in_json_lines(answers: Any, tmp_path: Path) -> None:
    table = lines({"image": "a.png", "question": "what?", "answers": answers})
    assert rows({"train.jsonl": table}, tmp_path, "vqa")[0].answers == RED


@pytest.mark.parametrize("cell", ["1,2,8,9.5", "[1, 2, 8, 9.5]"])
def test_other_fields_of_a_csv(cell: str, tmp_path: Path) -> None:
    head = "id,image,text,references,objects,box,extra\n"
    table = f'{head}1,a.png,the dog,the dog,dog,"{cell}","{{""by"": ""me""}}"\n'
    (row,) = rows({"train/grounding.csv": table}, tmp_path, "grounding")
    assert (row.box, row.objects, row.references) == ((1.0, 2.0, 8.0, 9.5), ("dog",), ("the dog",))
    assert row.extra == {"by": "me"}


WRONG = {
    "a capital": ("Image,Caption\na.png,a dog\n", "Image: unknown field: did you mean 'image'"),
    "a misspelt plain column": (
        "image,captoin\na.png,a dog\n",
        "captoin: unknown field: did you mean 'caption'",
    ),
    "semicolons": ("image;caption\na.png;a dog\n", "write commas, not ';'"),
    "tabs": ("image\tcaption\na.png\ta dog\n", r"write commas, not '\\t'"),
    "a column that says no task": ("image,text\na.png,a dog\n", "says no task, .*caption"),
    "a misspelt column": ("image,questoin,answer\na.png,what?,red\n", "unknown field: .*question|questoin"),
    "two columns of one field": ("image,question,text,answer\na.png,a,b,red\n", "'text' and another column"),
    "no medium": ("question,answer\nwhat?,red\n", "no medium: give a column image, video, audio"),
    "broken JSON": ('image,question,answer\na.png,what?,"[""red"""\n', "field 'answer': not JSON"),
    "deep JSON": (f"image,question,answer\na.png,what?,{'[' * 10_000}\n", "field 'answer': not JSON"),
}


@pytest.mark.parametrize(("table", "reason"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_full(table: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason) as raised:
        rows({"train.csv": table}, tmp_path, "vqa")
    assert "..." not in str(raised.value) and "train.csv line 2" in str(raised.value)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("image,caption,caption\na.png,a dog,a cat\n", "column 'caption' comes twice"),
        ('image,caption\na.png,a dog\nb.jpg,"a cat\na.png,a man\n', "line 3: not CSV: .*close every quote"),
        ('image,caption\na.png,"a dog" barks\nb.jpg,a cat\n', "line 2: not CSV: .*close every quote"),
    ],
)
def test_a_table_in_which_rows_or_columns_hide_is_refused(table: str, reason: str, tmp_path: Path) -> None:
    """A quote that stays open takes in all rows that follow; of two equal columns one would win."""
    with pytest.raises(UserError, match=rf"train\.csv: {reason}"):
        rows({"train.csv": table}, tmp_path, "caption")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_the_accepted_share_is_one(share: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is a share, from 0 to 1|expected a finite number"):
        import_dataset("table", tmp_path, tmp_path / "out", max_rejected=share)


def test_the_nearest_name_of_a_field_is_shown(tmp_path: Path) -> None:
    table = json.dumps({"id": "1", "image": "a.png", "txt": "what?", "answers": ["red"]})
    with pytest.raises(UserError, match=r"unknown field: did you mean 'text'\?"):
        rows({"train_vqa.jsonl": table}, tmp_path, "vqa")


def test_an_empty_caption_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the caption is empty \(first: .*train\.csv line 3\)"):
        rows({"train.csv": "image,caption\na.png,a dog\nb.jpg,\n"}, tmp_path, "caption")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("earlier", [False, True])
def test_a_dry_run_tells_what_the_import_would_do_and_writes_nothing(
    earlier: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps what the import keeps; what is refused is named with file, line and field."""
    write(tmp_path / "in/a.png", PNG)
    write(tmp_path / "in/b.jpg", JPG)
    write(tmp_path / "in/train.csv", "image,caption\na.png,a dog\nb.jpg,a cat\nc.png,none\n")
    words = ["table", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--max-rejected", "0.5"]
    if earlier:
        importing.main(words)
    before = files(tmp_path)
    capsys.readouterr()
    importing.main([*words, "--dry-run"])
    dry = capsys.readouterr().out
    assert files(tmp_path) == before
    assert "read: 6 rows and media" in dry and "train: 2 caption, 2 image" in dry
    assert "c.png: image: cannot read" in dry and "train.csv line 4: image: " in dry
    importing.main(words)
    assert "train: 2 caption, 2 image" in capsys.readouterr().out


def test_a_dry_run_of_what_an_import_would_not_take_fails_after_its_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of many faults the first are shown and the rest counted; a folder of something else stays refused."""
    write(tmp_path / "in/train.csv", "image,caption\n" + "".join(f"{n}.png,a dog\n" for n in range(30)))
    words = ["table", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(UserError, match=r"out: would not be written: 100.0% .*--max-rejected"):
        importing.main(words)
    shown = capsys.readouterr().out
    assert shown.count("refused: ") == importing.SHOWN + 1 and "refused: 40 more" in shown
    write(tmp_path / "out/mine.txt", "mine")
    with pytest.raises(UserError, match=r"out: holds mine\.txt"):
        importing.main(words)
