#!/bin/sh
# A server of asyncio that is given a socket of `socket.create_server` answers 40 ms late on every kept connection.
# Expected: as when it opens its own socket: asyncio sets TCP_NODELAY.   Seen: on Linux about 44 ms for what takes 1 ms;
# asyncio sets it only where `sock.proto` is IPPROTO_TCP, which `create_server`, and uvicorn's `bind_socket`, leave at 0.
# Versions: Python 3.11.7, uvicorn 0.54.0.   Source: asyncio/base_events.py, `_set_nodelay`; uvicorn/config.py, `bind_socket`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet uvicorn==0.54.0
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import socket
import statistics
import threading
import time
from http.client import HTTPConnection

import uvicorn


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def milliseconds(listening):
    """The median time of a request on one connection."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    connection = HTTPConnection("127.0.0.1", listening.getsockname()[1])
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        connection.request("GET", "/")
        connection.getresponse().read()
        taken.append(1000 * (time.perf_counter() - began))
    connection.close()
    server.should_exit = True
    thread.join()
    return statistics.median(taken)


plain = milliseconds(socket.create_server(("127.0.0.1", 0)))
own = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error").bind_socket()
bound = milliseconds(own)
mended = socket.create_server(("127.0.0.1", 0))
mended.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # sockets that it accepts have it, too
quick = milliseconds(mended)
assert plain > 30 and bound > 30 and quick < 20, (plain, bound, quick)
print(f"as described: create_server {plain:.0f} ms, bind_socket {bound:.0f} ms, with TCP_NODELAY {quick:.0f} ms")
PYTHON
