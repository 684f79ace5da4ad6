"""`unival sync`: send to MLflow what could not be sent when it was logged."""

import argparse

from unival import provenance, tracking


def main(arguments: list[str]) -> None:
    """Send the spools of all runs, or copy another store; it may be run at any time, and again.

    Raises:
        UserError: a store cannot be used; what was taken is not sent again.
    """
    parser = argparse.ArgumentParser(
        prog="unival sync",
        description="Send to MLflow what could not be sent when it was logged, or copy another store. "
        "Nothing is sent twice.",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="<store>",
        help="copy the runs and models of this store instead: http://..., sqlite:///mlflow.db, postgresql://...",
    )
    options = parser.parse_args(arguments)
    count = 0
    if options.source:
        for experiment, name in tracking.copy_all(options.source):
            print(f"{experiment}: {name} copied")
            count += 1
    else:
        for spool, sent in tracking.send_all():
            print(f"{spool.folder.relative_to(provenance.root())}: {sent} items sent")
            count += sent
    if not count:
        print("nothing to send")
