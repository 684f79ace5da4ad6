"""`unival serve`: a page and an endpoint that answer about media."""

import argparse
import sys
from pathlib import Path

from unival import sample


def main(arguments: list[str]) -> None:
    """Listen until Ctrl-C or SIGTERM.

    Raises:
        UserError: no model there, models that do not fit, a port that is taken, a host without a token.
    """
    options = _parser().parse_args(arguments)
    from unival.engine.machine import runtime
    from unival.serve import models, server

    token = server.token_for(options.host)
    listening = server.listen(options.host, options.port)
    folders, left = models.found_in(options.models)
    for why in left:
        print(f"note: left out: {why}", file=sys.stderr)
    served = models.Models(folders, runtime.load_anywhere().apply())
    port = listening.getsockname()[1]
    print(f"{len(folders)} model(s) at http://{options.host}:{port} (Ctrl-C ends it)", flush=True)
    server.run(served, listening, options.host, token)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival serve",
        description="Answer about pictures, clips and sounds: a page, and an HTTP endpoint.",
    )
    parser.add_argument(
        "models",
        type=Path,
        nargs="*",
        default=[sample.FOLDER],
        help="model folders, or folders of them; the first one answers where a request names none; without "
        "any, the tiny model that comes with the package",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on (default 8000); 0: any free one"
    )
    return parser
