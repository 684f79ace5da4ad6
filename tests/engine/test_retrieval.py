"""Retrieval by captioning and matching, and vectors: every pair and item is read as if it were alone."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tasks import world
from unival.cli import main
from unival.data.importing import import_dataset
from unival.engine.inference import retrieval
from unival.engine.inference.embed import embed_media, embed_texts
from unival.engine.inference.predictor import Predictor
from unival.errors import UserError
from unival.record import Record

CAPTIONS = [("a dog", "it runs"), ("a cat on a very long red mat", "it runs"), ("a bird", "blue")]


@pytest.fixture
def predictor() -> Predictor:
    tasks = {name: world.task_config(name) for name in world.TASKS}
    return Predictor(world.model(), world.processor(), tasks)


@pytest.fixture
def rows(tmp_path: Path) -> Sequence[Record]:
    folder, found = tmp_path / "photos", []
    folder.mkdir()
    for number, captions in enumerate(CAPTIONS):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        found.append(Record(str(number), image=str(folder / f"{number}.png"), references=captions))
    return found


def test_captions_that_read_alike_are_one_text_of_all_their_media(rows: Sequence[Record]) -> None:
    found = retrieval.gallery(rows, 5)
    assert list(found.texts) == ["a dog", "it runs", "a cat on a very long red mat", "a bird", "blue"]
    assert found.relevant_MC.tolist() == [
        [True, True, False, False, False],
        [False, True, True, False, False],
        [False, False, False, True, True],
    ]
    assert len(retrieval.gallery(rows, 1).texts) == 3
    with pytest.raises(UserError, match="rows with captions"):
        retrieval.gallery([Record("0", image="a.png")], 5)


def test_a_pair_is_scored_by_the_odds_of_yes(
    predictor: Predictor, rows: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is batched with."""
    found = retrieval.gallery(rows, 5)
    odds = retrieval.matched(predictor, "image", found)
    monkeypatch.setattr(retrieval, "BATCH", 2)
    np.testing.assert_allclose(retrieval.matched(predictor, "image", found), odds, atol=1e-3)
    for medium, row in enumerate(rows):
        for place, text in enumerate(found.texts):
            made = predictor(str(row.image), text, "matching")
            yes = dict([(made.text, made.score), *made.alternatives])["yes"]
            assert 1 / (1 + np.exp(-odds[medium, place])) == pytest.approx(yes, abs=1e-4)


def test_a_pair_is_scored_by_the_caption_written_about_it_and_not_about_the_others(
    predictor: Predictor, rows: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training does, without punctuation; whatever it is batched with."""
    found = retrieval.gallery([*rows[:2], replace(rows[2], references=("a bird, it flies.",))], 5)
    scores_MC = retrieval.captioned(predictor, "image", found)
    monkeypatch.setattr(retrieval, "BATCH", 2)
    np.testing.assert_allclose(retrieval.captioned(predictor, "image", found), scores_MC, atol=1e-4)
    tokenizer, pictures = (
        predictor.processor.tokenizer,
        [predictor.store.image(str(row.image)) for row in rows],
    )
    asked = {"text": [world.task_config("caption").prompt] * len(rows), "images": pictures}
    for place, text in enumerate(found.texts):
        written = [
            *tokenizer.encode_text(f" {text.replace(',', '').replace('.', '')}"),
            tokenizer.eos_token_id,
        ]
        labels = torch.tensor([written] * len(rows))
        with torch.no_grad():
            logp_MTV = predictor.model(**predictor.processor(**asked), labels=labels).logits.log_softmax(-1)
        logp_M = logp_MTV.gather(2, labels[..., None]).double().sum((1, 2)).numpy()
        np.testing.assert_allclose(scores_MC[:, place], logp_M - np.log(np.exp(logp_M).mean()), atol=1e-3)
    with pytest.raises(UserError, match="too long a caption"):
        retrieval.captioned(
            predictor, "image", retrieval.gallery([replace(rows[0], references=("w" * 500,))], 5)
        )


def test_folds_are_searched_apart_and_count_together(rows: Sequence[Record]) -> None:
    def fold(row: int, odds: list[float]) -> tuple[retrieval.Gallery, np.ndarray]:
        return retrieval.gallery(rows[row : row + 2], 1), np.array([odds, odds[::-1]])

    found = {
        name: (recall.value, chance, queries)
        for name, recall, chance, queries in retrieval.recalls([fold(0, [2, 1]), fold(1, [1, 2])], "image")
    }
    assert found["image_to_text_r@1"] == (0.5, 0.5, 4)
    assert found["text_to_image_r@1"] == (0.5, 0.5, 4) and found["text_to_image_r@5"] == (1.0, 1.0, 4)


def test_a_vector_does_not_depend_on_what_it_is_batched_with(
    predictor: Predictor, rows: Sequence[Record]
) -> None:
    texts = ["a dog", "a very long text about a cat on a mat"]
    keys = [str(row.image) for row in rows]
    for made, alone in (
        (embed_texts(predictor, texts), [embed_texts(predictor, [text]) for text in texts]),
        (embed_media(predictor, "image", keys), [embed_media(predictor, "image", [key]) for key in keys]),
    ):
        np.testing.assert_allclose(made, np.concatenate(alone), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    with pytest.raises(UserError, match="tokens: shorten it"):
        embed_texts(predictor, ["word " * 1000])
    for text in (" ", "\udcff"):
        with pytest.raises(UserError, match="is no text"):
            embed_texts(predictor, [text])


def test_the_commands(
    rows: Sequence[Record],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the model of the package, on an imported table."""
    monkeypatch.setenv("UNIVAL_RUNTIME", "cpu")
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    sample = "src/unival/sample"
    lines = [f"{Path(str(row.image)).name},{caption}" for row in rows for caption in row.references]
    (tmp_path / "photos/test.csv").write_text("\n".join(["image,caption", *lines]))
    import_dataset("table", tmp_path / "photos", tmp_path / "mine")
    capsys.readouterr()
    main(["retrieve", sample, "--split", str(tmp_path / "mine/test")])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == [
        f"{name}_r@{depth}" for name in ("image_to_text", "text_to_image") for depth in (1, 5, 10)
    ]
    assert shown[0].endswith("n=3") and shown[-1].split()[1:4] == ["1.000", "[1.000,", "1.000]"]
    main(["retrieve", sample, "--split", str(tmp_path / "mine/test"), "--by", "matching"])
    assert capsys.readouterr().out.splitlines()[-1] == shown[-1]
    for words, why in (
        (("--by", "matching", "--modality", "audio"), "no task matches sounds with texts"),
        (("--rows", "0"), "give numbers from 1"),
    ):
        with pytest.raises(SystemExit):
            main(["retrieve", sample, "--split", "mine", *words])
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["retrieve", sample, "--split", str(tmp_path / "mine/test"), "--folds", "2"])
    assert "--folds 2: 3 media make no parts of one size" in capsys.readouterr().err
    main(["embed", sample, str(tmp_path / "photos"), "--text", "a dog", "--out", str(tmp_path / "v.npz")])
    found = np.load(tmp_path / "v.npz")
    assert found["names"].tolist() == [*(str(row.image) for row in rows), "a dog"]
    assert found["vectors"].shape == (4, 96)
    assert threads == [1] * 3  # of the runtime, for each command that had a model to run
    with pytest.raises(SystemExit):
        main(["embed", sample])
    assert "give a model folder, then files, folders or a --text" in capsys.readouterr().err


def test_commands_say_that_a_model_never_learned_a_medium(
    rows: Sequence[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = tmp_path / "deaf", tmp_path / "photos"
    shutil.copytree("src/unival/sample", model)
    (model / "training.json").write_text('{"media": ["audio"]}')
    lines = [f"{Path(str(row.image)).name},{row.references[0]}" for row in rows]
    (photos / "test.csv").write_text("\n".join(["image,caption", *lines]))
    import_dataset("table", photos, tmp_path / "mine")
    note = f"note: {model} was never trained on image: it guesses\n"
    main(["embed", str(model), str(photos), "--out", str(tmp_path / "v.npz")])
    assert note in capsys.readouterr().err
    main(["retrieve", str(model), "--split", str(tmp_path / "mine/test")])
    assert note in capsys.readouterr().err
