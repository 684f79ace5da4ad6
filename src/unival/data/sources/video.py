"""Video captions and questions: MSR-VTT, MSVD, ActivityNet Captions, VATEX, WebVid, TGIF-QA."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.disk_map import DiskMap
from unival.data.source import BadItem
from unival.data.sources.formats import (
    ID,
    Row,
    captioned,
    changed,
    csv_rows,
    grouped,
    json_pairs,
    json_rows,
    line_rows,
    value,
)
from unival.data.sources.json_stream import json_keys
from unival.data.sources.reader import File, Item, rows
from unival.data.sources.splits import listed, listed_split, said_split
from unival.errors import UserError

MSVD_SPLITS = {1200: "train", 1300: "val", math.inf: "test"}
"""Last clip number -> its split (Venugopalan et al. 2015)."""
GIFS = ("gif_name", "question", "answer")


def _msrvtt_json(path: Path) -> Iterator[Row]:
    """Files without both lists are other files of the folder (questions, an index)."""
    if {"videos", "sentences"} <= set(json_keys(path) or ()):
        yield from captioned("videos", "video_id", "sentences", "video_id")(path)


@rows("msrvtt", "*.json", load=_msrvtt_json)
def _msrvtt(row: tuple[Any, list[str]], file: File) -> Iterator[Item]:
    """One row per clip with its captions."""
    video, captions = row
    split, extra = said_split(value(video, "split")), {"category": str(video.get("category", ""))}
    yield from file.captions("video", value(video, "video_id"), captions, split=split, extra=extra)


def _answered(row: Any, name: str, file: File) -> Iterator[Item]:
    question = value(row, "question").strip()
    form, row_id = " ".join(question.split()[:2]), str(value(row, "id", int))
    yield from file.question("video", name, row_id, question, value(row, "answer"), form=form)


@rows("msrvtt_qa", "*qa*.json", load=json_rows())
def _msrvtt_qa(row: Any, file: File) -> Iterator[Item]:
    """One row per question."""
    video = value(row, "video_id", ID)
    yield from _answered(row, f"video{video}" if isinstance(video, int) else video, file)


def _mapping(path: Path) -> Iterator[tuple[str, str] | BadItem]:
    """(number, name) of every clip in youtube_mapping.txt beside a file, as ("vid1", "mv89psg6zh4_33_46")."""
    for mapping in sorted(path.parent.glob("youtube_mapping.txt")):
        for item in csv_rows(delimiter=" ", names=("name", "number"))(mapping):
            yield item if isinstance(item, BadItem) else (item[1]["number"], item[1]["name"])


def _mapped(path: Path) -> Iterator[Row]:
    """(question, file name of its clip); clip numbers become names by youtube_mapping.txt."""
    names = dict[str, str]()
    for item in _mapping(path):
        if isinstance(item, BadItem):
            yield item
        else:
            names[item[0]] = item[1]

    def named(row: Any) -> tuple[Any, str]:
        video = value(row, "video_id", ID)
        if isinstance(video, int) and f"vid{video}" not in names:
            raise UserError(f"vid{video} is not in youtube_mapping.txt")
        return row, video if isinstance(video, str) else names[f"vid{video}"]

    yield from changed(path, json_rows()(path), named)


@rows("msvd_qa", "*qa*.json", load=_mapped)
def _msvd_qa(row: tuple[Any, str], file: File) -> Iterator[Item]:
    """One row per question."""
    yield from _answered(*row, file)


def _descriptions(path: Path) -> Iterator[Row]:
    """(clip, captions) of a line per caption (`name caption`, notes start with #) or of a JSON list."""
    if path.suffix == ".json":
        return changed(path, json_rows()(path), lambda row: (value(row, "id"), value(row, "caption", list)))

    def noted(path: Path) -> Iterator[Row]:
        return (item for item in line_rows(path) if isinstance(item, BadItem) or item[1][0] != "#")

    lines = grouped(noted, key=lambda line: line.split(" ")[0], text=lambda line: line.partition(" ")[2])
    return changed(path, lines(path), lambda row: (row[0].split(" ")[0], row[1]))


def _divided(path: Path) -> Iterator[Row]:
    """(clip, captions, split) by the lists {train,val,test}_list.txt, else by youtube_mapping.txt."""
    splits = listed(sorted(path.parent.glob("*_list.txt")))
    if splits is None and any(path.parent.glob("youtube_mapping.txt")):
        splits = DiskMap()
        for item in _mapping(path):
            if isinstance(item, BadItem):
                yield item
            elif (number := item[0].removeprefix("vid")).isdecimal():
                last = next(last for last in MSVD_SPLITS if int(number) <= last)
                splits.add(item[1], MSVD_SPLITS[last])

    def divided(row: tuple[str, list[str]]) -> tuple[str, list[str], str]:
        name = row[0].removesuffix(".avi")
        return name, row[1], listed_split(splits, name, "youtube_mapping.txt or *_list.txt")

    yield from changed(path, _descriptions(path), divided)


@rows("msvd", "AllVideoDescriptions.txt", "*label*.json", load=_divided)
def _msvd(row: tuple[str, list[str], str], file: File) -> Iterator[Item]:
    """One row per clip with its captions."""
    name, captions, split = row
    yield from file.captions("video", name, captions, split=split)


@rows("activitynet", "train.json", "val_1.json", load=json_pairs)
def _activitynet(item: tuple[str, Any], file: File) -> Iterator[Item]:
    """One row per described part of a video, which is its medium. val_2 repeats val_1 and is skipped."""
    name, row = item
    times, sentences = value(row, "timestamps", list), value(row, "sentences", list)
    if len(times) != len(sentences):
        raise UserError(f"{len(times)} timestamps, and there are {len(sentences)} sentences")
    for position, ((start, end), sentence) in enumerate(zip(times, sentences, strict=True)):
        part, extra = (float(start), float(end)), {"start": str(start), "end": str(end)}
        yield from file.captions("video", f"{name}-{position}", [sentence], name, extra=extra, part=part)


@rows("vatex", "*vatex*.json", load=json_rows())
def _vatex(row: Any, file: File) -> Iterator[Item]:
    """One row per clip with its English captions."""
    yield from file.captions("video", value(row, "videoID"), value(row, "enCap", list))


@rows("webvid", "*.csv", load=csv_rows("videoid", "name"))
def _webvid(row: dict[str, str], file: File) -> Iterator[Item]:
    """One row per clip."""
    yield from file.captions("video", row["videoid"], [row["name"]])


@rows("tgif_qa", "*frameqa*.csv", "*frameqa*.tsv", load=csv_rows(*GIFS, delimiter="\t"))
def _tgif(row: dict[str, str], file: File) -> Iterator[Item]:
    """One row per question (FrameQA)."""
    name = row["gif_name"]
    yield from file.question("video", name, f"{name}-{file.number}", row["question"], row["answer"])
