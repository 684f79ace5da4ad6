"""`unival bundle`: the study as a folder that somebody else can open and check."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Write the folder.

    Raises:
        UserError: there is no report here, or the folder holds something else.
    """
    parser = argparse.ArgumentParser(
        prog="unival bundle",
        description="Write the study as an RO-Crate: report, tables (LaTeX, Markdown), figures (PNG, SVG), "
        "metrics, resolved configuration, code, packages, and digests of all of it, with a README that says "
        "how to check. A folder that an earlier bundle wrote is replaced, any other is refused.",
    )
    parser.add_argument("folder", type=Path, metavar="<folder>", help="e.g. bundle")
    parser.add_argument("--models", action="store_true", help="include the weights of all models")
    options = parser.parse_args(arguments)
    from unival import bundle

    count = bundle.write(options.folder, options.models)
    print(f"{options.folder}: {count} files; to check: cd {options.folder} && sha256sum -c {bundle.SUMS}")
