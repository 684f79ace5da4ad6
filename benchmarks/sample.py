"""Put the published model of a study into the package, as `src/unival/sample`, with where it comes from.

    python benchmarks/sample.py models/merged/unival

Weights, tokenizer, tasks and records are copied as they are. The modules that a published folder carries are
left out, since the package has them. The card gains what made the model, by the runs of the study, and what
it answers about the demo's examples.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from unival import config, files, sample
from unival.engine.inference.predictor import Predictor
from unival.study import card
from unival.tasks.folder import carried

EXAMPLES = Path(__file__).resolve().parents[1] / "src/unival/serve/page/examples"
COPIED = ("*.json", "*.safetensors")
MADE = """
## This copy

`python benchmarks/sample.py models/merged/unival`, after `dvc repro` had made that folder with the edition
`{edition}`, seed {seed}, code and configuration of commit
`{commit}`, on {kernels}.
`model.safetensors` is the published file, SHA-256
`{digest}`. The modules of the model are those of
the package: `import unival.model` stands for `trust_remote_code=True`. A folder that
`save_pretrained` of this model and processor writes has them, and works without the package.

It knows the shapes, moving shapes, handwritten digits and beeps of `world`, and nothing else. Examples of the
demo, among them what it is wrong about:

| file | task | text | answer |
|---|---|---|---|
{answers}
"""


def made(published: Path) -> str:
    """What the card adds."""
    root = published.resolve().parents[2]
    runs = card.runs_behind(published)
    if unsaved := [process for process, run in runs.items() if run.code["uncommitted"]]:
        sys.exit(f"{root}: {unsaved[0]} ran with uncommitted code: commit it, and run `dvc repro` again")
    if len({run.code["commit"] for run in runs.values()}) > 1:
        sys.exit(f"{root}: its models were made at several commits: make them in a new clone")
    machines = {
        f"{run.machine['processor']} ({run.machine['instructions']} kernels, PyTorch {run.machine['torch']})"
        for run in runs.values()
    }
    chosen = config.load(root / "params.yaml")
    # commits of a study itself hold results and choices, and need not be in the history of others
    log = ["git", "-C", str(root), "log", "-1", "--format=%H", runs["merge"].code["commit"], "--"]
    commit = subprocess.run([*log, "src", "conf"], check=True, capture_output=True, text=True).stdout.strip()
    return MADE.format(
        edition=chosen["edition"], seed=chosen["seed"], commit=commit,
        kernels="; ".join(sorted(machines)),
        digest=files.file_digest(published / "model.safetensors"), answers="\n".join(answers(published)),
    )  # fmt: skip


def answers(folder: Path) -> list[str]:
    """A line for each example of the demo whose task the model was trained on."""
    predictor, lines = Predictor.load(folder), []
    for row in json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8")):
        if row["task"] in carried(folder):
            found = predictor(EXAMPLES / row["file"], row["text"], row["task"]).value
            answer = found if isinstance(found, str) else f"box {[round(edge) for edge in found]}"
            lines.append(f"| {row['file']} | {row['task']} | {row['text']} | {answer} |")
    return lines


USE = {
    "With transformers, timm and torchaudio:": "With this package, in its repository:",
    "from transformers import": "import unival.model\nfrom transformers import",
    '("unival", trust_remote_code=True)': '("src/unival/sample")',
}
"""What the card says of a published folder, and what holds of one without modules."""


def main() -> None:
    """Replace the folder's files."""
    published = Path(sys.argv[1])
    text = card.text(published, card.scores_of(published)) + made(published)
    for said, here in USE.items():
        text = text.replace(said, here)
    for pattern in COPIED:
        for old in sample.FOLDER.glob(pattern):
            old.unlink()
        for path in published.glob(pattern):
            shutil.copyfile(path, sample.FOLDER / path.name)
    for name in ("config.json", "processor_config.json"):
        values = files.read_json(sample.FOLDER / name)
        values.pop("auto_map")  # names the modules
        files.write_json(sample.FOLDER / name, values)
    files.write_text(sample.FOLDER / card.CARD, text)


if __name__ == "__main__":
    main()
