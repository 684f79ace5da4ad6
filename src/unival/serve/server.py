"""The process that listens: its socket, its signals, its end."""

import os
import socket

import uvicorn

from unival import limits
from unival.errors import UserError
from unival.serve.app import LOOPBACK, create
from unival.serve.models import Models

TOKEN = "UNIVAL_TOKEN"
TOKEN_CHARS = 16


def token_for(host: str) -> str:
    """The token of the environment, which every host but this machine's own needs.

    Raises:
        UserError: there is none, or a short one.
    """
    token = os.environ.get(TOKEN, "")
    if token and len(token) < TOKEN_CHARS:
        raise UserError(f"{TOKEN}: shorter than {TOKEN_CHARS} characters: openssl rand -hex 24 gives one")
    if not token and host not in LOOPBACK:
        raise UserError(f"--host {host}: others reach it: set {TOKEN} to a secret (openssl rand -hex 24)")
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
        # asyncio does so for sockets that say they are TCP, which this one does not: else answers take 40 ms
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}, port {port}: cannot listen: {error}: choose another --port") from error


def run(models: Models, listening: socket.socket, host: str, token: str) -> None:
    """Serve until Ctrl-C or SIGTERM; requests under way are answered first."""
    hosts = LOOPBACK if host in LOOPBACK else ()  # the token keeps others out there
    config = uvicorn.Config(
        create(models, hosts, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=round(limits.REQUEST_SECONDS),
    )
    uvicorn.Server(config).run(sockets=[listening])
