"""Ray's workers, forked from one process that has imported already what each of them would import for itself.

Nearly all that a small search in Tune costs is the start of its processes, which import the same for seconds each.
``small_ray`` lets Ray start this file in place of its own ``default_worker.py``. It hands on what it was started with
to the process that forks, starting that first where there is none yet. What is forked is a process like any other,
which may be killed. Where nothing can be forked this is the worker itself.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import fcntl
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

FOLDER = "MIXOPT_FORKS"
"""In the environment: a folder for the socket, and for the names of what workers will import, a line each."""
IMPORTS = "imports"


def main(arguments: list[str]) -> None:
    if arguments == ["serve"]:
        serve()
        return
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    with contextlib.suppress(OSError), connect() as connection:
        connection.sendall(f"{order!r}\n".encode())
        if connection.recv(1):  # it was forked, and registers with Ray by itself
            return
    be_a_worker(arguments)


def connect() -> socket.socket:
    """A connection to the process that forks, which is started if there is none.

    Raises:
        OSError: if nothing can be forked.
    """
    if sys.platform != "linux" or "RAY_JOB_ID" not in os.environ:
        raise OSError("Elsewhere forks are not safe; and before there is a job it cannot be known.")
    with open(folder() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address().exists():
            # In this worker's environment: some of it Ray reads only once, such as the job.
            command = [sys.executable, __file__, "serve"]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            assert server.stdout is not None
            server.stdout.readline()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address()))
    return connection


def folder() -> Path:
    return Path(os.environ[FOLDER])


def address() -> Path:
    return folder() / f"job-{os.environ['RAY_JOB_ID']}"


def serve() -> None:
    """Forks a worker for everyone who asks, until Ray is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address()))
        server.listen(64)
        server.settimeout(1.0)
        print("ready", flush=True)  # for who has started it, and reads no more
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        while exists(int(os.environ["RAY_RAYLET_PID"])):
            with contextlib.suppress(OSError), server.accept()[0] as caller:
                if not import_all((folder() / IMPORTS).read_text()):
                    continue
                order = ast.literal_eval(caller.makefile().readline())
                if os.fork() == 0:
                    server.close()
                    caller.sendall(b"1")
                    caller.close()
                    live(**order)


@cache
def import_all(names: str) -> bool:
    """Imports modules, a line each; returns whether they would not all draw the same random numbers after it."""
    import ray.actor
    from ray._raylet import ActorClassID

    class DrawnByPython(ActorClassID):
        @classmethod
        def from_random(cls) -> ActorClassID:
            return ActorClassID(os.urandom(cls.size()))

    # By which an actor's class draws an identifier when it is defined. Ray's own way would seed the generator that
    # each worker is to seed for itself: they would give the same identifiers to what they put into the shared memory.
    with patch.object(ray.actor, "ActorClassID", DrawnByPython):
        for module in names.split():
            importlib.import_module(module)
    return len({drawn_by_a_child() for _ in range(2)}) == 2


def drawn_by_a_child() -> bytes:
    """What a forked process draws at random from Ray."""
    from ray._raylet import JobID, PlacementGroupID

    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, PlacementGroupID.of(JobID.from_int(1)).binary())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        return pipe.read()


def live(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Is a worker to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        be_a_worker(arguments)
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        os._exit(0)


def be_a_worker(arguments: list[str]) -> None:
    """Does what Ray would have started."""
    import ray

    script = str(Path(ray.__file__).parent / "_private" / "workers" / "default_worker.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
