"""Small data sets in the official form of every reader: {name: (files, rows that there must be)}.

A file is bytes, text or a value to be written as JSON. Photos, clips and sounds are the same few bytes.
"""

import base64
import csv
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unival.data import media

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
PNG = media.encode_image(PIXELS)
JPG = media.encode_image(PIXELS, ".jpg")
MP4 = media.encode_video(np.repeat(PIXELS[None], 4, axis=0))
GIF = io.BytesIO()
Image.fromarray(PIXELS).save(GIF, "GIF", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])])
WAV = media.encode_wav(np.sin(np.arange(800) / 9).astype(np.float32) / 2, 8000)
Files = dict[str, Any]


def write(path: Path, content: Any) -> Path:
    """Bytes and texts as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def make(name: str, root: Path) -> dict[str, int]:
    """Write the data set `name` under `root`; returns `<split>/<task>` -> number of rows."""
    files, rows = OFFICIAL[name]
    for file, content in files.items():
        write(root / file, content)
    return rows


def table(header: str, *rows: str, delimiter: str = ",", head: bool = True) -> str:
    """A CSV; cells of the arguments are separated by `|`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
    writer.writerows(line.split("|") for line in ((header, *rows) if head else rows))
    return buffer.getvalue()


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name.replace("_dot_", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name.replace("_dot_", ".")), data)
    return buffer.getvalue()


def idx(count: int, *sides: int) -> bytes:
    values = np.random.default_rng(1).integers(0, 10, (count, *sides), dtype=np.uint8)
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def usps() -> bytes:
    h5py = __import__("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in ("train", "test"):
            file[f"{name}/data"] = np.random.default_rng(2).random((3, 256), dtype=np.float32)
            file[f"{name}/target"] = np.arange(3)
    return buffer.getvalue()


IMAGES = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 32, "height": 24} for n in (1, 2)]
PHOTOS: Files = {f"photos/{n:012d}.jpg": JPG for n in (1, 2)}
CAPTIONS = [{"id": n, "image_id": 1 + n % 2, "caption": f"caption {n}"} for n in range(10)]
TEN = [{"answer": "yes" if n < 7 else "no", "answer_confidence": "yes", "answer_id": n} for n in range(10)]
QUESTIONS = [{"image_id": n, "question": f"Is it {n}?", "question_id": 10 * n} for n in (1, 2)]
ANNOTATIONS = [
    {"question_id": 10 * n, "image_id": n, "question_type": "is it", "answer_type": "yes/no", "answers": TEN}
    for n in (1, 2)
]
VQA: Files = {
    **PHOTOS,
    "v2_OpenEnded_mscoco_val2014_questions.json": {"questions": QUESTIONS},
    "v2_mscoco_val2014_annotations.json": {"annotations": ANNOTATIONS},
}
REFS = [
    {
        "ref_id": n, "ann_id": 7, "image_id": n, "category_id": 3, "split": split, "sent_ids": [n],
        "file_name": f"COCO_train2014_{n:012d}_0.jpg",
        "sentences": [{"sent": f"the dog {n}", "raw": "The dog", "tokens": ["the"], "sent_id": n}],
    }
    for n, split in ((1, "testA"), (2, "train"))
]  # fmt: skip
BOXES = {
    "images": IMAGES,
    "annotations": [{"id": 7, "image_id": 1, "bbox": [1, 2, 10.5, 12], "category_id": 3}],
    "categories": [{"id": 3, "name": "dog"}],
}
CLIPS: Files = {f"clips/video{n}.mp4": MP4 for n in (1, 2)}
VIDEO_QA = [{"id": n, "video_id": n, "question": "what is it?", "answer": f"a{n}"} for n in (1, 2)]
SOUNDS: Files = {f"sounds/s{n}.wav": WAV for n in (1, 2)}
FIVE = "file_name|caption_1|caption_2|caption_3|caption_4|caption_5"
BASE64 = base64.urlsafe_b64encode(JPG).decode()
WEB: Files = {"photos/000000000.jpg": JPG, "photos/b.jpg": JPG}
FLICKR: Files = {"images/a.jpg": JPG, "images/b.jpg": JPG}
TWO = {"train/caption": 2}

OFFICIAL: dict[str, tuple[Files, dict[str, int]]] = {
    "coco_captions": (
        {**PHOTOS, "annotations/captions_train2017.json": {"images": IMAGES, "annotations": CAPTIONS}}, TWO,
    ),
    "nocaps": (
        {**PHOTOS, "nocaps_val_4500_captions.json": {
            "images": [{**image, "domain": "in-domain"} for image in IMAGES], "annotations": CAPTIONS,
        }},
        {"val/caption": 2},
    ),
    "flickr8k": (
        {**FLICKR, "Flickr8k.token.txt": table("", "a.jpg#0|a dog", "b.jpg#0|a cat", "a.jpg#1|it is a dog",
                                               delimiter="\t", head=False),
         "Flickr_8k.trainImages.txt": "a.jpg\n", "Flickr_8k.devImages.txt": "b.jpg\n"},
        {"train/caption": 1, "val/caption": 1},
    ),
    "flickr30k": (
        {**FLICKR, "dataset_flickr30k.json": {"dataset": "flickr30k", "images": [
            {"filename": "a.jpg", "imgid": 0, "split": "train", "sentences": [{"raw": "A dog."}]},
            {"filename": "b.jpg", "imgid": 1, "split": "test", "sentences": [{"raw": "A cat."}]}]}},
        {"train/caption": 1, "test/caption": 1},
    ),
    "vqav2": (VQA, {"val/vqa": 2}),
    "okvqa": (
        {**PHOTOS, "OpenEnded_mscoco_val2014_questions.json": {"questions": QUESTIONS},
         "mscoco_val2014_annotations.json": {"annotations": ANNOTATIONS}},
        {"val/vqa": 2},
    ),
    "vizwiz": (
        {**PHOTOS, "Annotations/val.json": [
            {"image": f"{n:012d}.jpg", "question": "What is it?", "answers": TEN, "answerable": 1,
             "answer_type": "other"} for n in (1, 2)
        ]},
        {"val/vqa": 2},
    ),
    "gqa": (
        {"images/n1.jpg": JPG, "testdev_balanced_questions.json": {
            str(n): {"question": "Is it red?", "answer": "yes", "imageId": "n1"} for n in (1, 2)
        }},
        {"test/vqa": 2},
    ),
    "easy_vqa": (
        {"train/images.zip": zipped(images_0_dot_png=PNG, **{"images/0.png": PNG, "images/1.png": PNG}),
         "train/questions.json": [["what is it?", "circle", 0], ["what is it?", "square", 1]]},
        {"train/vqa": 2},
    ),
    "visual_genome": (
        {"VG_100K/1.jpg": JPG,
         "region_descriptions.json": [{"id": 1, "regions": [
             {"region_id": n, "x": n, "y": 2, "width": 5, "height": 6, "phrase": "a dog", "image_id": 1}
             for n in (1, 2)]}],
         "question_answers.json": [{"id": 1, "qas": [
             {"qa_id": 5, "question": "What is it?", "answer": "A dog.", "image_id": 1}]}]},
        {"train/grounding": 2, "train/vqa": 1},
    ),
    "refcoco": (
        {**PHOTOS, "refcoco/refs(unc).p": pickle.dumps(REFS, protocol=2), "refcoco/instances.json": BOXES},
        {"testA/grounding": 1, "train/grounding": 1, "train/grounded_caption": 1},
    ),
    "snli_ve": (
        {"flickr30k/12.jpg": JPG, "snli_ve_dev.jsonl": lines(*(
            {"gold_label": label, "pairID": f"12.jpg#{label}", "sentence1": "A dog.", "sentence2": "A cat.",
             "Flikr30kID": "12"} for label in ("entailment", "neutral", "contradiction")))},
        {"val/entailment": 3},
    ),
    "nlvr": (
        {"dev/images.zip": zipped(**{f"images/1/dev-1-{n}-0.png": PNG for n in (0, 1)}),
         "dev/dev.json": lines(*({"sentence": "There is a box.", "label": label, "identifier": f"1-{n}"}
                                 for n, label in enumerate(("true", "false"))))},
        {"val/entailment": 2},
    ),
    "cc3m": ({**WEB, "train.tsv": "a dog\thttp://x/a.jpg\na cat\thttp://x/b.jpg\n"}, TWO),
    "cc12m": ({**WEB, "cc12m.tsv": "http://x/a.jpg\ta dog\nhttp://x/b.jpg\ta cat\n"}, TWO),
    "sbu": (
        {**WEB, "sbu-captions-all.json": {"captions": ["a dog", "a cat"],
                                          "image_urls": ["http://x/a.jpg", "http://x/b.jpg"]}},
        TWO,
    ),
    "webdataset": (
        {"cc-train-0.tar": archive(a_dot_jpg=JPG, a_dot_txt=b"a dog", b_dot_jpg=JPG, b_dot_txt=b"a cat",
                                   v_dot_mp4=MP4, v_dot_txt=b"a clip")},
        {**TWO, "train/video_caption": 1},
    ),
    "text_captions": (
        {"captions_val.json": {"images": IMAGES, "annotations": CAPTIONS},
         "train.csv": table("image|caption", "a.jpg|a dog", "b.jpg|a cat")},
        {"val/text": 10, "train/text": 2},
    ),
    "msrvtt": (
        {**CLIPS, "train_val_videodatainfo.json": {
            "videos": [{"video_id": f"video{n}", "category": 9, "split": s}
                       for n, s in ((1, "train"), (2, "validate"))],
            "sentences": [{"video_id": f"video{1 + n % 2}", "caption": f"clip {n}", "sen_id": n}
                          for n in range(6)],
        }},
        {"train/video_caption": 1, "val/video_caption": 1},
    ),
    "msrvtt_qa": ({**CLIPS, "val_qa.json": VIDEO_QA}, {"val/video_qa": 2}),
    "msvd_qa": (
        {**CLIPS, "youtube_mapping.txt": "video1 vid1\nvideo2 vid2\n", "test_qa.json": VIDEO_QA},
        {"test/video_qa": 2},
    ),
    "msvd": (
        {**CLIPS, "AllVideoDescriptions.txt": "# a note\n\nvideo1 a dog\nvideo2 a cat\nvideo1 it is a dog\n",
         "youtube_mapping.txt": "video1 vid1\nvideo2 vid1301\n"},
        {"train/video_caption": 1, "test/video_caption": 1},
    ),
    "activitynet": (
        {**CLIPS, "val_1.json": {f"video{n}": {
            "duration": 9.0, "timestamps": [[0, 4], [4.5, 9]], "sentences": [" One.", "Two."]}
            for n in (1, 2)}},
        {"val/video_caption": 4},
    ),
    "vatex": (
        {**CLIPS, "vatex_validation_v1.0.json": [
            {"videoID": f"video{n}", "enCap": ["one", "two"], "chCap": ["x"]} for n in (1, 2)]},
        {"val/video_caption": 2},
    ),
    "webvid": (
        {**CLIPS, "results_10M_val.csv": table("videoid|contentUrl|duration|page_dir|name",
                                               "video1|x|PT1S|0|a dog", "video2|x|PT1S|0|a cat")},
        {"val/video_caption": 2},
    ),
    "tgif_qa": (
        {"gifs/video1.gif": GIF.getvalue(), "gifs/video2.gif": GIF.getvalue(),
         "Test_frameqa_question.csv": table("gif_name|question|answer|vid_id",
                                                     "video1|what is it?|dog|1", "video2|what is it?|cat|2",
                                                     delimiter="\t")},
        {"test/video_qa": 2},
    ),
    "audiocaps": (
        {**SOUNDS, "val.csv": table("audiocap_id|youtube_id|start_time|caption",
                                    *(f"{n}|s{1 + n % 2}|30|a sound, {n}" for n in range(6)))},
        {"val/audio_caption": 2},
    ),
    "clotho": (
        {**SOUNDS, "clotho_captions_evaluation.csv": table(FIVE, "s1.wav|a|b|c|d|e", "s2.wav|a|b|c|d|e")},
        {"test/audio_caption": 2},
    ),
    "esc50": (
        {**SOUNDS, "meta/esc50.csv": table("filename|fold|target|category", "s1.wav|1|0|dog",
                                           "s2.wav|5|1|crying_baby")},
        {"train/audio_caption": 1, "test/audio_qa": 1},
    ),
    "vggsound": (
        {"a_000003.wav": WAV, "b_000010.wav": WAV,
         "vggsound.csv": table("", "a|3|dog barking|train", "b|10|rain|test", head=False)},
        {"train/audio_qa": 1, "test/audio_qa": 1},
    ),
    "fsdd": (
        {"recordings/3_theo_0.wav": WAV, "recordings/8_theo_7.wav": WAV},
        {"test/audio_caption": 1, "train/audio_qa": 1},
    ),
    "mnist": (
        {"train-images-idx3-ubyte": idx(3, 28, 28), "train-labels-idx1-ubyte": idx(3)},
        {"train/caption": 3, "train/vqa": 3},
    ),
    "usps": ({"usps.h5": usps()}, {"train/caption": 3, "test/vqa": 3}),
    "sign_digits": ({"3/a.jpg": JPG, "8/b.jpg": JPG}, {"train/caption": 2, "train/vqa": 2}),
    "table": (
        {"images/a.png": PNG, "val/caption.jsonl": lines(
            {"id": "1", "image": "a.png", "references": ["a dog", "one dog"]},
            {"id": "2", "image": "a.png", "references": ["a cat"], "objects": ["cat"]})},
        {"val/caption": 2},
    ),
    "ofa_tsv": (
        {"photos/x.jpg": JPG,
         "caption_val.tsv": table("", f"1|i1|a dog&&one dog|dog&&ball|{BASE64}", delimiter="\t", head=False),
         "refcoco_val.tsv": table("", f"3|i3|the dog|1.5,2.0,10.0,12.0|{BASE64}", delimiter="\t", head=False),
         "pretrain_train.tsv": "1\tphotos/x.jpg\ta dog\t\t\tdog\tcoco\tcaption\n"},
        {"val/caption": 1, "val/grounding": 1, "train/caption": 1},
    ),
}  # fmt: skip
