"""Results of a study that nobody ran: a small split with media of every kind, and plausible tables."""

import csv
import json
from pathlib import Path

import numpy as np
import yaml

from unival import files
from unival.data import media
from unival.data.manifest import ManifestWriter
from unival.data.store import ShardWriter
from unival.record import Answer, Record

CONF = Path(__file__).parents[2] / "conf"
IMAGE_TASKS = ("caption", "vqa", "grounding", "entailment")
TASKS = (*IMAGE_TASKS, "video_caption", "video_qa", "audio_caption")
PRETRAINED_TASKS = ("matching", "grounded_caption")
METRIC = {"vqa": "vqa_accuracy", "grounding": "acc@0.5"}
VALUE = {"caption": 1.1, "vqa": 0.84, "grounding": 0.66, "entailment": 0.41, "video_caption": 0.9}
BLIND = {"caption": 0.7, "vqa": 0.45, "grounding": 0.08, "entailment": 0.38, "video_caption": 0.4}
STORED = ("ood-composition", "ood-crowding", "ood-phrasing")
SHIFTS = {"image": ("blur", "noise", "contrast", "compression"), "video": (), "audio": ("audio_noise",)}
ROWS = 6
LEADERBOARD = """model part tasks mean mean_low mean_high share share_low share_high worst worst_low
    worst_high worst_task front robustness updates"""
PAIRS = """first second task barrier barrier_low barrier_high barrier_at middle minus_best minus_best_low
    minus_best_high p minus_mean minus_mean_low minus_mean_high"""
FRONTS = "first second first_task second_task on_front points area area_of_ends gain gain_low gain_high"


def metric(task):
    """The primary metric of a task."""
    return METRIC.get(task, "cider" if "caption" in task else "accuracy")


def modality(task):
    """What a task looks at."""
    return task.split("_")[0] if task.startswith(("video", "audio")) else "image"


def write_data(folder):
    """A test split of a few rows per task, and the benchmark's description."""
    rng = np.random.default_rng(0)
    split = folder / "test"
    with ShardWriter(split) as shards:
        for number in range(ROWS):
            image = rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)
            clip = rng.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
            sound = np.sin(np.arange(8000) * (0.1 + 0.05 * number)).astype(np.float32)
            shards.add(f"image-{number}", "image", ".png", media.encode_image(image), 40, 32)
            shards.add(f"video-{number}", "video", ".mp4", media.encode_video(clip), 32, 32)
            shards.add(f"audio-{number}", "audio", ".wav", media.encode_wav(sound, 8000))
    for task in (*TASKS, *PRETRAINED_TASKS):
        with ManifestWriter(split, task) as rows:
            for number in range(ROWS):
                rows.add(record(task, number))
    facts = {"name": folder.name, "seed": 0, "splits": {"test": {"digest": "0123", "rows": {}}}}
    files.write_json(folder / "benchmark.json", facts)


def record(task, number):
    """One row."""
    kind = modality(task)
    fields = {kind: f"{kind}-{number}"}
    if "ground" in task:
        fields |= {"text": "the red square", "box": (4.0, 5.0, 20.0, 25.0)}
    if "caption" in task:
        fields["references"] = ("a red square", "a <red> square | and more")
    elif task != "grounding":
        fields |= {"text": "is there a red square?", "answers": (Answer("yes"), Answer("maybe", 0.3))}
    return Record(f"{task}-{number}", **fields)


def table(path, columns, rows):
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns.split())
        writer.writerows(rows)


def around(value, width=0.04):
    """A value with an interval."""
    return round(value, 4), round(value - width, 4), round(value + width, 4)


def cells():
    """Lines of cells.csv."""
    for kind, share in (("finetuned", 1.0), ("merged", 0.93), ("pretrained", 0.7)):
        for task in TASKS:
            if kind == "merged" and task == "audio_caption":
                continue
            names = {"finetuned": f"finetune/{task}", "pretrained": "pretrain/video_text"}
            merge = "average" if modality(task) == "image" else "average_video"
            name = names.get(kind, f"merged/{merge}")
            value = VALUE.get(task, 0.75) * share
            yield name, kind, task, "test", "", "", metric(task), 1, *around(value), 500
            yield name, kind, task, "test", "", "", "exact", 0, *around(value / 2), 500
            if kind == "pretrained":
                continue
            for place, split in enumerate(STORED[: 3 if modality(task) == "image" else 2]):
                worse = value * (0.85 - 0.15 * place)
                yield name, kind, task, split, "", "", metric(task), 1, *around(worse, 0.06), 200
            for place, shift in enumerate(SHIFTS[modality(task)]):
                for severity in (1, 3, 5):
                    worse = value * (1 - severity * (0.05 + 0.03 * place))
                    yield (
                        name,
                        kind,
                        task,
                        "test",
                        shift,
                        severity,
                        metric(task),
                        1,
                        *around(worse, 0.06),
                        200,
                    )
    for task in PRETRAINED_TASKS:
        yield "pretrain/video_text", "pretrained", task, "test", "", "", "accuracy", 1, *around(0.8), 500


def comparisons():
    """Lines of comparisons.csv."""
    for task in IMAGE_TASKS:
        for other, difference in ((f"finetune/{task}", -0.05), ("pretrain/video_text", 0.1)):
            yield "merged/average", other, task, "test", metric(task), *around(difference, 0.03), 500
        start = "pretrain/video_text"
        yield f"finetune/{task}", start, task, "test", metric(task), *around(0.2, 0.03), 500
        yield "merged/average", f"finetune/{task}", task, STORED[0], metric(task), *around(0.01), 200


def lines():
    """Lines of interpolation.csv."""
    for first, second in (("caption", "vqa"), ("vqa", "grounding"), ("video_caption", "video_qa")):
        for step in range(7):
            alpha = round(step / 6, 4)
            for task, near in ((first, 1 - alpha), (second, alpha)):
                value = VALUE.get(task, 0.75) * (0.3 + 0.7 * near**0.4)
                yield first, second, alpha, task, metric(task), *around(value, 0.05), ROWS


def studies():
    """study -> lines of its table."""
    made = {
        "multitask": [("multitask", "vqa"), ("multitask", "grounding"), ("only_vqa", "vqa")],
        "video": [("images", "vqa"), ("images", "video_qa"), ("images_and_video", "vqa")],
        "audio": [("from_scratch", "audio_caption"), ("from_pretrained", "audio_caption")],
        "balancing": [("balanced", "vqa"), ("proportional", "vqa")],
    }
    made["multitask"] += [
        ("only_vqa", "grounding"),
        ("only_grounding", "vqa"),
        ("only_grounding", "grounding"),
    ]
    made["video"] += [("images_and_video", "video_qa")]
    gain = {"only_vqa": -0.15, "only_grounding": -0.3, "images_and_video": 0.02, "from_pretrained": 0.4}
    for study, found in made.items():
        baseline = found[0][0]
        for variant, task in found:
            paired = around(gain.get(variant, -0.01)) if variant != baseline else ("", "", "")
            for seed in (0, 1):
                yield study, (study, variant, baseline, seed, task, metric(task), *around(0.6), 300, *paired)


def write_results(root, data):
    """Everything that the stages write, for the records in `data`."""
    reports = root / "reports"
    tasks = {}
    for task in (*TASKS, *PRETRAINED_TASKS):
        value, low, high = around(VALUE.get(task, 0.75))
        model = "pretrain/video_text" if task in PRETRAINED_TASKS else f"finetune/{task}"
        blind = BLIND.get(task, 0.5)
        other = {"exact": around(value / 2)} | ({"correct": around(0.4)} if "caption" in task else {})
        tasks[task] = {"model": model, "metric": metric(task), "value": value, "low": low, "high": high}
        tasks[task] |= {"n": 500, "blind": blind, "blind_kind": "constant"}
        tasks[task] |= {"majority": None if task == "grounding" else blind - 0.05}
        tasks[task] |= {"metrics": {metric(task): (value, low, high), **other}}
        write_predictions(reports / "predictions" / model / task / "test.jsonl", task, data)
    files.write_json(reports / "metrics/tasks.json", tasks)
    columns = "model kind task split shift severity metric primary value low high n"
    table(reports / "metrics/cells.csv", columns, cells())
    table(
        reports / "metrics/comparisons.csv",
        "model against task split metric difference low high n",
        comparisons(),
    )
    table(reports / "metrics/interpolation.csv", "first second alpha task metric value low high n", lines())
    write_merging(reports / "metrics")
    columns = (
        "study variant baseline seed task metric value low high n difference difference_low difference_high"
    )
    found = list(studies())
    for study in dict.fromkeys(name for name, _ in found):
        table(reports / f"ablations/{study}.csv", columns, [row for name, row in found if name == study])
    columns = "study variant seed step module first second cosine norm_first norm_second"
    table(reports / "ablations/conflict.csv", columns, conflict())
    write_curves(reports / "curves")
    write_runs(root)


def conflict(seeds=(0, 1)):
    """Cosines of the gradients of two tasks, and of each with itself."""
    found = {("caption", "caption"): 0.64, ("caption", "vqa"): -0.2, ("vqa", "vqa"): 0.36}
    for seed in seeds:
        for step in (0, 200, 400):
            for module in ("all", "encoder.layers"):
                for (first, second), cosine in found.items():
                    yield ("video", "images", seed, step, module, first, second, cosine + 0.1 * seed, 1, 2)


def write_merging(folder):
    """Leaderboard, pairs, fronts and geometry."""
    models = {"experts": 1.0, "pretrain/video_text": 0.7, "merged/average": 0.93, "merged/ties": 0.9}
    tasks = " ".join(IMAGE_TASKS)
    rows = [
        (model, part, tasks, *around(0.7 * share), *around(share), *around(share - 0.1), "vqa",
         int(model != "merged/ties"), "" if part == "id" else 0.02, 600)
        for part in ("id", "ood") for model, share in models.items()
    ]  # fmt: skip
    table(folder / "leaderboard.csv", LEADERBOARD, rows)
    rows = [
        ("caption", "vqa", task, 0.02, 0, 0.05, 0.33, 0.6, difference, difference - 0.1, difference + 0.1, p,
         *around(difference + 0.1))
        for task, difference, p in (("caption", -0.2, 0.01), ("vqa", 0.05, 0.4))
    ]  # fmt: skip
    table(folder / "pairs.csv", PAIRS, rows)
    write_subsets(folder / "subsets.csv")
    rows = [("caption", "vqa", "caption", "vqa", 5, 7, 0.9, 0.8, *around(0.1))]
    table(folder / "fronts.csv", FRONTS, rows)
    columns = "module first second cosine norm_first norm_second relative_first relative_second"
    rows = [
        (
            module,
            first,
            second,
            1.0 if first == second else "" if module == "empty" else 0.2,
            1,
            2,
            0.01,
            0.02,
        )
        for module in ("all", "empty")
        for place, first in enumerate(IMAGE_TASKS)
        for second in IMAGE_TASKS[place:]
    ]
    table(folder / "geometry.csv", columns, rows)


def write_subsets(path):
    """Averages of two experts, these alone, and their start."""
    columns = """experts task metric value low high n minus_pretrained minus_pretrained_low
        minus_pretrained_high minus_expert minus_expert_low minus_expert_high"""
    none, rows = ("", "", ""), []
    for experts, gains in (
        ("", (0, 0)),
        ("caption", (0.3, -0.1)),
        ("vqa", (-0.1, 0.3)),
        ("caption vqa", (0.2, 0.1)),
    ):
        for task, gain in zip(("caption", "vqa"), gains, strict=True):
            start, own = around(gain) if experts else none, none if experts == task else around(gain - 0.3)
            rows.append((experts, task, metric(task), *around(0.5 + gain), 200, *start, *own))
    table(path, columns, rows)


def write_predictions(path, task, data):
    """Rows of a task, the first half answered right."""
    from unival.data.manifest import read_records

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for place, row in enumerate(read_records(data / "test", task)[:ROWS]):
        good = place < ROWS // 2
        line = {"id": row.id, "media": dict(row.media()), "text": row.text}
        line |= {"box": list(row.box)} if row.box else {}
        line |= {"references": list(row.references), "answers": {a.text: a.weight for a in row.answers}}
        line |= {"output": "yes" if good else "no", "prediction": "yes" if good else "no", "probability": 0.5}
        line["scores"] = {metric(task): float(good)}
        if row.box and task == "grounding":
            line["scores"] |= {"iou": 0.8 * good}
            shifted = [v + (2 if good else -9) for v in row.box]
            line |= {"prediction": shifted, "output": f"<bin_1><bin_2><bin_3><bin_{4 + place}>"}
        rows.append(json.dumps(line))
    path.write_text("\n".join(rows) + "\n")


def write_curves(folder):
    """Learning curves of two phases and of every expert."""
    parts = ("caption", "grounding", "vqa", "video_caption", "video_qa")
    for phase in ("image_text", "video_text"):
        rows = [[s, *(6 / (1 + s / 60) + 0.2 * i for i in range(len(parts)))] for s in range(20, 700, 20)]
        table(folder / f"pretrain-{phase}.csv", "step " + " ".join(f"train/loss/{p}" for p in parts), rows)
    for number, task in enumerate(TASKS):
        rows = [[step, 3 / (1 + step / 50) + 0.1 * number] for step in range(10, 160, 10)]
        table(folder / f"finetune-{task}.csv", "step train/loss", rows)
        rows = [[step, 0.5 + step / 400 - 0.03 * number] for step in (50, 100, 150)]
        table(folder / f"finetune-{task}-validation.csv", "step val/score", rows)


def write_runs(root):
    """What ran, and with which configuration."""
    train = {"steps": 150, "mixture": {"rows": 32}, "optimizer": {"lr": 5e-4}, "seed": 0}
    configs = {f"finetune/{task}": {"train": train, "init": "models/pretrain/video_text"} for task in TASKS}
    streams = [{"task": task} for task in ("caption", "vqa", "grounding", "video_caption", "video_qa")]
    first = {**train, "mixture": {"rows": 48, "streams": streams}}
    configs |= {"pretrain/image_text": {"train": first, "init": None}}
    configs |= {"pretrain/video_text": {"train": first, "init": "models/pretrain/image_text"}}
    tasks = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "task").glob("*.yaml")}
    configs |= {"evaluate": {"tasks": tasks, "rows": 500, "severities": [1, 3, 5]}, "merge": {}}
    configs |= {"ablate": {"seeds": [0], "rows": 300, "definitions": {}}}
    configs |= {"prepare": {"benchmark": {"options": {"seed": 0}}}}
    for name, config in configs.items():
        path = root / f"build/config/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config))
        run = {"stage": name.split("/")[0], "item": None, "config_hash": "0123456789abcdef"}
        run |= {"run_id": "f" * 32, "seconds": 75.2, "peak_mib": 1200}
        run |= {"machine": {"processor": "CPU", "instructions": "AVX2", "threads": 1, "ranks": 2}}
        run |= {"code": {"digest": "d" * 16, "commit": "c" * 40, "uncommitted": ""}}
        files.write_json(root / f"reports/runs/{name.replace('/', '-')}.json", run)
