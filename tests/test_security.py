"""What SECURITY.md says of the source, read off its syntax tree, and of what data can put into a report."""

import ast
import re
from pathlib import Path

import pytest

from unival import limits
from unival.report import page

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src/unival").rglob("*.py"))
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load",
    "joblib.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput",
}  # fmt: skip
SAFE = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
"""Calls that need this keyword."""


def faults(source: str) -> list[str]:
    """Calls that could run what they read, or that listen beyond this machine."""
    tree = ast.parse(source)
    names = {"np": "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            found.append(node.value)
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = ast.unparse(node.func).partition(".")
        name = ".".join(filter(None, (names.get(first, first), rest)))
        given = {key.arg: ast.unparse(key.value) for key in node.keywords}
        if name in FORBIDDEN or given.get("shell", "False") != "False" or "trust_remote_code" in given:
            found.append(name)
        if name in SAFE and given.get(SAFE[name][0]) != str(SAFE[name][1]):
            found.append(name)
        if name == "yaml.load" and "Loader" not in given and len(node.args) < 2:
            found.append(name)
        if name.endswith(".bind") and "127.0.0.1" not in ast.unparse(node):
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_nothing_that_is_read_is_executed(path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "import os\nos.system(x)",
        "from os import system as s\ns(x)",
        "import pickle as p\np.load(x)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import yaml\nyaml.load(x)",
        "server.bind(('', 80))",
        "host = '0.0.0.0'",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_reading_finds_each(line) -> None:
    assert len(faults(line)) == 1


def test_yaml_is_read_by_a_safe_loader() -> None:
    import yaml

    from unival import config

    assert issubclass(config._Loader, yaml.SafeLoader | getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def test_every_limit_is_stated() -> None:
    stated = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "SECURITY.md").read_text(), re.M))
    assert stated == {name for name in vars(limits) if name.isupper()}


@pytest.mark.parametrize(
    "data",
    ["[here](http://a.example)", "![](http://a.example/x.png)", "\\[here](x)", "[a][b]", "[b]: http://a.example",
     "<a href='x'>here</a>", "<script>", "http://a.example", "https://a.example/x", "www.a.example"],
)  # fmt: skip
def test_data_are_no_links_in_a_report(data, tmp_path) -> None:
    """Neither in Markdown, whose bare addresses are links too, nor in HTML."""
    table = page.DataTable(("a", "b"), [[data, data]])
    figure = page.Figure("x.png", data, (data,))
    (tmp_path / "x.png").write_bytes(b"")
    document = page.Document(
        "title", data, [page.Section("s", [page.Text(data), page.Points([data]), table])]
    )
    text = page.to_markdown(document, "figures")
    text += page.markdown(page.Figures([figure]), "figures").replace("](figures/x.png)", "")
    plain = re.sub(r"\\.", "", text)
    assert not re.search(r"\](?=[(\[:])|<(?!!)|https?:|www\.", plain)
    web = page.to_html(document, tmp_path)
    assert not re.search(r"<script|<a href=(?!\"#s\")", web)
