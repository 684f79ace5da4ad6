"""`python -m unival`: the same as the `unival` command, from the code beside the working directory."""

from unival.cli import main

if __name__ == "__main__":
    main()
