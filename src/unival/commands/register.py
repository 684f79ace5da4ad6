"""`unival register`: a version in MLflow's registry of a model that was evaluated."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Register a model folder by reference.

    Raises:
        UserError: no model there, or its files are not those that were evaluated.
    """
    parser = argparse.ArgumentParser(
        prog="unival register",
        description="Make a version of an evaluated model in MLflow's registry, by reference. A folder whose "
        "files have changed since is refused.",
    )
    parser.add_argument("folder", type=Path, help="e.g. models/merged/average")
    parser.add_argument("--alias", help="name of the version from now on, e.g. champion")
    options = parser.parse_args(arguments)
    from unival import tracking
    from unival.errors import UserError
    from unival.study import model_rows

    try:
        tags = model_rows.tags(options.folder)
    except OSError as error:
        raise UserError(f"{options.folder}: no model there: {error.strerror}: {error.filename}") from error
    version = tracking.register(*tracking.connect("evaluate"), str(options.folder), tags, options.alias)
    known = f" ({options.alias})" if options.alias else ""
    print(f"models:/{tracking.REGISTERED}/{version}{known}: {options.folder}")
