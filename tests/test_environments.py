"""Locked and lowest versions of packages agree with what `pyproject.toml` allows, and CI tries both."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOWEST = {"python_full_version": "3.11.0", "python_version": "3.11"}


def requirements(*extras: str) -> list[Requirement]:
    """What the package needs, and some of its extras."""
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [one for one in map(Requirement, lines) if one.name != PROJECT["name"]]


def locked(name: str) -> dict[str, Version]:
    """Package -> version, on Linux and the lowest Python."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        one = Requirement(line)
        if one.marker is None or Marker(str(one.marker)).evaluate({**LOWEST, "sys_platform": "linux"}):
            (pin,) = one.specifier
            assert pin.operator == "==", line
            found[canonicalize_name(one.name)] = Version(pin.version)
    return found


def test_the_lock_holds_what_is_allowed() -> None:
    versions = locked("requirements.lock")
    for one in requirements(*PROJECT["optional-dependencies"]):
        assert versions[canonicalize_name(one.name)] in one.specifier, one


def test_the_lowest_versions_are_the_bounds() -> None:
    versions = locked(".ci/lowest.txt")
    for one in requirements("search", "dev"):
        bounds = [Version(part.version) for part in one.specifier if part.operator in (">=", "==")]
        assert versions[canonicalize_name(one.name)] == max(bounds), one


@pytest.mark.parametrize("name", ["requirements.lock", ".ci/lowest.txt"])
def test_a_lock_says_how_it_is_made(name: str) -> None:
    """By a command that is on the page, too."""
    command = re.search(r"uv pip compile .*", (ROOT / name).read_text(encoding="utf-8"))
    assert command and command[0].endswith(f"pyproject.toml -o {name}")
    assert command[0] in (ROOT / "docs/development.md").read_text(encoding="utf-8")


def test_ci_tries_the_lowest_versions_and_later_pythons() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    tried = {(one["python"], one["lock"]) for one in jobs["parts"]["strategy"]["matrix"]["include"]}
    (lowest,) = (part.version for part in Requirement(f"python{PROJECT['requires-python']}").specifier)
    assert (lowest, ".ci/lowest.txt") in tried
    assert {python for python, lock in tried if lock == "requirements.lock"} == {"3.12", "3.13"}
