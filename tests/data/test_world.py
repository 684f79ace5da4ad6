"""What the embedded benchmark promises: equal bytes for a seed, no leaks, true texts, nothing won blindly."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.data.conftest import NOISE, sizes, world_options
from unival.data.benchmarks.world import web
from unival.data.benchmarks.world.clips import ClipRules, make_clip
from unival.data.benchmarks.world.concepts import ALLOWED_PAIRS, COLORS, HELD_OUT_PAIRS, noun
from unival.data.benchmarks.world.digits import PORTIONS, bank_from_arrays, bundled, bundled_bank
from unival.data.benchmarks.world.scenes import SceneRules, make_scene
from unival.data.benchmarks.world.splits import ALL_TASKS as TASKS
from unival.data.benchmarks.world.splits import PRETRAINING_TASKS
from unival.data.benchmarks.world.web import Noise
from unival.data.contact_sheet import contact_sheet
from unival.data.manifest import read_records
from unival.data.store import MediaStore
from unival.errors import UserError
from unival.metrics.world_checker import check_caption
from unival.record import Record

SPLITS = ("pretrain", "train", "val", "test", "ood-composition", "ood-crowding", "ood-phrasing", "ood-speed")
EVALUATED = SPLITS[2:]


def rows(folder: Path, split: str, task: str) -> list[Record]:
    path = folder / split / f"{task}.parquet"
    return list(read_records(folder / split, task)) if path.is_file() else []


def texts(record: Record) -> list[str]:
    return [record.text, *record.references, *(answer.text for answer in record.answers)]


def test_every_task_is_in_the_main_splits(world_dir: Path) -> None:
    assert all(rows(world_dir, "pretrain", task) for task in PRETRAINING_TASKS)
    for split in ("train", "val", "test"):
        assert all(rows(world_dir, split, task) for task in TASKS)
        for task in TASKS:
            ids = read_records(world_dir / split, task).ids
            assert len(set(ids)) == len(ids)


# --- determinism ---

SCRIPT = """
import hashlib, sys
from unival.data.source import MediaItem
from unival import config
from unival.data.benchmarks.world.source import make_source
from unival.data.benchmarks.world.splits import WorldOptions
import json
source = make_source(config.build(WorldOptions, json.loads(sys.argv[1]), "test"))
state = hashlib.sha256()
for item in source.items:
    state.update(item.data if isinstance(item, MediaItem) else repr(item).encode())
print(state.hexdigest())
"""


def digest_in_new_process(hash_seed: str, seed: int = 0) -> str:
    options = world_options(seed=seed, sizes={"tiny": sizes(12, 6, 6)})
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(["src", *sys.path]),
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(options)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_seed_gives_the_same_bytes_in_any_process() -> None:
    assert digest_in_new_process("1") == digest_in_new_process("2") != digest_in_new_process("1", seed=1)


# --- leakage ---


def test_no_digit_sample_is_in_two_splits() -> None:
    strokes, _ = bundled()
    banks = [bundled_bank(portion) for portion in PORTIONS]
    assert sum(len(bank.strokes) for bank in banks) == len(strokes)
    seen = [{stroke.tobytes() for stroke in bank.strokes} for bank in banks]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_no_medium_of_training_is_evaluated(world_dir: Path) -> None:
    hashes = {}
    for split in SPLITS:
        store = MediaStore(world_dir / split)
        hashes[split] = {hashlib.sha256(store.bytes(key)).hexdigest() for key in store.keys()}  # noqa: SIM118
        assert len(hashes[split]) == len(store)
    assert not hashes["pretrain"] & hashes["train"]
    for split in EVALUATED:
        assert not (hashes["pretrain"] | hashes["train"]) & hashes[split]
    assert not hashes["val"] & hashes["test"]


def test_no_scene_of_training_is_evaluated(world_dir: Path) -> None:
    for task in ("caption",):
        train = {r.facts for split in ("pretrain", "train") for r in rows(world_dir, split, task)}
        for split in EVALUATED:
            assert not train & {record.facts for record in rows(world_dir, split, task)}


def names_held_out(text: str) -> bool:
    return any(
        f"{color} {word}" in text for color, kind in HELD_OUT_PAIRS for word in (noun(kind), noun(kind, 2))
    )


def test_held_out_pairs_are_only_in_their_split(world_dir: Path) -> None:
    for split in SPLITS:
        said = {
            text
            for task in TASKS
            for record in rows(world_dir, split, task)
            for text in (*texts(record), *record.objects)
        }
        assert any(map(names_held_out, said)) == (split == "ood-composition"), split
    shown = rows(world_dir, "ood-composition", "caption") + rows(
        world_dir, "ood-composition", "video_caption"
    )
    assert all(any(names_held_out(name) for name in record.objects) for record in shown)


def test_unseen_phrasing_is_unseen(world_dir: Path) -> None:
    for task in ("vqa", "entailment", "video_qa", "audio_qa"):
        usual = {record.text for split in ("train", "val", "test") for record in rows(world_dir, split, task)}
        unseen = [record.text for record in rows(world_dir, "ood-phrasing", task)]
        assert unseen and not usual & set(unseen), task


def test_unseen_phrasing_asks_about_the_test_media(world_dir: Path) -> None:
    test, shifted = MediaStore(world_dir / "test"), MediaStore(world_dir / "ood-phrasing")
    assert all(test.bytes(key) == shifted.bytes(key) for key in shifted.keys())  # noqa: SIM118


# --- truth ---


@pytest.mark.parametrize("task", ["caption", "video_caption", "audio_caption"])
def test_every_reference_passes_the_checker(world_dir: Path, task: str) -> None:
    for split in SPLITS[1:]:
        for record in rows(world_dir, split, task):
            assert len(set(record.references)) == 5
            for reference in record.references:
                assert check_caption(reference, record.facts), (split, reference, record.facts)
                assert check_caption(reference.replace(",", "").replace(":", ""), record.facts)


@pytest.mark.parametrize("task", ["caption", "video_caption", "audio_caption"])
def test_captions_of_other_rows_fail_the_checker(world_dir: Path, task: str) -> None:
    records = rows(world_dir, "test", task)
    swapped = [check_caption(records[i - 1].references[0], records[i].facts) for i in range(len(records))]
    assert np.mean(swapped) < 0.1


@pytest.mark.parametrize("task, captions", [("matching", "caption"), ("video_matching", "video_caption")])
def test_matching_labels_are_right(world_dir: Path, task: str, captions: str) -> None:
    for split in ("train", "test", "ood-composition"):
        facts = {record.id: record.facts for record in rows(world_dir, split, captions)}
        for record in rows(world_dir, split, task):
            assert check_caption(record.text, facts[record.id]) == (record.answers[0].text == "yes")


def test_statements_are_true_false_or_open(world_dir: Path) -> None:
    """`exist` and `under` statements against the facts, by their own words."""
    for split in ("test", "ood-composition", "ood-phrasing"):
        facts = {record.image: json.loads(record.facts) for record in rows(world_dir, "test", "caption")}
        facts |= {r.image: json.loads(r.facts) for r in rows(world_dir, split, "caption")}
        for record in rows(world_dir, split, "entailment"):
            scene = facts[record.image]
            names = {f"{t['color']} {t['kind']}" for t in scene["things"]}
            said = any(name in record.text.replace("digit ", "") for name in names)
            hidden = "maybe" if scene["cloth"] else "no"
            if record.form == "exist":
                assert record.answers[0].text == ("yes" if said else hidden)
            if record.form == "under":
                assert record.answers[0].text == hidden


def test_boxes_fit_their_objects(world_dir: Path) -> None:
    store = MediaStore(world_dir / "test")
    for record in rows(world_dir, "test", "grounding")[:40]:
        x0, y0, x1, y1 = map(int, record.box or ())
        pixels = store.image(record.image or "").astype(int)
        paper = np.median(pixels.reshape(-1, 3), axis=0)
        inside = np.abs(pixels - paper).sum(2)[y0:y1, x0:x1]
        assert min(edge.max() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])) > 30


def test_soft_answers_start_with_the_truth(world_dir: Path) -> None:
    for task in ("vqa", "video_qa", "audio_qa"):
        for record in rows(world_dir, "test", task):
            weights = [answer.weight for answer in record.answers]
            assert weights[0] == 1 and set(weights) <= {0.3, 0.6, 0.9, 1.0}
            assert len({answer.text for answer in record.answers}) == len(weights)
    forms = {
        task: {r.form for r in rows(world_dir, "test", task)} for task in ("vqa", "video_qa", "audio_qa")
    }
    assert all(len(names) >= 5 for names in forms.values())


# --- pretraining is noisy ---


def alt_texts(rate: float) -> tuple[list[bool], list[bool]]:
    """Whether alt texts with no noise but this rate of wrong ones pass: pictures, clips of one object."""
    rng, bank = Random(0), bundled_bank("train")
    noise = Noise(**{**dict.fromkeys(NOISE, 0.0), "wrong": rate})
    scenes = [make_scene(rng, SceneRules(), bank, 48)[0] for _ in range(300)]
    clips = [
        clip
        for clip in (make_clip(rng, ClipRules(), bank, 40, 4)[0] for _ in range(900))
        if not clip.actors[1:]
    ]
    pictures = [
        check_caption(web.image_alt_text(rng, one, noise, ALLOWED_PAIRS), one.facts()) for one in scenes
    ]
    return pictures, [
        check_caption(web.clip_alt_text(rng, one, noise, ALLOWED_PAIRS), one.facts()) for one in clips
    ]


def test_alt_texts_are_wrong_at_the_stated_rate() -> None:
    assert all(map(all, alt_texts(0.0)))
    for passed in alt_texts(0.3):
        assert np.mean(passed) == pytest.approx(0.7, abs=0.08)


@pytest.mark.parametrize("task", ["caption", "video_caption"])
def test_alt_texts_leave_out_and_fill_at_the_stated_rates(world_dir: Path, task: str) -> None:
    records = rows(world_dir, "pretrain", task)
    assert all(len(record.references) == 1 for record in records)
    told = [record.references[0] for record in records]
    colors = sum(sum(text.split().count(color) for color in COLORS) for text in told)
    omitted = NOISE["omitted"]
    kept = sum(
        n * (1 - omitted) + omitted**n for n in (len(record.objects) for record in records)
    )  # never none
    assert colors == pytest.approx(kept * (1 - NOISE["vague"]), rel=0.1)
    filled = [any(words in text for words in web.FILLER) for text in told]
    assert np.mean(filled) == pytest.approx(NOISE["filler"], abs=0.1)
    assert np.mean([check_caption(text, r.facts) for text, r in zip(told, records, strict=True)]) < 0.3


def test_pretraining_boxes_are_loose_and_some_are_wrong(world_dir: Path) -> None:
    facts = {r.image: json.loads(r.facts) for r in rows(world_dir, "pretrain", "caption")}
    fits = []
    for record in rows(world_dir, "pretrain", "grounding"):
        if record.form == "cloth" or len(facts[record.image]["things"]) < 2:
            continue
        digit = record.text.split("digit ")[-1].split()[0] if "digit" in record.text else ""
        right = [
            t for t in facts[record.image]["things"]
            if (t["kind"] == digit or t["kind"] in record.text)
            and (t["color"] in record.text or not set(COLORS) & set(record.text.split()))
            and (t["size"] in record.text or not {"small", "large"} & set(record.text.split()))
        ]  # fmt: skip
        fits.append(max(overlap(tuple(thing["box"]), record.box or ()) for thing in right))
        if fits[-1] > 0.25:  # around the right object: never too small
            assert any(inside(thing["box"], record.box or ()) for thing in right)
    wrong = np.mean(np.array(fits) < 0.25)
    assert 0.5 * NOISE["wrong"] < wrong < 1.8 * NOISE["wrong"]
    assert 0.45 < np.median(fits) < 0.75


def inside(inner: tuple[float, ...], outer: tuple[float, ...]) -> bool:
    return all(o <= i for o, i in zip(outer[:2], inner[:2], strict=True)) and all(
        i <= o for o, i in zip(outer[2:], inner[2:], strict=True)
    )


@pytest.mark.parametrize("task, clean, few", [("vqa", 8, 4), ("video_qa", 8, 4)])
def test_pretraining_asks_few_forms_in_words_of_its_own(
    world_dir: Path, task: str, clean: int, few: int
) -> None:
    noisy, train = rows(world_dir, "pretrain", task), rows(world_dir, "train", task)
    assert len({r.form for r in noisy}) == few and len({r.form for r in train}) == clean
    assert not {r.text for r in noisy} & {r.text for r in train}
    assert all(len(r.answers) == 1 for r in noisy)


def test_pretraining_answers_are_wrong_at_the_stated_rate(world_dir: Path) -> None:
    facts = {r.image: json.loads(r.facts) for r in rows(world_dir, "pretrain", "caption")}
    right = [
        record.answers[0].text
        in {t["color"] for t in facts[record.image]["things"] if t["kind"] in record.text}
        for record in rows(world_dir, "pretrain", "vqa")
        if record.form == "color" and "digit" not in record.text
    ]
    assert 1 - np.mean(right) == pytest.approx(NOISE["wrong"], abs=0.06)


# --- nothing is won blindly ---


def score(record: Record, answer: str | None) -> float:
    return next((item.weight for item in record.answers if item.text == answer), 0.0)


def blind(train: list[Record], test: list[Record], key: str) -> float:
    """Score of the best constant answer per question form, or per exact question."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for record in train:
        for answer in record.answers:
            totals[getattr(record, key)][answer.text] += answer.weight  # type: ignore[assignment]
    best = {group: counts.most_common(1)[0][0] for group, counts in totals.items()}
    return float(np.mean([score(record, best.get(getattr(record, key))) for record in test]))


@pytest.mark.parametrize("task, bound", [("vqa", 0.5), ("video_qa", 0.5), ("audio_qa", 0.55)])
@pytest.mark.parametrize("key", ["form", "text"])
def test_questions_are_not_answered_blindly(world_dir: Path, task: str, bound: float, key: str) -> None:
    for split in ("pretrain", "train"):
        assert blind(rows(world_dir, split, task), rows(world_dir, "test", task), key) <= bound


def test_labels_are_balanced(world_dir: Path) -> None:
    for task, bound in (("entailment", 0.40), ("matching", 0.60), ("video_matching", 0.60)):
        records = rows(world_dir, "train", task) + rows(world_dir, "test", task)
        counts = Counter(record.answers[0].text for record in records)
        assert max(counts.values()) / len(records) <= bound, (task, counts)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


@pytest.mark.parametrize("split", ["pretrain", "train"])
def test_a_random_box_seldom_fits(world_dir: Path, split: str) -> None:
    """Boxes of other rows, and the constant box that fits the most training rows."""
    train = [r.box for r in rows(world_dir, split, "grounding") if r.box]
    test = [r.box for r in rows(world_dir, "test", "grounding") if r.box]
    hits = [overlap(box, train[(7 * i) % len(train)]) >= 0.5 for i, box in enumerate(test)]
    assert np.mean(hits) <= 0.10
    best = max(train[:200], key=lambda box: sum(overlap(box, other) >= 0.5 for other in train))
    assert np.mean([overlap(best, box) >= 0.5 for box in test]) <= 0.10


def test_the_language_is_small(world_dir: Path) -> None:
    words = {
        word
        for task in TASKS
        for split in ("pretrain", "train")
        for record in rows(world_dir, split, task)
        for text in texts(record)
        for word in text.replace(",", " ").replace("?", " ").replace(":", " ").split()
    }
    assert len(words) < 250


# --- other handwriting, contact sheets, options ---


def test_a_bank_from_other_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from unival import config
    from unival.data.benchmarks.world.handwriting import HANDWRITING
    from unival.data.benchmarks.world.source import make_source
    from unival.data.benchmarks.world.splits import WorldOptions
    from unival.data.source import MediaItem

    images = np.zeros((20, 16, 16), np.uint8)
    images[:, 3:12, 5:9] = 255
    (tmp_path / "blocks").mkdir()
    HANDWRITING.register("blocks")(lambda folder: (images, np.arange(20) % 10))
    options = world_options(sizes={"tiny": sizes(4, 4, 4)}, handwriting=["blocks"])
    built = config.build(WorldOptions, options, "test")
    monkeypatch.delenv("UNIVAL_DATA", raising=False)
    assert "ood-handwriting" not in {item.split for item in make_source(built).items}
    monkeypatch.setenv("UNIVAL_DATA", str(tmp_path))
    found = [item for item in make_source(built).items if item.split == "ood-handwriting"]
    assert sum(isinstance(item, MediaItem) for item in found) == 8
    captions = [item.row for item in found if not isinstance(item, MediaItem) and item.task == "caption"]
    assert all(any("digit" in name for name in record.objects) for record in captions)
    with pytest.raises(UserError, match="all ten digits"):
        bank_from_arrays(images, np.zeros(20, int), "zeros")


@pytest.mark.parametrize("task", ["grounding", "video_qa", "audio_caption"])
def test_contact_sheets_show_each_medium(world_dir: Path, tmp_path: Path, task: str) -> None:
    from PIL import Image

    path = tmp_path / "sheet.png"
    contact_sheet(world_dir / "test", task, path, rows=6)
    with Image.open(path) as sheet:
        assert sheet.width == 1200 and sheet.height > 200
        assert len(sheet.convert("L").getcolors() or []) > 20


@pytest.mark.fault
@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": "big"}, "size 'big' is not one of"),
        ({"image_size": 20}, "at least 40 pixels"),
        ({"video_size": 41}, "an even number"),
        ({"video_frames": 2}, "at least 4 frames"),
        ({"questions": 0}, "at least 1"),
        ({"colours": 3}, "unknown key 'colours'"),
        ({"seed": "a"}, "seed: expected int"),
        ({"sizes": {"tiny": {"train": {"images": 0, "videos": 1, "sounds": 1}}}}, "missing key"),
        ({"sizes": {"tiny": {**sizes(4, 4, 4), "val": {"images": 4, "videos": 4}}}}, "val: .* at least 1"),
        ({"sizes": {"tiny": {**sizes(4, 4, 4), "pretrain": sizes(4, 4, 4)["train"]}}}, "hears nothing"),
        ({"noise": {**NOISE, "wrong": 1.5}}, "noise.wrong is 1.5: it must be from 0 to 1"),
    ],
)
def test_bad_options_are_explained(change: dict, message: str) -> None:
    from unival import config
    from unival.data.benchmarks.world.splits import WorldOptions

    options = world_options(**change)
    with pytest.raises(UserError, match=f"world.yaml: .*{message}"):
        config.build(WorldOptions, options, "world.yaml")


def test_the_shipped_configuration_builds() -> None:
    from unival import config
    from unival.data.benchmarks.world.splits import WorldOptions
    from unival.data.prepare import PrepareConfig
    from unival.data.shifts import SHIFTS

    path = Path(__file__).parents[2] / "conf" / "benchmark" / "world.yaml"
    built = config.build(PrepareConfig, config.load(path), str(path))
    for size in ("smoke", "quick", "full"):
        options = config.build(WorldOptions, {**built.options, "size": size}, str(path))
        assert size == "smoke" or options.sizes[size].test.sounds >= 500
    assert sorted(file.stem for file in path.parents[1].glob("shift/*.yaml")) == SHIFTS.names()
