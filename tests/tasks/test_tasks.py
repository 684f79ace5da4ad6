"""Prompts and targets of the paper (docs/reference.md 2.4, 3.2, 3.3); negatives; scores; baselines."""

import itertools
import re

import numpy as np
import pytest

from tests.tasks import world
from unival.data.manifest import ManifestWriter, read_records
from unival.errors import UserError
from unival.record import Answer, Record
from unival.tasks import TASKS
from unival.tasks.text import normalise, normalise_caption, strip_punctuation

RNG = np.random.default_rng(0)


def rng(seed=0):
    return np.random.default_rng(seed)


def pairs(examples):
    return [(example.prompt, example.target) for example in examples]


MEDIA = [("caption", "image"), ("video_caption", "video"), ("audio_caption", "audio")]


@pytest.mark.parametrize(("name", "modality"), MEDIA)
def test_captioning(name, modality):
    row = Record("r", references=("A Red, square-ish <person>!",), **{modality: "1"})
    task = world.task(name)
    seen = set()
    for seed in range(40):
        main, match = task.training(row, rng(seed))
        assert (
            main.prompt == f" what does the {modality} describe?"
            and main.target == " a red, square ish person!"
        )
        assert main.media == match.media == ((modality, "1"),)
        shown = re.fullmatch(rf' does the {modality} describe " (.*) "\?', match.prompt)[1]
        assert match.target == (" yes" if shown == "a red, square ish person!" else " no")
        seen.add(match.target)
    assert seen == {" yes", " no"}
    assert pairs(task.finetuning(row, rng())) == [(main.prompt, " A Red squareish person")]
    assert task.inference(row).prompt == f" what does the {modality} describe?"
    assert task.parse("a cat, sitting.", row) == "a cat sitting"


def test_matching_is_true_half_of_the_time():
    task, row = world.task("caption"), world.record("caption", 3)
    answers = [task.training(row, rng(seed))[1].target for seed in range(400)]
    assert 0.42 < answers.count(" yes") / 400 < 0.58


def test_object_negatives_replace_one_mention_by_another_object():
    task, row = world.task("caption"), world.record("caption", 0)
    negatives = {task.negative("a red square on the mat", row, rng(seed)) for seed in range(100)}
    replaced = {text for text in negatives if text.endswith("on the mat")}
    assert replaced and all("red square" not in text for text in replaced)
    assert len(negatives) > len(replaced)  # the rest are captions of other rows
    own = {normalise_caption(reference, 30) for reference in row.references}
    assert not negatives & own


def test_caption_negatives_are_drawn_from_all_captions(tmp_path):
    captions = [(), ("a cat", "A dog-like cat"), (), ("a cow",), ()]
    rows = [Record(f"r{number}", image="0", references=texts) for number, texts in enumerate(captions)]
    with ManifestWriter(tmp_path, "caption") as writer:
        for row in rows:
            writer.add(row)
    for train in (rows, read_records(tmp_path, "caption")):
        task = world.task("caption")
        task.train = train
        assert list(task._captions) == ["a cat", "a dog like cat", "a cow"]
        assert task.negative("a cow", rows[3], rng()) in {"a cat", "a dog like cat"}


def test_question_answering():
    answers = (Answer("blue", 0.3), Answer("red", 0.9))
    row = Record("r", image="1", text="What color is the square", form="color", answers=answers)
    task = world.task("vqa")
    main, match = task.training(row, rng(1))
    assert (main.prompt, main.target, main.weight) == (" what color is the square", " red", 0.9)
    assert match.weight == 0.9
    for seed in range(30):
        match = task.training(row, rng(seed))[1]
        pattern = r' what is the answer to question " what color is the square "\. is " (\w+) "\?'
        shown = re.fullmatch(pattern, match.prompt)[1]
        assert match.target == (" yes" if shown == "red" else " no") and shown != "blue"
    (tuned,) = task.finetuning(row, rng())
    assert (tuned.prompt, tuned.target, tuned.decoder_prompt) == (" what color is the square?", " red", "")
    (prompted,) = world.task("vqa", prompt_type="prev_output").finetuning(row, rng())
    assert prompted.decoder_prompt == prompted.prompt == " what color is the square?"


def test_counting_negatives_may_be_one_off():
    row = Record("r", image="1", text="how many shapes are there", form="count", answers=(Answer("2"),))
    task = world.task("vqa")
    assert {"1", "3"} <= {task.negative(row, row.answers[0], rng(seed)) for seed in range(60)}


def test_grounding_and_its_inverse():
    row = world.record("grounding", 0)
    task = world.task("grounding")
    bins = world.processor().box_to_bins(row.box, (32, 32))
    assert re.fullmatch(r"( <bin_\d+>){4}", bins)
    main, inverse = task.training(row, rng())
    assert (main.prompt, main.target) == (' which region does the text " the red square " describe?', bins)
    assert inverse.prompt == f"  what does the region describe? region:{bins}"
    assert inverse.target == " the red square"
    assert pairs(task.finetuning(row, rng())) == [(main.prompt, main.target)]
    assert world.task("grounded_caption").inference(row).prompt == inverse.prompt
    assert task.parse("<bin_1> <bin_2> red", row) is None
    np.testing.assert_allclose(task.parse(bins, row), row.box, atol=32 / 19 / 2 + 1e-3)
    value, missing = task.scores([row.box, None], [row, row])["acc@0.5"]
    assert (value, missing) == (1.0, 0.0)


def test_entailment_and_matching():
    more = {"answers": (Answer("maybe"),), "extra": {"premise": "A pet."}}
    row = Record("r", image="1", text="There is a cat-like dog", **more)
    prompt = ' does the image describe " there is a cat like dog "?'
    assert pairs(world.task("entailment").finetuning(row, rng())) == [(prompt, " maybe")]
    variant = world.task("entailment", prompt=' can image and text1 " {premise} " imply text2 " {text} "?')
    expected = ' can image and text1 " a pet. " imply text2 " there is a cat like dog "?'
    assert variant.inference(row).prompt == expected
    assert world.task("matching").inference(row).prompt == prompt
    video = Record("r", video="1", text="a dog", answers=(Answer("yes"),))
    assert world.task("video_matching").inference(video).prompt == ' does the video describe " a dog "?'


@pytest.mark.parametrize(("name", "kept"), [("text_infilling", 14), ("masked_language", 17)])
def test_hidden_words(name, kept):
    words = [f"w{number}" for number in range(20)]
    row = Record("r", references=(" ".join(words),), image="1")
    prompt = ' what is the complete text of " {text} "?'
    task = world.task("caption", kind=name, prompt=prompt, pair_prompt="", metric="exact")
    for seed in range(50):
        (example,) = task.training(row, rng(seed))
        start, end = prompt.split("{text}")
        shown = example.prompt.removeprefix(start).removesuffix(end).split()
        assert [word for word in shown if word != "<mask>"] == [word for word in words if word in shown]
        assert len(set(shown) - {"<mask>"}) == kept and example.media == ()
        assert example.target == " " + " ".join(words)
        if name == "masked_language":
            assert len(shown) == 20
        else:
            assert ("<mask>", "<mask>") not in itertools.pairwise(shown)
    assert task.modalities == () == task.media(row)  # whatever picture the row has
    asked = task.inference(row)
    assert asked == task.inference(row) and "<mask>" in asked.prompt and not asked.target
    assert "<mask>" in task.inference(Record("s", references=("one",), image="1")).prompt


def test_text_normalisation():
    assert normalise("  ?!A  Cat-Dog/Cow  runs", 3) == "?!a cat dog"
    assert normalise("...A <person> runs", 9) == "a <person> runs"
    assert normalise_caption("A <person> runs", 9) == "a person runs"
    assert strip_punctuation("It's a half-open, RED door.", 4) == "Its a halfopen RED"


@pytest.mark.parametrize("name", world.TASKS)
def test_every_task_gives_examples_scores_and_baselines(name):
    task, rows = world.task(name), world.records(name)
    for row in rows:
        for example in [*task.training(row, rng()), *task.finetuning(row, rng()), task.inference(row)]:
            assert example.prompt.startswith(" ") and len(example.media) == 1
    constants = [task.constant(row) for row in rows]
    scores = task.scores(constants, rows)
    assert task.primary in scores
    assert all(values.shape == (len(rows),) and np.isfinite(values).all() for values in scores.values())
    if task.config.constraint == "answers":
        known = {answer.text for row in task.train for answer in row.answers}
        assert set(task.answers()) == known and set(constants) <= known


def test_answers_come_from_the_training_rows_alone():
    row = Record("r", image="1", text="what?", answers=(Answer("zebra"),), form="new")
    task = world.task("vqa")
    task.scores(["zebra"], [row])
    task.training(row, rng())
    assert "zebra" not in task.answers() and task.constant(row) == task.majority


def test_the_kinds_are_registered_and_a_wrong_metric_is_named():
    kinds = ["captioning", "choosing", "grounded_captioning", "grounding", "masked_language"]
    assert TASKS.names() == [*kinds, "question_answering", "text_infilling"]
    with pytest.raises(UserError, match=r"metric 'cider' is not one of accuracy"):
        world.task("entailment", metric="cider")
    with pytest.raises(UserError, match="did you mean 'captioning'"):
        world.task("caption", kind="captionning")


def test_a_row_without_what_the_task_needs_is_named():
    for name, what in (("caption", "image"), ("vqa", "answer"), ("grounding", "box")):
        row = Record("row-7", image=None if name == "caption" else "1", references=("a",))
        with pytest.raises(UserError, match=f"row 'row-7'.*{what}"):
            world.task(name).training(row, rng())


def test_answers_of_evaluated_rows_are_allowed_by_a_named_option_only():
    rows = [Record("e", image="0", text="?", answers=(Answer("xylophone"),))]
    task = world.task("vqa")
    assert "xylophone" not in task.answers()
    task.leaked = rows
    assert (
        set(task.answers()) - {"xylophone"} == set(world.task("vqa").answers())
        and "xylophone" in task.answers()
    )
    assert task.majority == world.task("vqa").majority
