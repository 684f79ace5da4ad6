"""`unival compose`: write the resolved files, or say where a value of one comes from."""

import argparse

from unival import compose, explain


def main(arguments: list[str]) -> None:
    """Print what has changed, and which edited values have no effect.

    Raises:
        UserError: a wrong value in `params.yaml` or `conf/`, or no such stage, item or key.
    """
    options = _parser().parse_args(arguments)
    if options.explain is not None:
        for line in explain.lines(compose.read_params(), options.explain):
            print(line)
        return
    written = compose.write_all()
    names = [str(path.relative_to(compose.BUILD).with_suffix("")) for path, new in written.items() if new]
    listed = f": {', '.join(names)}" if names else ""
    print(f"{len(names)} of {len(written)} files in {compose.BUILD} changed{listed}")
    if stages := compose.write_code():
        print(f"the code of {', '.join(stages)} has changed")
    for line in explain.unused(compose.read_params()):
        print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival compose",
        description="Write the resolved files of every stage to build/config/ from params.yaml and conf/.",
        epilog="example: unival compose --explain finetune vqa train.steps",
    )
    parser.add_argument(
        "--explain", nargs="+", metavar="<word>",
        help="<stage> [<item>] [<key>]: which file set a value, and over which others; writes nothing",
    )  # fmt: skip
    return parser
