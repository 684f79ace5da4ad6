"""`unival serve`: one line for what cannot be served, and an end that loses no answer."""

import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.serve import made
from unival import files
from unival.cli import main
from unival.serve import server
from unival.serve.models import check_alike


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    made.folder(root / "models/first", 0)
    made.folder(root / "models/second", 1)
    return root


@pytest.fixture
def refused(capsys, monkeypatch):
    """The line that the command ends with."""
    monkeypatch.setattr(server, "run", lambda *_: pytest.fail("it serves"))

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["serve", *map(str, arguments), "--port", "0"])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return run


@pytest.mark.fault
def test_what_cannot_be_served_is_one_line(folder, refused, tmp_path):
    first = folder / "models/first"
    half = shutil.copytree(first, tmp_path / "half")
    (half / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes()[:5000])
    other = shutil.copytree(first, tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "bert"}')
    bare = shutil.copytree(first, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    wide = shutil.copytree(first, tmp_path / "wide")
    config = (wide / "config.json").read_text()
    (wide / "config.json").write_text(
        config.replace('"decoder_attention_heads": 4', '"decoder_attention_heads": 2')
    )
    assert config != (wide / "config.json").read_text()
    for folders, why in (
        ((tmp_path / "none",), "no model there"),
        ((folder / "models/first/model.safetensors",), "no model there"),
        ((half,), "half"),
        ((bare,), "bare"),
        ((other,), "not a model of this kind"),
        ((first, half), "half"),
        ((first, other), "not a model of this kind"),
        ((first, wide), "another architecture"),
    ):
        assert why in refused(*folders)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_folders_with_and_without_modules_are_served_together(name, folder, tmp_path):
    """What says how transformers opens a folder is not what the model is."""
    first, other = folder / "models/first", shutil.copytree(folder / "models/second", tmp_path / "other")
    settings = files.read_json(other / name)
    assert settings.pop("auto_map")
    files.write_json(other / name, settings)
    check_alike(other, first)


def test_below_a_folder_what_does_not_fit_is_left_out(folder, tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(server, "run", lambda models, *_: served.append(list(models.folders)))
    root = shutil.copytree(folder / "models", tmp_path / "models")
    (root / "first/model.safetensors").unlink()
    main(["serve", str(folder / "models/second"), str(root), "--port", "0"])
    assert served == [["second", str(root / "second")]]
    said = capsys.readouterr()
    assert (
        "note: left out: " in said.err
        and "first" in said.err
        and "2 model(s) at http://127.0.0.1:" in said.out
    )


@pytest.mark.fault
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_others_need_a_token(folder, refused, monkeypatch, host):
    monkeypatch.delenv(server.TOKEN, raising=False)
    assert "set UNIVAL_TOKEN" in refused(folder / "models/first", "--host", host)
    monkeypatch.setenv(server.TOKEN, "short")
    assert "shorter than 16 characters" in refused(folder / "models/first", "--host", host)
    assert "shorter than 16 characters" in refused(folder / "models/first")


def test_a_port_that_is_taken_is_one_line_and_a_stopped_server_answers_first(folder, capsys):
    """SIGTERM while a request is half sent: it is answered, then the process ends and the port is free."""
    command = [sys.executable, "-m", "unival", "serve", "models", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        port = int(re.fullmatch(r"2 model\(s\) at http://127\.0\.0\.1:(\d+) .*\n", line)[1])
        running = made.Server(port)
        with pytest.raises(SystemExit):
            main(["serve", str(folder / "models/first"), "--port", str(port)])
        assert re.fullmatch(
            r"unival: 127\.0\.0\.1, port \d+: cannot listen: .*--port\n", capsys.readouterr().err
        )
        connection, rest = made.begin(port, made.picture(), 100)
        with connection:
            made.until(lambda: running.get("/ready").status_code == 200)
            process.send_signal(signal.SIGTERM)
            made.until(lambda: not listens(port))
            connection.sendall(rest)
            assert b" 200 " in connection.recv(100)
        assert process.wait(made.PATIENCE) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True
