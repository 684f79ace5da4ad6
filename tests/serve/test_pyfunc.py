"""A model folder in MLflow's hands answers what the predictor answers."""

import base64
import json
import socket
import threading

import pandas as pd
import pytest
import requests
import uvicorn

from tests.serve import made
from unival.engine.inference.predictor import Predictor
from unival.errors import UserError

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.folder(tmp_path_factory.mktemp("models") / "model")


def row(modality, **fields):
    name, data = made.medium(modality)
    return {"file": base64.b64encode(data).decode(), "name": name, **fields}


ROWS = [row("image", text="is it red?"), row("video"), row("audio", alternatives=0)]


def test_load_model(folder, tmp_path):
    """Rows of one table may have other fields than their neighbours."""
    found = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame(ROWS))
    predictor = Predictor.load(folder)
    for (answer,), asked in zip(found, ROWS, strict=True):
        path = tmp_path / asked["name"]
        path.write_bytes(base64.b64decode(asked["file"]))
        expected = predictor(path, asked.get("text", ""), alternatives=asked.get("alternatives", 3))
        assert answer["answer"] == expected.text and answer["score"] == pytest.approx(
            expected.score, rel=1e-4
        )
    assert found[2][0]["alternatives"] == []


def test_what_the_model_never_learned_is_said_once(tmp_path, capsys):
    folder = made.folder(tmp_path / "model")
    (folder / "training.json").write_text('{"media": ["audio"]}')
    mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame([*ROWS, *ROWS]))
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [line.split("trained on ")[1] for line in notes] == ["image: it guesses", "video: it guesses"]


@pytest.mark.fault
def test_a_wrong_row_is_named(folder):
    model = mlflow.pyfunc.load_model(str(folder))
    with pytest.raises(UserError, match=r"a\.png: is image, but task 'audio_qa' needs audio"):
        model.predict(pd.DataFrame([row("image", task="audio_qa", text="a")]))
    for name, value, why in (
        ("second", "x", "unknown model 'x'"),
        ("t", 0.5, "give `second` too"),
        ("attention", True, "only `unival serve`"),
    ):
        with pytest.raises(UserError, match=why):
            model.predict(pd.DataFrame([row("image", **{name: value})]))


def test_its_server(folder):
    """What `mlflow models serve` runs."""
    from mlflow.pyfunc import scoring_server

    app = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        made.until(lambda: server.started)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/invocations"
        answer = requests.post(address, json={"dataframe_records": ROWS[:1]}, timeout=made.PATIENCE)
    finally:
        server.should_exit = True
        thread.join(made.PATIENCE)
    ((found,),) = json.loads(answer.text)["predictions"]
    assert found["task"] == "vqa" and found["text"] == "is it red?"
