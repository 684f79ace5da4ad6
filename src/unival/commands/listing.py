"""`unival list`: what can be chosen."""

import argparse

from unival import compose
from unival.errors import UserError, nearest


def main(arguments: list[str]) -> None:
    """Print the options of every group, or of one.

    Raises:
        UserError: no such group.
    """
    parser = argparse.ArgumentParser(prog="unival list", description="What can be chosen.")
    parser.add_argument("group", nargs="?", metavar="<group>", help="a folder of conf/")
    options = parser.parse_args(arguments)
    groups = sorted(path.name for path in compose.CONF.glob("*/"))
    if options.group is not None and options.group not in groups:
        raise UserError(f"{compose.CONF}: no group '{options.group}': {nearest(options.group, groups)}")
    for group in [options.group] if options.group else groups:
        print(f"{group}: {' '.join(compose.options(group))}")
    if options.group is None:
        from unival.data.catalog import load_sources
        from unival.data.sources.reader import READERS

        load_sources()
        print(f"data sets to import: {' '.join(READERS.names())}")
