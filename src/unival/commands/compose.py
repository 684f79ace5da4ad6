"""`unival compose`: write build/config/ from params.yaml and conf/."""

import argparse

from unival import compose


def main(arguments: list[str]) -> None:
    """Write every resolved file."""
    argparse.ArgumentParser(
        prog="unival compose", description="Write build/config/ from params.yaml and conf/."
    ).parse_args(arguments)
    print(f"{len(compose.write_all())} files in {compose.BUILD}")
