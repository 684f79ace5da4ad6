"""Whether the store answers, asked without a client and within some seconds."""

import socket
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from unival.tracking.mlflow_store import store_uri

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Of the databases that a store may be in, where its address names none."""


def unreachable(seconds: float) -> str:
    """Why the store does not answer within some seconds; empty where it does. Nothing is written to it.

    An MLflow server is asked for its health, a database for a connection; the folder of a file must be there.
    """
    answers: list[str] = []
    asked = Thread(target=lambda: answers.append(_knock(store_uri(), seconds)), daemon=True)
    asked.start()
    asked.join(seconds)  # looking a name up has no limit of its own
    return answers[0] if answers else f"no answer within {seconds:g} s"


def _knock(text: str, seconds: float) -> str:
    try:
        uri = urlsplit(text)
        kind, host = uri.scheme.partition("+")[0], uri.netloc.rpartition("@")[2]
        if kind in ("http", "https"):
            urlopen(f"{kind}://{host}{uri.path.rstrip('/')}/health", timeout=seconds).close()
        elif kind in PORTS:
            socket.create_connection((uri.hostname or "localhost", uri.port or PORTS[kind]), seconds).close()
        else:  # sqlite:///here.db and sqlite:////there/here.db
            folder = Path(uri.path.removeprefix("/") if kind == "sqlite" else uri.path).parent
            return "" if folder.is_dir() else f"no folder {folder}"
    except HTTPError as error:
        return f"its server answers {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except (ValueError, HTTPException):  # whose messages may hold a password
        return "no address of a store, or another kind of server"
    return ""
