"""A study as a folder: whole, checked by other programs, never over something else."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from unival import cli, files, provenance
from unival.errors import UserError


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a report, its lock and its code; nothing has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    written = {
        "src/unival/__init__.py": "", "conf/a.yaml": "a: 1\n", "params.yaml": "seed: 0\n",
        "dvc.yaml": "stages: {}\n", "build/config/report.yaml": "stage: report\n",
        "models/finetune/vqa/model.safetensors": "weights",
        "reports/index.html": "<p>report", "reports/tables/scores.tex": "table",
        "reports/figures/a.svg": "<svg/>",
        "reports/metrics/geometry.csv": "a\n", "reports/metrics/tasks.json": "{}",
    }  # fmt: skip
    for name, text in written.items():
        files.write_text(Path(name), text)
    origin = {"benchmark": "world", "edition": "smoke", "versions": {"python": "3.11.7"}}
    files.write_json(
        Path("reports/summary.json"), {"provenance": origin, "read_first": ["One task was left out."]}
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "study"]):
        subprocess.run([*git, *words], check=True)
    made_by = {"code": {"commit": provenance.git("rev-parse", "HEAD"), "uncommitted": "", "digest": "e" * 16}}
    files.write_json(Path("reports/runs/report.json"), made_by)
    outs = {
        "report": (
            "reports/summary.json",
            "reports/index.html",
            "reports/figures",
            "reports/tables",
            "reports/runs/report.json",
        ),
        "merge": ("reports/metrics/geometry.csv",),
        "evaluate": ("reports/metrics/tasks.json",),
        "finetune@vqa": ("models/finetune/vqa",),
    }
    stages = {
        name: {"cmd": f"run {name}", "outs": [{"path": path, "md5": md5(Path(path))} for path in paths]}
        for name, paths in outs.items()
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def md5(path: Path) -> str:
    words = ["md5sum", str(path)]
    return subprocess.run(words, capture_output=True, text=True).stdout.split(" ")[0] or "0" * 32 + ".dir"


def test_a_reviewer_can_open_and_check_it(study: Path) -> None:
    cli.main(["bundle", "given/bundle"])
    bundle = study / "given/bundle"
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {
        "README.md", "reports/summary.json", "reports/index.html", "reports/tables/scores.tex", "dvc.lock",
        "reports/figures/a.svg", "reports/metrics/geometry.csv", "reports/metrics/tasks.json", "params.yaml",
        "build/config/report.yaml", "code/src/unival/__init__.py", "code/conf/a.yaml", "environment.txt",
        "reports/runs/report.json",
    } <= there  # fmt: skip
    assert not any(name.startswith("models/") for name in there)
    check = ["sha256sum", "--check", "--strict", "sha256sums.txt"]
    told = subprocess.run(check, cwd=bundle, capture_output=True, text=True, check=True).stdout
    assert {line.removesuffix(": OK") for line in told.splitlines()} == there - {"sha256sums.txt"}
    assert "One task was left out." in (bundle / "README.md").read_text()
    assert "numpy==" in (bundle / "environment.txt").read_text()

    graph = json.loads((bundle / "ro-crate-metadata.json").read_text())["@graph"]
    known = {one["@id"]: one for one in graph}
    assert len(known) == len(graph)
    listed = {one["@id"] for one in known["./"]["hasPart"]}
    assert listed == there - {"ro-crate-metadata.json", "bundle.json", "sha256sums.txt"}
    assert [one["@id"] for one in known["#merge"]["result"]] == ["reports/metrics/geometry.csv"]

    (bundle / "reports/index.html").write_text("changed")
    assert subprocess.run(check, cwd=bundle, capture_output=True).returncode


def test_another_library_reads_it(study: Path) -> None:
    rocrate = pytest.importorskip("rocrate.rocrate")
    cli.main(["bundle", "bundle"])
    crate = rocrate.ROCrate("bundle")
    assert crate.name == "UnIVAL study, benchmark world, edition smoke"
    assert {one.type for one in crate.data_entities} == {"File"} and len(crate.data_entities) >= 14
    for one in crate.get_entities():
        for value in one.properties().values():
            for named in value if isinstance(value, list) else [value]:
                if isinstance(named, dict) and not named["@id"].startswith("https://w3id.org/ro/crate"):
                    assert crate.dereference(named["@id"]), named


def test_it_is_replaced_by_the_next_and_takes_weights_when_asked(study: Path) -> None:
    cli.main(["bundle", "bundle"])
    cli.main(["bundle", "bundle", "--models"])
    assert (study / "bundle/models/finetune/vqa/model.safetensors").read_text() == "weights"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("bundle/mine.txt", "mine", "holds mine.txt"),
        ("reports/index.html", "edited", "reports/index.html: is not what report wrote"),
        ("reports/figures", None, "reports/figures: not here, report wrote it"),
        ("dvc.lock", None, "dvc.lock: no file"),
        ("dvc.lock", "stages: {}\n", "no report"),
        ("reports/runs/report.json", None, "reports/runs/report.json: not here"),
    ],
)
def test_what_is_no_study_or_another_folder_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], path: str, text: str | None, told: str
) -> None:
    place = Path(path)
    if text is None:
        place.rename("gone")
    else:
        files.write_text(place, text)
    with pytest.raises(SystemExit):
        cli.main(["bundle", "bundle"])
    assert told in capsys.readouterr().err
    assert [one.name for one in Path("bundle").rglob("*")] == (["mine.txt"] if "mine" in path else [])


@pytest.mark.fault
def test_a_kill_in_between_leaves_the_old_one(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.main(["bundle", "bundle"])
    before = Path("bundle/sha256sums.txt").read_text()

    def full(*_: object) -> None:
        raise UserError("no space left")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(provenance, "check_out", full)
        cli.main(["bundle", "bundle", "--models"])
    assert Path("bundle/sha256sums.txt").read_text() == before and not Path("bundle/models").exists()
