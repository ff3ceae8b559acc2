"""MLflow's server and UI, in a process of its own: on this machine only, or behind a login."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from pathlib import Path

from quench.errors import UserError, redacted, require

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""what means every address of the machine, and one of them"""
_LOGIN = ("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD")
_LOGIN_SETTINGS = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Seconds in which a password is not checked again: the check takes longer than most requests.
auth_cache_ttl_seconds = 60
"""


def check(host: str, port: int) -> None:
    """Raise `InvalidValue` if the port is taken, or if other machines would see the server without a login."""
    require(not _is_taken(host, port), "port", port, f"is in use; try --port {port + 1}")
    missing = [] if _is_this_machine(host) else [name for name in _LOGIN if not os.environ.get(name)]
    allowed = f"other machines see it, so it must ask for a password: set {' and '.join(missing)}, or leave --host out"
    require(not missing, "host", host, allowed)


@contextmanager
def serve(uri: str, storage: Path, host: str, port: int) -> Iterator[str]:
    """MLflow's server and UI; the block gets its address once it answers, then it serves until interrupted.

    Raises what `check` raises, and `UserError` if the server does not start.
    """
    check(host, port)
    words = ["server", "--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level=warning"]
    words += ["--artifacts-destination", (storage.resolve() / "artifacts").as_uri()]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    if not _is_this_machine(host):
        words += ["--app-name", "basic-auth"]
        settings |= _guarded(storage, host, port)
    settings |= os.environ
    settings["MLFLOW_BACKEND_STORE_URI"] = uri  # not among the words, which every user of the machine sees
    command = [sys.executable, "-m", "mlflow", *words]
    log = storage / "mlflow-server.log"
    with (
        _ended_politely(),
        log.open("wb") as out,
        subprocess.Popen(command, env=settings, stdout=out, stderr=out, start_new_session=True) as server,
    ):
        try:
            while server.poll() is None and not _answers(host, port):
                time.sleep(0.2)
            if server.poll() is not None:
                reason = log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise UserError(f"the MLflow server did not start: {redacted(reason)} (more in {log})")
            yield _address(host, port)
            with suppress(KeyboardInterrupt):
                server.wait()
        finally:
            # Asked politely it waits for every open page; the database needs no farewell.
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _guarded(storage: Path, host: str, port: int) -> dict[str, str]:
    """The environment of a server that asks who is there, for those who call it by this machine's names."""
    users = storage.resolve() / "mlflow-users.db"
    users.touch(mode=0o600)
    login = storage / "mlflow-login.ini"
    if not login.exists():
        login.write_text(_LOGIN_SETTINGS.format(database=users))
    names = {host, socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1"}
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(login.resolve()),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}:{port}" for name in names),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
    }


@contextmanager
def _ended_politely() -> Iterator[None]:
    """A closed terminal, or `kill`, is a Ctrl-C: the server, a process of its own, ends too."""
    kinds = [kind for kind in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) is signal.SIG_DFL]
    for kind in kinds:
        signal.signal(kind, signal.default_int_handler)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str, port: int) -> str:
    """Where a browser finds a server that listens on `host`; if on every address, by this machine's name."""
    name = socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _is_taken(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((_EVERYWHERE.get(host, host), port), timeout=1):
        return True
    return False


def _answers(host: str, port: int) -> bool:
    with closing(HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=1)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
