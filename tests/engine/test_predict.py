"""Prediction and evaluation on a tiny model: every task, determinism, batches, baselines."""

import json

import numpy as np
import pytest
import torch

from tests.tasks import world
from unival.engine.batches.rows import Rows
from unival.engine.inference.evaluate import (
    blind_baselines,
    evaluate_cell,
    score_cell,
    swap_media,
    swapped_baseline,
)
from unival.engine.inference.predict import predict
from unival.engine.inference.predictions import write_predictions
from unival.errors import UserError

STORE = world.Store()


def run(name, rows=None, store=STORE, changes=None, **options):
    task = world.task(name, **(changes or {}))
    rows = Rows(task, rows or world.records(name), store)
    return predict(world.model(), world.processor(), rows, **options)


@pytest.mark.parametrize("name", world.TASKS)
def test_every_task_is_evaluated_end_to_end(name, tmp_path):
    task = world.task(name)
    rows = Rows(task, world.records(name), STORE)
    cell = evaluate_cell(world.model(), world.processor(), rows, batch_size=7, resamples=200)
    value = cell.metrics[cell.primary]
    assert cell.n == len(rows.records) and value.low <= value.value <= value.high
    assert value.value == pytest.approx(cell.scores[cell.primary].mean())
    for prediction in cell.predictions:
        if task.config.constraint == "answers":
            assert prediction.value in task.answers() and 0 < prediction.score <= 1 + 1e-5
        if task.config.constraint == "boxes":
            x0, y0, x1, y1 = prediction.value
            assert 0 <= x0 <= x1 <= 32.1 and 0 <= y0 <= y1 <= 32.1
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, rows.records, cell.predictions, cell.scores)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == cell.ids
    assert cell.primary in lines[0]["scores"]
    baselines = blind_baselines(rows, 100)
    baselines["swapped"] = swapped_baseline(world.model(), world.processor(), rows, resamples=100)
    for name, interval in baselines.items():
        assert interval.low <= interval.value <= interval.high, name


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("name", ["caption", "vqa", "grounding", "video_caption"])
def test_asking_for_alternatives_changes_no_answer(name, beams):
    """What is served is what is scored, whatever the number of beams."""
    own = {"decode": {"search": "beam", "beams": beams}}
    alone, asked = (run(name, changes=own, alternatives=number) for number in (0, 3))
    assert [row.text for row in alone] == [row.text for row in asked]
    for one, other in zip(alone, asked, strict=True):
        texts = [text for text, _ in other.alternatives]
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert len(texts) <= 3 and other.text not in texts


@pytest.mark.parametrize("name", ["caption", "vqa", "grounding", "entailment", "video_qa"])
def test_predictions_depend_neither_on_the_batch_nor_on_the_call(name):
    first = run(name, batch_size=12)
    for size in (1, 5):
        again = run(name, batch_size=size)
        assert [p.text for p in again] == [p.text for p in first]
        np.testing.assert_allclose([p.score for p in again], [p.score for p in first], rtol=1e-3, atol=1e-6)
    assert run(name, batch_size=12) == first


def test_samples_depend_on_row_and_seed_alone():
    decode = {"search": "sample", "max_tokens": 8, "temperature": 2.0, "top_k": 50, "top_p": 0.95, "seed": 1}
    texts = [p.text for p in run("caption", changes={"decode": decode}, batch_size=12)]
    assert [p.text for p in run("caption", changes={"decode": decode}, batch_size=5)] == texts
    other = run("caption", changes={"decode": {**decode, "seed": 2}}, batch_size=12)
    assert [p.text for p in other] != texts
    for bad in ({"beams": 2}, {"temperature": 0.0}, {"top_p": 0.0}):
        with pytest.raises(UserError, match="decode"):
            world.task("caption", decode={**decode, **bad})


def test_media_shared_by_rows_are_encoded_once(monkeypatch):
    model = world.model()
    seen = []
    original = model.encoder.media["image"].forward
    monkeypatch.setattr(
        model.encoder.media["image"], "forward", lambda values: seen.append(len(values)) or original(values)
    )
    run("vqa", batch_size=12)
    assert seen == [6]


@pytest.mark.parametrize("prompt_type", ["none", "prev_output"])
def test_beam_in_the_trie_agrees_with_all_candidates(prompt_type):
    exact = run("vqa", changes={"prompt_type": prompt_type}, alternatives=3)
    changes = {"prompt_type": prompt_type, "decode": {"search": "beam", "beams": 12}}
    beams = run("vqa", changes=changes, alternatives=3)
    assert [p.value for p in beams] == [p.value for p in exact]
    np.testing.assert_allclose([p.score for p in beams], [p.score for p in exact], rtol=2e-3)
    for one, other in zip(exact, beams, strict=True):
        assert [text for text, _ in one.alternatives] == [text for text, _ in other.alternatives]


def test_candidate_scores_equal_the_forward_pass():
    task, (row, *_) = world.task("entailment"), world.records("entailment")
    processor, model = world.processor(), world.model()
    (prediction,) = predict(model, processor, Rows(task, [row], STORE), alternatives=2)
    inputs = processor(images=[STORE.image(row.image)], text=[task.inference(row).prompt])
    tokens = [processor.tokenizer.encode_text(f" {answer}") for answer in task.answers()]
    assert all(len(answer) == 1 for answer in tokens)
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
    expected = logits[[answer[0] for answer in tokens]].softmax(0)
    found = dict([(prediction.text, prediction.score), *prediction.alternatives])
    np.testing.assert_allclose([found[a] for a in task.answers()], expected.tolist(), rtol=1e-4)


def test_greedy_captions_equal_generate_of_transformers():
    task, rows = world.task("caption", decode={"max_tokens": 8}), world.records("caption", 6)
    processor, model = world.processor(), world.model()
    texts = [p.text for p in predict(model, processor, Rows(task, rows, STORE))]
    prompts = [task.inference(row).prompt for row in rows]
    inputs = processor(images=[STORE.image(row.image) for row in rows], text=prompts)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=9, min_new_tokens=2)
    for text, expected in zip(texts, processor.batch_decode(ids), strict=True):
        assert expected.startswith(text) or text == expected


def test_swapped_media_are_a_derangement_of_the_split():
    task, rows = world.task("vqa"), world.records("vqa")
    swapped = swap_media(Rows(task, rows, STORE)).records
    assert all(one.image != other.image for one, other in zip(rows, swapped, strict=True))
    assert {row.image for row in swapped} == {row.image for row in rows}
    assert [row.text for row in swapped] == [row.text for row in rows]
    same = [row for row in rows if row.image == "0"]
    with pytest.raises(UserError, match="cannot swap"):
        swap_media(Rows(task, same, STORE))


class FewFrames(world.Store):
    """Notes how many frames and at what rate media are asked for."""

    def __init__(self):
        self.asked = []

    def video(self, key, num_frames, rng=None):
        self.asked.append(num_frames)
        return super().video(key, num_frames, rng)

    def audio(self, key, sampling_rate):
        self.asked.append(sampling_rate)
        return super().audio(key, sampling_rate)


@pytest.mark.parametrize(
    ("name", "setting"), [("video_caption", "video_frames"), ("audio_caption", "sampling_rate")]
)
def test_cached_media_are_those_that_the_processor_asks_for(name, setting):
    store, processor = FewFrames(), world.processor()
    rows = Rows(world.task(name), world.records(name, 1), store)
    usual = getattr(processor, setting)
    for value in (usual, usual, usual // 2):
        setattr(processor, setting, value)
        predict(world.model(), processor, rows)
    assert store.asked == [usual, usual // 2]


def test_a_shift_reaches_the_model():
    rows = world.records("caption")
    seen = []

    def corrupt(modality, array, key):
        seen.append((modality, key))
        return np.zeros_like(array)

    run("caption", rows, corrupt=corrupt)
    assert set(seen) == {("image", row.image) for row in rows}


def test_predictions_of_other_rows_are_refused():
    task, rows = world.task("vqa"), world.records("vqa")
    predictions = run("vqa", rows)
    with pytest.raises(UserError, match="other rows"):
        score_cell(Rows(task, rows[::-1], STORE), predictions)
    with pytest.raises(UserError, match="no rows"):
        score_cell(Rows(task, [], STORE), [])
