"""`unival prove`: changed code gives the same bytes, so that DVC may keep the earlier results."""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from unival import compose, config, files, provenance
from unival.errors import UserError
from unival.lineage import equal, files_of

EDITION = "smoke"
NOTES = "reports/runs/"
"""Outs with times and commits in them, which are other ones each time."""


def main(arguments: list[str]) -> None:
    """Prove it for each stage, and tell DVC.

    Raises:
        UserError: more than the code of a stage has changed, nobody knows which code made its results, or its
            outs are others now.
    """
    options = _parser().parse_args(arguments)
    compose.write_all()
    compose.write_code()
    changed = _changed(options.stages)
    if not changed:
        print("the code of no stage has changed")
        return
    now, others = provenance.commit(), []
    for before, names in changed.items():
        commits = before, now["uncommitted"] or now["commit"]
        old, new = (_outs(commit, names) for commit in commits)
        for name in names:
            paths = sorted({*old[name], *new[name]})
            if differing := [path for path in paths if old[name].get(path) != new[name].get(path)]:
                shown = [file for path in differing for file in _differing(path, *map(_folder, commits))]
                others.append(f"{name} ({', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''})")
            else:
                dvc(Path(), "commit", "--force", "--quiet", name)
                print(f"{name}: the same bytes in {len(paths)} outs, dvc.lock has the new code")
    if others:
        raise UserError(f"other bytes than before: {'; '.join(others)}: dvc repro")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival prove",
        description="Run stages at the smallest size with the old and the new code. If the bytes are equal, "
        "dvc.lock records the new code, and nothing has to rerun.",
    )
    parser.add_argument(
        "stages", nargs="*", metavar="<stage>[@<item>]",
        help="default: all whose code, and nothing else, has changed",
    )  # fmt: skip
    return parser


def _changed(chosen: Sequence[str]) -> dict[str, list[str]]:
    """Commit -> the stages whose results its code made, and whose code alone has changed since."""
    status = json.loads(dvc(Path(), "status", "--json", *chosen))
    stages_of = defaultdict(list)
    for name, changes in status.items():
        stage, _, item = name.partition("@")
        if changes == [{"changed deps": {str(compose.CODE / stage): "modified"}}] and stage != "report":
            stages_of[_made_by(f"{stage}-{item}" if item else stage)].append(name)
        elif name in chosen:
            why = "its page names the commit" if stage == "report" else "not its code alone has changed"
            raise UserError(f"{name}: {why} (`dvc status {name}`): dvc repro {name}")
    return dict(stages_of)


def _made_by(run: str) -> str:
    path = Path(NOTES) / f"{run}.json"
    commit = provenance.made_by(files.read_json(path).get("code") or {})
    if not commit:
        raise UserError(f"{path}: the commit that made it is not here: dvc repro")
    return commit


def _differing(out: str, old: Path, new: Path) -> list[str]:
    """Files of an out that are not the same in both folders."""
    paths = {path.relative_to(folder) for folder in (old, new) for path in files_of(folder / out)}
    same = {path for path in paths if (old / path).is_file() and equal(old / path, new / path)}
    return sorted(map(str, paths - same))


def _folder(commit: str) -> Path:
    return provenance.root() / "scratch" / "prove" / commit


def _outs(commit: str, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Stage -> out -> digest, made by the code of a commit at the smallest size.

    The folder stays in `scratch/`: the next proof begins with what this one ended with.
    """
    folder = _folder(commit)
    if not folder.exists():
        provenance.check_out(commit, folder)
        params = config.load(folder / compose.PARAMS) | {"edition": EDITION}
        files.write_text(folder / compose.PARAMS, config.dump(params))
    if not (folder / ".dvc").exists():
        dvc(folder, "init", "--no-scm", "--quiet")
    dvc(folder, "repro", *names)
    stages = config.load(folder / "dvc.lock")["stages"]
    return {
        name: {out["path"]: out["md5"] for out in stages[name]["outs"] if not out["path"].startswith(NOTES)}
        for name in names
    }


def dvc(folder: Path, *words: str) -> str:
    """Output of a DVC command in a folder.

    Raises:
        UserError: it failed, with its last words.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True, check=False,
        env=provenance.alone(PATH=path),
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UserError(f"{folder}: dvc {' '.join(words)}: {''.join(last)}")
    return done.stdout
