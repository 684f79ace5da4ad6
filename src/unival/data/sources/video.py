"""Video captions and questions: MSR-VTT, MSVD, ActivityNet Captions, VATEX, WebVid, TGIF-QA."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import (
    Item,
    Made,
    each,
    numbered,
    read_csv,
    read_json,
    reader,
    require,
    rows_of,
    split_of,
    value,
)
from unival.errors import UserError
from unival.record import Answer, Record

RESEARCH = "research use; clips belong to their owners"
ID = (int, str)


@reader(
    "msrvtt",
    expects="*.json with `videos` and `sentences` (as train_val_videodatainfo.json), and the clips",
    licence=f"MSR-VTT: {RESEARCH}",
    counts={"train/video_caption": 6_513, "val/video_caption": 497, "test/video_caption": 2_990},
)
def read_msrvtt(root: Path) -> Iterator[Item]:
    """One row per clip with its captions."""
    media, found = MediaFolder(root), False
    for path in require(root, "*.json", "*/*.json"):
        content = read_json(path)
        if isinstance(content, dict) and {"videos", "sentences"} <= set(content):
            found = True
            yield from _msrvtt(path, content, media)
    if not found:
        raise UserError(f"{root}: no JSON with 'videos' and 'sentences': is this MSR-VTT's folder?")


def _msrvtt(path: Path, content: dict[str, Any], media: MediaFolder) -> Iterator[Item]:
    captions: dict[str, list[str]] = {}
    for position, row in enumerate(rows_of(content, "sentences", path)):
        try:
            captions.setdefault(value(row, "video_id"), []).append(value(row, "caption").strip())
        except UserError as error:
            yield BadItem(str(path), f"sentences[{position}]", "row", str(error))

    def convert(row: Any) -> Iterator[Made]:
        name, split = value(row, "video_id"), split_of(value(row, "split"))
        if name not in captions:
            raise UserError(f"video '{name}' has no caption")
        yield from media.item(split, name, f"{name}.mp4" if media.name_of(name) is None else name)
        extra = {"category": str(row.get("category", ""))}
        record = Record(name, video=name, references=tuple(captions[name]), extra=extra)
        yield split, "video_caption", record

    yield from each(path, numbered(rows_of(content, "videos", path), "video"), convert)


def _qa(root: Path, name_of: Any) -> Iterator[Item]:
    media = MediaFolder(root)
    for path in require(root, "*qa*.json", "*/*qa*.json"):
        split = split_of(path.stem)

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            name = name_of(value(row, "video_id", ID))
            yield from media.item(split, name, f"{name}.mp4" if media.name_of(name) is None else name)
            answers = (Answer(value(row, "answer").strip()),)
            question, row_id = value(row, "question").strip(), str(value(row, "id", int))
            form = " ".join(question.split()[:2])
            yield split, "video_qa", Record(row_id, video=name, text=question, answers=answers, form=form)

        yield from each(path, numbered(read_json(path, list)), convert)


@reader(
    "msrvtt_qa",
    expects="{train,val,test}_qa.json, and any folder of clips (video<id>.mp4)",
    licence=f"MSRVTT-QA: {RESEARCH}",
    counts={"train/video_qa": 158_581, "val/video_qa": 12_278, "test/video_qa": 72_821},
)
def read_msrvtt_qa(root: Path) -> Iterator[Item]:
    """One row per question."""
    yield from _qa(root, lambda video: f"video{video}" if isinstance(video, int) else video)


@reader(
    "msvd_qa",
    expects="{train,val,test}_qa.json, youtube_mapping.txt, and any folder of clips",
    licence=f"MSVD-QA: {RESEARCH}",
    counts={"train/video_qa": 30_933, "val/video_qa": 6_415, "test/video_qa": 13_157},
)
def read_msvd_qa(root: Path) -> Iterator[Item]:
    """One row per question; clip numbers become file names by the mapping."""
    names = {}
    for path in sorted(root.glob("youtube_mapping.txt")):
        for item in read_csv(path, (), delimiter=" ", names=["name", "number"]):
            if isinstance(item, BadItem):
                yield item
            else:
                names[item[1]["number"]] = item[1]["name"]

    def name_of(video: int | str) -> str:
        number = f"vid{video}"
        if isinstance(video, int) and number not in names:
            raise UserError(f"{number} is not in youtube_mapping.txt")
        return video if isinstance(video, str) else names[number]

    yield from _qa(root, name_of)


@reader(
    "msvd",
    expects="AllVideoDescriptions.txt, or *label*.json ([{id, caption: [...]}]), and the clips",
    licence=f"Microsoft Research Video Description Corpus: {RESEARCH}",
    counts={"train/video_caption": 1_970},
)
def read_msvd(root: Path) -> Iterator[Item]:
    """One row per clip with its captions, all in one split."""
    media = MediaFolder(root)

    def convert(row: Any) -> Iterator[Made]:
        name = value(row, "id").removesuffix(".avi")
        yield from media.item("train", name, name if media.name_of(name) else f"{name}.avi")
        references = tuple(text.strip() for text in value(row, "caption", list))
        yield "train", "video_caption", Record(name, video=name, references=references)

    for path in require(root, "AllVideoDescriptions.txt", "*label*.json"):
        if path.suffix == ".json":
            yield from each(path, numbered(read_json(path, list)), convert)
            continue
        grouped: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, caption = line.partition(" ")
            if caption.strip() and not line.startswith("#"):
                grouped.setdefault(name, []).append(caption)
        rows = [{"id": name, "caption": captions} for name, captions in grouped.items()]
        yield from each(path, numbered(rows, "clip"), convert)


@reader(
    "activitynet",
    expects="train.json, val_1.json, val_2.json (video -> duration, timestamps, sentences), and the videos",
    licence=f"ActivityNet Captions: {RESEARCH}",
    counts={"train/video_caption": 37_421, "val/video_caption": 17_505},
)
def read_activitynet(root: Path) -> Iterator[Item]:
    """One row per described segment, its seconds in `extra`. val_2 repeats val_1's videos and is skipped."""
    media = MediaFolder(root)
    for path in require(root, "train.json", "val_1.json", "*/train.json", "*/val_1.json"):
        split = split_of(path.stem)

        def convert(item: tuple[str, Any], split: str = split) -> Iterator[Made]:
            name, row = item
            times, sentences = value(row, "timestamps", list), value(row, "sentences", list)
            if len(times) != len(sentences):
                raise UserError(f"{len(times)} timestamps, and there are {len(sentences)} sentences")
            yield from media.item(split, name, f"{name}.mp4" if media.name_of(name) is None else name)
            for position, (time, sentence) in enumerate(zip(times, sentences, strict=True)):
                extra = {"start": str(time[0]), "end": str(time[1])}
                record = Record(f"{name}-{position}", video=name, references=(sentence.strip(),), extra=extra)
                yield split, "video_caption", record

        yield from each(path, numbered(read_json(path, dict).items(), "video"), convert)


@reader(
    "vatex",
    expects="vatex_{training,validation,public_test}_v1.0.json ([{videoID, enCap}]), and the clips",
    licence="VATEX annotations: CC-BY 4.0",
    counts={"train/video_caption": 25_991, "val/video_caption": 3_000, "test/video_caption": 6_000},
)
def read_vatex(root: Path) -> Iterator[Item]:
    """One row per clip with its English captions."""
    media = MediaFolder(root)
    for path in require(root, "*vatex*.json"):
        split = split_of(path.stem)

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            name, captions = value(row, "videoID"), tuple(value(row, "enCap", list))
            yield from media.item(split, name, f"{name}.mp4" if media.name_of(name) is None else name)
            yield split, "video_caption", Record(name, video=name, references=captions)

        yield from each(path, numbered(read_json(path, list)), convert)


@reader(
    "webvid",
    expects="*.csv with videoid and name, and the clips ({videoid}.mp4)",
    licence=f"WebVid: {RESEARCH}",
    counts={"train/video_caption": 2_500_000},
)
def read_webvid(root: Path) -> Iterator[Item]:
    """One row per clip."""
    media = MediaFolder(root)
    for path in require(root, "*.csv"):
        split = split_of(path.stem)

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            name = row["videoid"]
            yield from media.item(split, name, f"{name}.mp4")
            yield split, "video_caption", Record(name, video=name, references=(row["name"].strip(),))

        yield from each(path, read_csv(path, ("videoid", "name")), convert)


@reader(
    "tgif_qa",
    expects="{Train,Test}_frameqa_question.csv (tab separated: gif_name, question, answer), and the gifs",
    licence=f"TGIF-QA: {RESEARCH}",
    counts={"train/video_qa": 39_392, "test/video_qa": 13_691},
)
def read_tgif(root: Path) -> Iterator[Item]:
    """One row per question (FrameQA)."""
    media = MediaFolder(root)
    for path in require(root, "*frameqa*.csv", "*frameqa*.tsv", "*/*frameqa*.csv"):
        split = split_of(path.stem)

        def convert(item: tuple[int, Any], split: str = split) -> Iterator[Made]:
            position, row = item
            name = row["gif_name"]
            yield from media.item(split, name, f"{name}.gif")
            answers = (Answer(row["answer"].strip()),)
            record = Record(f"{name}-{position}", video=name, text=row["question"].strip(), answers=answers)
            yield split, "video_qa", record

        rows = read_csv(path, ("gif_name", "question", "answer"), delimiter="\t")
        named = (
            item if isinstance(item, BadItem) else (item[0], (position, item[1]))
            for position, item in enumerate(rows)
        )
        yield from each(path, named, convert)
