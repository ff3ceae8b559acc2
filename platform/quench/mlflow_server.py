"""MLflow's server and UI, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from quench.errors import UserError, require


@contextmanager
def serve(uri: str, storage: Path, port: int) -> Iterator[str]:
    """MLflow's server and UI on localhost; the block runs once it answers, then it serves until interrupted."""
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    require(not taken, "port", port, f"is in use; try --port {port + 1}")
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--artifacts-destination", (storage.resolve() / "artifacts").as_uri()]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"} | os.environ
    settings["MLFLOW_BACKEND_STORE_URI"] = uri  # not among the words, which every user of the machine sees
    host = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", *words]
    with subprocess.Popen(command, env=settings, stdout=sys.stderr, start_new_session=True) as server:
        try:
            while server.poll() is None and not _answers(host):
                time.sleep(0.2)
            if server.poll() is not None:
                raise UserError("the MLflow server ended before it answered; its reason is above")
            yield host
            server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            # Asked politely it waits for every open page; the database needs no farewell.
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _answers(host: str) -> bool:
    try:
        with urlopen(f"{host}/health", timeout=1):
            return True
    except OSError:
        return False
