"""The server: right answers for every task and kind of media, a status and a sentence for everything else."""

import base64
import contextlib
import json
import random
import shutil
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests

from tests.serve import made
from tests.tasks import world
from unival import limits
from unival.engine.inference.predictor import Predictor, as_row
from unival.serve.models import Choice, Models
from unival.tasks.folder import write_tasks


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return made.pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models):
    with made.running(models) as running:
        yield running


@pytest.fixture
def slow(models, monkeypatch):
    """The model waits for this event before it answers."""
    release, entered, answer = threading.Event(), threading.Event(), Predictor.answer

    def held(self, *arguments):
        entered.set()
        assert release.wait(made.PATIENCE)
        return answer(self, *arguments)

    monkeypatch.setattr(Predictor, "answer", held)
    release.entered = entered
    yield release
    release.set()


@pytest.mark.parametrize("task", made.TASKS)
def test_every_task_is_answered_as_by_the_predictor(server, models, tmp_path, task):
    """Of media that are larger and longer than what the model looks at, too."""
    config = world.task_config(task)
    name, data = made.medium(config.modality, 3)
    (tmp_path / name).write_bytes(data)
    text = "is it red" if "{text}" in config.prompt else ""
    found = server.ask(name, data, text=text, task=task).json()["answers"][0]
    models.move(models.choice())
    alone = Predictor(models.network, models.processor, models.tasks[models.default])
    expected = as_row(alone(tmp_path / name, text, task)) | {"task": task, "text": text, "file": name}
    assert found.pop("score") == pytest.approx(expected.pop("score"), rel=1e-4)
    assert [text for text, _ in found.pop("alternatives")] == [
        text for text, _ in expected.pop("alternatives")
    ]
    assert found == expected


@pytest.mark.parametrize("modality", made.FILES)
def test_json_asks_what_a_form_asks(server, modality):
    name, data = made.medium(modality)
    form = server.ask(name, data, alternatives=1).json()
    encoded = base64.b64encode(data).decode()
    bare = {"file": encoded, "name": name, "alternatives": 1}
    typed = {"file": f"data:{modality}/x;base64,{encoded}", "name": name, "alternatives": 1}
    for body in (bare, typed):
        assert requests.post(f"{server.url}/predict", json=body, timeout=made.PATIENCE).json() == form


def test_several_questions_encode_their_picture_once(server, models, monkeypatch):
    counts, embed = [], models.network.encoder.embed_media

    def counted(pixel_values=None, *others):
        counts.append(len(pixel_values))
        return embed(pixel_values, *others)

    monkeypatch.setattr(models.network.encoder, "embed_media", counted)
    texts = ["is it red?", "is it blue?", "how many are there in it?"]
    found = server.ask("a.png", made.picture(), text=texts, task="vqa").json()["answers"]
    assert [row["text"] for row in found] == texts and counts == [1]
    one = server.ask("a.png", made.picture(), text=texts[2], task="vqa").json()["answers"][0]
    assert one["answer"] == found[2]["answer"] and one["score"] == pytest.approx(found[2]["score"], rel=1e-4)


def test_what_waits_is_answered_together(server, slow):
    """One is at work, the others gather: a batch for each task."""
    with ThreadPoolExecutor(11) as pool:
        first = pool.submit(server.ask, "a.png", made.picture())
        assert slow.entered.wait(made.PATIENCE)
        before = server.metric("unival_batch_questions_count")
        tasks = ["vqa", "matching"]
        others = [
            pool.submit(server.ask, "a.png", made.picture(n), text="red", task=tasks[n % 2])
            for n in range(10)
        ]
        made.until(lambda: server.metric("unival_waiting_questions") == 10)
        slow.set()
        assert [future.result().status_code for future in (first, *others)] == [200] * 11
        assert server.metric("unival_batch_questions_count") == before + 2


def test_a_failure_spoils_no_other_answer(server, slow, monkeypatch):
    answer = Predictor.answer

    def failing(self, questions, *arguments):
        if any(question.record.text == "fail" for question in questions):
            raise RuntimeError("a bug")
        return answer(self, questions, *arguments)

    monkeypatch.setattr(Predictor, "answer", failing)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(server.ask, "a.png", made.picture())
        assert slow.entered.wait(made.PATIENCE)
        others = [
            pool.submit(server.ask, "a.png", made.picture(), text=text, task="vqa")
            for text in ("fail", "red", "blue")
        ]
        made.until(lambda: server.metric("unival_waiting_questions") == 3)
        slow.set()
        assert [f.result().status_code for f in (first, *others)] == [200, 500, 200, 200]
        assert "its log says how" in made.sentence(others[0].result())


def test_weights_move_from_one_model_to_the_other(server, models):
    first, second = models.folders

    def ask(**choice):
        row = server.ask("a.png", made.picture(), task="entailment", text="red", **choice).json()["answers"][
            0
        ]
        return dict([(row["answer"], row["score"]), *row["alternatives"]])

    ends = ask(model=first), ask(model=second)
    assert ends[0] != ends[1]
    assert ask() == ask(model=first, second=second, t=0) == ends[0]
    assert ask(model=first, second=second, t=1) == ends[1] == ask(model=second, second=first, t=0)
    middle = ask(model=first, second=second, t=0.5)
    assert middle == pytest.approx(ask(model=second, second=first, t=0.5), rel=1e-4)
    assert all(middle != pytest.approx(end, rel=1e-2) for end in ends)
    assert models.choice(first, second, 0.5) == Choice(first, second, 0.5)


def test_a_task_that_no_model_of_the_choice_names_is_said(tmp_path):
    """On the way of the slider the tasks of both count; it is the same once the folders are gone."""
    folders = [made.folder(tmp_path / "first", 0), made.folder(tmp_path / "second", 1)]
    for folder, task in zip(folders, ("caption", "matching"), strict=True):
        write_tasks({task: world.task_config(task)}, folder)
    (folders[0] / "training.json").write_text('{"media": ["image"]}')
    models = Models(folders)
    first, second = models.folders
    shutil.rmtree(tmp_path)
    for t, foreign in ((0, ["matching", "vqa"]), (0.5, ["vqa"])):
        assert models.foreign(models.choice(first, second, t), ["vqa", "caption", "matching"]) == foreign
    with made.running(models) as server:
        asked = server.ask("a.png", made.picture(), task="matching", text="red", model=first).json()
        assert asked["note"] == f"matching: not among the tasks of {first}: it guesses"
        assert "note" not in server.ask("a.png", made.picture(), task="caption", model=first).json()
        asked = server.ask("a.wav", made.medium("audio")[1], model=first).json()
        assert asked["note"] == f"{first} was never trained on audio: it guesses"
        assert server.get("/models").json()["models"][first]["own"] == ["caption"]


@pytest.mark.parametrize("modality", made.FILES)
def test_attention_lies_on_the_medium(server, modality):
    name, data = made.medium(modality)
    looks = server.ask(name, data, attention=True).json()["answers"][0]["attention"]
    weights = [weight for look in looks for row in look["weights"] for weight in row]
    assert min(weights) >= 0 and 0 < sum(weights) < 1
    assert all(look["picture"].startswith("data:image/png;base64,") for look in looks)


def upload(name="a.png", data=None, **fields):
    """Arguments of requests for a form."""
    return {"files": {"file": (name, made.picture() if data is None else data)}, "data": fields}


def body(data, kind="application/json"):
    """The same for other content."""
    return {"data": data, "headers": {"Content-Type": kind}}


REFUSED = {
    "no file": ({"files": {"x": (None, "y")}}, 400, "file: field required"),
    "empty": (upload(data=b""), 400, "file: is empty"),
    "no file name": (upload(name=None), 400, "give it a file name"),
    "no picture": (upload(data=b"abc" * 99), 400, "a.png: not a readable image"),
    "cut": (upload(data=made.picture()[:200]), 400, "a.png: not a readable image"),
    "a text": (upload("a.txt"), 400, "neither image, video nor sound"),
    "a sound as a picture": (upload(data=made.sound()), 400, "a.png: not a readable image"),
    "a sound": (
        upload("a.wav", made.sound(), task="vqa", text="a"),
        400,
        "a.wav: is audio, but task 'vqa' needs",
    ),
    "task": (upload(task="vqqa"), 400, "did you mean 'vqa'"),
    "model": (upload(model="../first"), 400, "unknown model"),
    "no text": (upload(task="vqa"), 400, "needs a text"),
    "long text": (upload(task="vqa", text="a" * 9_000), 400, "too long for the model"),
    "longer text": (upload(text="a" * 20_000), 400, "text: string should have at most 10000 characters"),
    "many texts": (upload(text=["a"] * 40), 400, "text: list should have at most 32 items"),
    "texts and tasks": (upload(text=["a"] * 3, task=["vqa"] * 2), 400, "3 texts and 2 tasks"),
    "t": (upload(t="7"), 400, "t: input should be less"),
    "t to nowhere": (upload(t="0.5"), 400, "give `second` too"),
    "blank text": (upload(task="vqa", text=" \n"), 400, "needs a text"),
    "text in vain": (upload(task="caption", text="is it red?"), 400, "takes no text"),
    "unknown field": (upload(q="7"), 400, "q: extra"),
    "no JSON": (body("{"), 400, "no JSON"),
    "deep JSON": (body("[" * 100_000), 400, "no JSON"),
    "no object": ({"json": [1]}, 400, "the request: input should be"),
    "no base64": ({"json": {"file": "§"}}, 400, "not base64"),
    "no form": (body("x", "multipart/form-data; boundary=b"), 400, "form"),
    "no boundary": (body("x", "multipart/form-data"), 400, "form"),
    "no type": ({"data": b"x"}, 415, "send multipart/form-data or application/json"),
    "declared length": (body(b"x" * (limits.REQUEST_BYTES + 1)), 413, "more than 33554432 bytes"),
    "streamed length": (body([b"x" * 2**20] * 40), 413, "more than 33554432 bytes"),
    "another site": ({**upload(), "headers": {"Origin": "http://a.example"}}, 403, "another site"),
}
LARGE = ("declared length", "streamed length")


@pytest.mark.fault
@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_has_a_status_and_a_sentence(server, name):
    request, status, why = REFUSED[name]
    request = {**request, "data": iter(request["data"])} if name == "streamed length" else request
    response = requests.post(f"{server.url}/predict", timeout=made.PATIENCE, **request)
    assert (response.status_code, why in made.sentence(response)) == (status, True), response.text
    assert server.ask("a.png", made.picture()).status_code == 200


def test_an_unknown_page_and_a_foreign_name_of_the_host(server):
    assert made.sentence(server.get("/nothing")) == "no 'nothing' here"
    assert server.get("/..%2fapp.py").status_code == 404
    assert server.get("/examples/..%2findex.html").status_code == 404
    assert server.get("/models", Host="localhost:1").status_code == 200
    refused = server.get("/models", Host="a.example:80")
    assert (refused.status_code, made.sentence(refused)) == (
        400,
        "this server is 127.0.0.1 or localhost, not 'a.example:80'",
    )


def test_a_method_that_is_not_taken(server):
    for method, path, takes in (
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("POST", "/", "GET"),
    ):
        refused = requests.request(method, server.url + path, timeout=made.PATIENCE)
        assert (refused.status_code, refused.headers["Allow"]) == (405, takes)
        assert made.sentence(refused) == f"{path} takes {takes}, not {method}"


@pytest.mark.fault
def test_two_hundred_at_once_right_and_wrong(server, models):
    """Each gets its own status, the right ones their own answer."""
    wrong = [name for name in REFUSED if name not in LARGE]
    shuffle = random.Random(0)
    jobs = []
    for number in range(200):
        if number % 3 == 0:
            jobs.append((None, wrong[number // 3 % len(wrong)]))
        else:
            jobs.append((list(made.FILES)[number % 3 - 1 if number % 2 else number % 2], number % 5))
    shuffle.shuffle(jobs)

    def ask(job):
        modality, what = job
        if modality is None:
            return requests.post(f"{server.url}/predict", timeout=made.PATIENCE, **REFUSED[what][0])
        return server.ask(*made.medium(modality, what))

    with ThreadPoolExecutor(200) as pool:
        responses = list(pool.map(ask, jobs))
    alone = {job: ask(job).json()["answers"][0]["answer"] for job in set(jobs) if job[0]}
    for job, response in zip(jobs, responses, strict=True):
        if job[0] is None:
            assert response.status_code == REFUSED[job[1]][1] and made.sentence(response)
        else:
            assert response.status_code == 200 and response.json()["answers"][0]["answer"] == alone[job]
    assert models.uploads._held == {} and server.get("/ready").status_code == 200


@pytest.mark.fault
@pytest.mark.parametrize("when", ["uploading", "waiting"])
def test_a_client_that_goes_away(server, models, slow, when):
    """Its question leaves the queue; nothing is kept."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask, "a.png", made.picture(1))
        assert slow.entered.wait(made.PATIENCE)
        before = server.metric('unival_requests_total{status="499"}')
        connection, _ = made.begin(server.port, made.picture(2), 9 if when == "uploading" else 0)
        if when == "waiting":
            made.until(lambda: server.metric("unival_waiting_questions") == 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        made.until(lambda: server.metric('unival_requests_total{status="499"}') == before + 1)
        assert server.metric("unival_waiting_questions") == 0
        slow.set()
        assert first.result().status_code == 200
    made.until(lambda: models.uploads._held == {})


@pytest.mark.fault
def test_a_full_queue_says_when_to_come_again(server, slow, monkeypatch):
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(server.ask, "a.png", made.picture(1))]
        assert slow.entered.wait(made.PATIENCE)  # else both may be answered together
        taken.append(pool.submit(server.ask, "a.png", made.picture(2)))
        made.until(lambda: server.metric("unival_waiting_questions") == 1)
        monkeypatch.setattr(limits, "REQUESTS", 2)
        refused = server.ask("a.png", made.picture())
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert "2 requests are under way" in made.sentence(refused)
        assert server.get("/health").status_code == 200
        slow.set()
        assert [future.result().status_code for future in taken] == [200, 200]
    assert server.ask("a.png", made.picture()).status_code == 200


@pytest.mark.fault
@pytest.mark.parametrize("what", ["a slow model", "a slow upload"])
def test_nobody_waits_for_ever(server, slow, monkeypatch, what):
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.3)
    if what == "a slow model":
        late = server.ask("a.png", made.picture())
        assert late.status_code == 504 and "no answer within 0.3 seconds" in made.sentence(late)
    else:
        with made.begin(server.port, made.picture(), 9)[0] as connection:
            assert b" 504 " in connection.recv(100)
    slow.set()


@pytest.mark.fault
@pytest.mark.parametrize("trickle", [0, 2**14])
def test_uploads_that_fall_behind_give_their_places_back(server, monkeypatch, trickle):
    """Whether they stop or trickle, and long before a request's own time is over."""
    monkeypatch.setattr(limits, "UPLOAD_SPARE", 1.0)
    monkeypatch.setattr(limits, "UPLOAD_RATE", 2**21)
    large = made.picture(size=(1400, 1200))
    kept = len(large) - limits.SMALL_BYTES - 2**16
    held = [made.begin(server.port, large, kept) for _ in range(limits.LARGE_REQUESTS)]
    monkeypatch.setattr(limits, "UPLOAD_SPARE", made.PATIENCE)  # for the other
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.ask, "a.png", large)
        for connection, rest in held:
            connection.settimeout(0.1)
            answer = b""
            with connection, contextlib.suppress(ConnectionError):
                while b"slower than 2097152 bytes a second" not in answer:
                    with contextlib.suppress(TimeoutError):
                        answer += connection.recv(1000)
                    if trickle and not answer:
                        connection.sendall(rest[:trickle])
                        rest = rest[trickle:]
            assert b" 408 " in answer
        response = other.result()
    assert response.status_code == 200 and response.elapsed.total_seconds() < limits.REQUEST_SECONDS / 2


@pytest.mark.fault
@pytest.mark.parametrize("modality", ["image", "video"])
def test_a_medium_that_unfolds_too_far_is_refused_before_it_is_decoded(server, monkeypatch, modality):
    name, data = made.medium(modality)
    monkeypatch.setattr(limits, "REQUEST_VALUES", 2000)
    monkeypatch.setattr(limits, "LARGE_VALUES", 1000)
    refused = server.ask(name, data)
    assert refused.status_code == 400 and "more than 2000 together" in made.sentence(refused)
    monkeypatch.setattr(limits, "REQUEST_VALUES", 10**6)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.ask, name, data) for _ in range(8)]
        assert [answer.result().status_code for answer in answers] == [200] * 8


@pytest.mark.fault
@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_a_medium_that_takes_for_ever_is_given_up(server, monkeypatch, name):
    """A small file can hold more frames than anybody waits for: the decoder is free again."""
    data = made.clip() if name == "a.mp4" else made.sound()[:40] + b"\xff" * 4 + made.sound()[44:]
    assert server.ask(name, data).status_code == 200
    monkeypatch.setattr(limits, "DECODE_SECONDS", 0)
    refused = server.ask(name, data)
    assert refused.status_code == 400
    assert f"{name}: takes more than 0 s to decode" in made.sentence(refused)


@pytest.mark.fault
def test_who_announces_much_and_sends_little_is_in_nobodys_way(server):
    """Requests that are not there yet take no place of the few large ones."""
    large = made.picture(size=(700, 600))
    assert len(large) > limits.SMALL_BYTES
    waiting = [
        made.begin(server.port, large, kept)[0]
        for kept in [len(large)] * limits.LARGE_REQUESTS + [len(large) - limits.SMALL_BYTES // 2]
    ]
    response = server.ask("a.png", large)
    for connection in waiting:
        connection.close()
    assert response.status_code == 200 and response.elapsed.total_seconds() < limits.REQUEST_SECONDS / 2


def test_answers_leave_at_once(server):
    """Not after the 40 ms for which the other side keeps its receipt back."""
    connection, taken = HTTPConnection("127.0.0.1", server.port, made.PATIENCE), []
    for _ in range(200):
        began = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        taken.append(time.perf_counter() - began)
    connection.close()
    assert min(taken) < 0.03


def test_a_token_keeps_others_out(models):
    token = "0123456789abcdef"
    with made.running(models, token) as guarded:
        for path in ("/", "/page.js", "/health", "/ready"):
            assert guarded.get(path).status_code == 200
        for path in ("/models", "/metrics", "/examples/square.png", "/openapi.json"):
            assert guarded.get(path).status_code == 401
            assert guarded.get(path, Authorization="Bearer 0123456789abcdeg").status_code == 401
            assert guarded.get(path, Authorization=f"Bearer {token}").status_code == 200
        refused = guarded.ask("a.png", made.picture())
        assert refused.status_code == 401 and "Authorization" in made.sentence(refused)


def test_the_page_comes_with_a_policy_and_all_its_examples(server):
    page = server.get("/")
    assert "default-src 'none'; script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "style=" not in page.text and "onclick" not in page.text and "http" not in page.text
    described = server.get("/models").json()
    for example in described["examples"]:
        file = server.get(f"/examples/{example['file']}")
        asked = {name: example[name] for name in ("task", "text")}
        assert server.ask(example["file"], file.content, **asked).status_code == 200
    assert {example["task"] for example in described["examples"]} == {*made.TASKS}
    assert json.loads(server.get("/openapi.json").text)["info"]["title"] == "unival"


def test_metrics_are_read_by_prometheus(server):
    lines = server.get("/metrics").text.splitlines()
    names = {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
    assert len(names) == 4 and all(name.startswith("unival_") for name in names)
    buckets = [
        float(line.split(" ")[1]) for line in lines if line.startswith("unival_request_seconds_bucket")
    ]
    assert buckets == sorted(buckets) and f"unival_request_seconds_count {buckets[-1]:.0f}" in lines


@pytest.mark.slow
def test_memory_stays_flat(server, models):
    """10,000 requests, a tenth of them wrong; media are read anew each time."""
    wrong = [name for name in REFUSED if name not in LARGE]

    def ask(number):
        if number % 10 == 0:
            request, status, _ = REFUSED[wrong[number // 10 % len(wrong)]]
            refused = requests.post(f"{server.url}/predict", timeout=made.PATIENCE, **request)
            return refused.status_code == status
        return server.ask(*made.medium(list(made.FILES)[number % 3], number)).status_code == 200

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2000)))
        before = resident()
        assert all(pool.map(ask, range(2000, 10_000)))
    print(f"{before:.0f} MiB after 2,000 requests, {resident():.0f} MiB after 10,000")
    assert resident() < before * 1.1 and models.uploads._held == {}
