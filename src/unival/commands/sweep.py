"""`unival sweep`: Hydra multirun over one stage."""

from unival import sweep


def main(arguments: list[str]) -> None:
    """Run the sweep; its arguments are Hydra's."""
    if {"-h", "--help"} & set(arguments):
        print(sweep.__doc__)
    else:
        from unival.sweep import start

        start.run(arguments)
