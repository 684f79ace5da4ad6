"""A study as one folder for whoever reviews it: results, what made them, and how to check both.

An RO-Crate (`ro-crate-metadata.json`, https://w3id.org/ro/crate/1.2) in the profile of process runs: files,
and the stages that wrote them. Digests of all files stand in `sha256sums.txt`, for `sha256sum --check`.
"""

import datetime
import hashlib
import importlib.metadata
import mimetypes
from pathlib import Path
from typing import Any

from unival import compose, files, folders, provenance
from unival.errors import UserError
from unival.lineage import LOCK, Lineage, Process

METADATA = "ro-crate-metadata.json"
RECORD = "bundle.json"
SUMS = "sha256sums.txt"
ENVIRONMENT = "environment.txt"
SHOWN = (compose.PARAMS, Path("dvc.yaml"), LOCK, compose.BUILD)
"""Beside what stages write to `reports/`: what was chosen, the graph, its digests, the resolved values."""
LICENSE = "https://spdx.org/licenses/Apache-2.0"
README = """# {name}

{description}

Open `reports/index.html`: the report. Its tables are in `reports/tables` (LaTeX, Markdown), its figures in
`reports/figures` (PNG, SVG), its numbers in `reports/summary.json` and `reports/metrics`.

Whether all files are those that were bundled (on macOS: `shasum -a 256 -c {sums}`):

    sha256sum --check --quiet {sums}

What made them: `{params}` (what was chosen), `build/config` (every value of every stage), `code` (commit
{commit}), `{environment}` (installed packages), `{lock}` (digests of what each stage read and wrote).
`{metadata}` says the same to programs (RO-Crate). To make it again, on Python {python}:

    pip install -r {environment}
    cd code && git init -q && dvc init -q && dvc repro
"""


def write(out: Path, models: bool) -> int:
    """Write the folder, whole or not at all; returns the number of its files.

    Args:
        models: with the weights that `dvc.lock` names.

    Raises:
        UserError: there is no report here, what is here is not what `dvc.lock` says, or `out` may not be
            replaced.
    """
    processes = Lineage().processes
    report = processes.get("report")
    if report is None:
        raise UserError(f"{LOCK}: no report: nothing to bundle yet: dvc repro")
    outs = {path: one for one in processes.values() for path in one.writes if _wanted(path, models)}
    for path, one in outs.items():
        _check(Path(path), one.writes[path], one.name)
    commit = provenance.made_by(report.note.get("code", {}))
    if not commit:
        raise UserError("reports/runs/report.json: the code of the report is no longer there: dvc repro")
    with folders.new_folder(out, RECORD, [*SHOWN, *outs]) as part:
        for place in [*SHOWN, *map(Path, outs)]:
            if place.is_dir():
                folders.copy(place, part / place, ".*")
            elif place.exists():
                files.copy(place, part / place)
        provenance.check_out(commit, part / "code")
        files.write_text(part / ENVIRONMENT, _environment())
        facts = _facts(files.read_json("reports/summary.json"), commit)
        files.write_text(part / "README.md", README.format(**facts))
        files.write_json(part / METADATA, _crate(part, facts, processes, outs))
        listed = folders.contents(part, RECORD)[folders.FILES]
        files.write_json(part / RECORD, {folders.FILES: sorted([*listed, SUMS]), "commit": commit})
        sums = [f"{files.file_digest(part / name)}  {name}\n" for name in listed]
        files.write_text(part / SUMS, "".join(sums))
    return len(listed) + 1


def _wanted(path: str, models: bool) -> bool:
    return path.startswith("reports/") or (models and path.startswith("models/"))


def _check(path: Path, md5: str, name: str) -> None:
    """Whether an out is what its stage wrote; of a folder, that it is there.

    Raises:
        UserError: it is not.
    """
    if not path.exists():
        raise UserError(f"{path}: not here, {name} wrote it: dvc pull, or dvc repro {name}")
    if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
        raise UserError(f"{path}: is not what {name} wrote ({LOCK}): dvc repro {name}")


def _environment() -> str:
    """Installed packages, as pip reads them."""
    installed = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    kept = sorted((name, version) for name, version in installed.items() if name and name != "unival")
    return "".join(f"{name}=={version}\n" for name, version in kept)


def _facts(summary: dict[str, Any], commit: str) -> dict[str, str]:
    origin = summary["provenance"]
    named = f"benchmark {origin['benchmark']}, edition {origin['edition']}"
    faults = [f"Read first: {line}" for line in summary["read_first"]]
    return {
        "name": f"UnIVAL study, {named}",
        "description": " ".join(["One model, pretrained, finetuned, merged and evaluated.", *faults]),
        "commit": commit, "python": origin["versions"]["python"], "sums": SUMS, "lock": str(LOCK),
        "params": str(compose.PARAMS), "environment": ENVIRONMENT, "metadata": METADATA,
    }  # fmt: skip


def _crate(
    part: Path, facts: dict[str, str], processes: dict[str, Process], outs: dict[str, Process]
) -> dict[str, Any]:
    """The metadata: the folder, each of its files, each stage as an action whose results they are."""
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = [_file(part, path) for path in sorted(part.rglob("*")) if path.is_file()]
    names = [one["@id"] for one in parts]
    actions = [
        {
            "@id": f"#{one.name}", "@type": "CreateAction", "name": one.command,
            "instrument": {"@id": "#unival"},
            "result": [{"@id": name} for name in names if any(_in(name, out) for out in written)],
        }
        for one in processes.values()
        if (written := [out for out in one.writes if out in outs])
    ]  # fmt: skip
    root = {
        "@id": "./", "@type": "Dataset", "name": facts["name"], "description": facts["description"],
        "datePublished": now, "license": {"@id": LICENSE}, "hasPart": [{"@id": name} for name in names],
        "mentions": [{"@id": action["@id"]} for action in actions],
        "conformsTo": {"@id": "https://w3id.org/ro/wfrun/process/0.5"},
    }  # fmt: skip
    descriptor = {
        "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.2"},
    }  # fmt: skip
    program = {
        "@id": "#unival", "@type": "SoftwareApplication", "name": "unival",
        "softwareVersion": f"commit {facts['commit']}",
    }  # fmt: skip
    texts = {LICENSE: "Apache License 2.0", "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate"}
    known = [{"@id": place, "@type": "CreativeWork", "name": name} for place, name in texts.items()]
    graph = [descriptor, root, *parts, program, *actions, *known]
    return {"@context": "https://w3id.org/ro/crate/1.2/context", "@graph": graph}


def _file(part: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(part).as_posix()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    size = str(path.stat().st_size)
    return {"@id": name, "@type": "File", "name": name, "contentSize": size, "encodingFormat": kind}


def _in(name: str, out: str) -> bool:
    return name == out or name.startswith(f"{out}/")
