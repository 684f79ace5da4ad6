"""`unival lineage`: where a result comes from, what uses it, and whether it can be made again."""

import argparse
import json
from collections.abc import Sequence

from unival import lineage
from unival.errors import UserError


def main(arguments: list[str]) -> None:
    """Print it.

    Raises:
        UserError: no such thing, or with `--check` it does not come out again.
    """
    options = _parser().parse_args(arguments)
    graph = lineage.Lineage()
    what, made_by = graph.find(options.thing)
    if options.check:
        _check([graph.processes[name] for name in made_by])
        return
    before = [*made_by, *graph.behind(what, made_by)]
    after = {other for name in made_by for other in graph.after(name)} - {*made_by}
    described = {name: graph.describe(name) for name in before}
    if options.json:
        shown = {"thing": what, "made_by": made_by, "processes": described, "used_by": sorted(after)}
        print(json.dumps(shown, indent=2, sort_keys=True))
        return
    print(what)
    for name, process in described.items():
        print(f"{'made by' if name in made_by else 'from'} {name}")
        print("\n".join(lineage.lines(process, what)))
    print(f"used by {', '.join(sorted(after)) or 'nothing here'}")


def _check(processes: Sequence[lineage.Process]) -> None:
    """Make each again, the others too where one does not come out."""
    faults = []
    for process in processes:
        try:
            print(lineage.check(process), flush=True)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival lineage",
        description="Where a result comes from: run, configuration, code, data, parents, machine, and the "
        "command that makes it again; and what uses it.",
    )
    parser.add_argument(
        "thing", metavar="<thing>",
        help="a task of the report, a process, file or folder, run, digest or commit",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="make it again, each process that made it, and compare"
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    return parser
