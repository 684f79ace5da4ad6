"""`unival sync`: send to MLflow what it could not take when it was logged."""

import argparse

from unival import provenance, tracking


def main(arguments: list[str]) -> None:
    """Send the spools of all runs; it may be run at any time, and again.

    Raises:
        UserError: the store cannot be used; what it has taken is not sent again.
    """
    description = "Send to MLflow what it could not take when it was logged. What it has is not sent again."
    argparse.ArgumentParser(prog="unival sync", description=description).parse_args(arguments)
    count = 0
    for spool, sent in tracking.send_all():
        print(f"{spool.folder.relative_to(provenance.root())}: {sent} items sent")
        count += sent
    if not count:
        print("nothing waits to be sent")
