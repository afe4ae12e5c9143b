"""One driver at a time searches in a folder; what a dead one left is taken over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ray_mixopt.io import lease as module
from ray_mixopt.io.lease import NAME, Holder, Lease, LeaseError

HOLDS = """
import sys, time
from pyarrow import fs
from ray_mixopt.io.lease import Lease

lease = Lease(fs.LocalFileSystem(), sys.argv[1])
lease.hold()
print("held", flush=True)
while True:
    time.sleep(0.1)
    lease.hold()
"""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come quickly."""
    monkeypatch.setattr(module, "BEAT_S", 0.1)


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Lease]:
    made = Lease(fs.LocalFileSystem(), str(tmp_path))
    yield made
    made.release()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts a process that holds the lease."""
    started: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDS, str(tmp_path)]
        started.append(process := subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def pretend(folder: Path, **changes: Any) -> None:
    """Makes the lease look as if somebody else had it."""
    file = folder / NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | {"owner": "another"} | changes))


def test_a_second_driver_is_refused_until_the_first_is_dead(
    mine: Lease, tmp_path: Path, start: Callable[[], subprocess.Popen]
) -> None:
    first = start()
    for attempt in (mine.check, mine.hold):
        with pytest.raises(LeaseError, match=f"is being searched by process {first.pid} on .*End that one first"):
            attempt()
    first.kill()  # and not waited for: it is a zombie now
    begin = time.monotonic()
    mine.hold()
    assert time.monotonic() - begin < 2, "a process that is known to be gone is not waited for"
    assert json.loads((tmp_path / NAME).read_text())["owner"] in module._OWN


def test_a_holder_elsewhere_that_gives_no_sign_of_life_is_taken_over(
    mine: Lease, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine.hold()
    mine.release()
    (tmp_path / NAME).write_text("{")  # torn
    mine.hold()
    mine.release()
    other = Lease(fs.LocalFileSystem(), str(tmp_path))
    other.hold()
    pretend(tmp_path, machine="elsewhere 1 2", pid=1, beat_s=0.05)
    time.sleep(0.3)  # the other finds that it has lost it
    with pytest.raises(LeaseError, match="process 1 on elsewhere"):
        other.hold()
    mine.hold()
    assert "taken over from process 1 on elsewhere, which shows no sign of life" in caplog.text


def test_a_search_that_steps_no_more_gives_the_lease_back(
    mine: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ABSENT_S", 0.2)
    mine.hold()
    with mine:  # a suggestion that takes long
        time.sleep(0.6)
        assert (tmp_path / NAME).exists()
    time.sleep(0.8)
    assert not (tmp_path / NAME).exists()
    mine.hold()
    assert (tmp_path / NAME).exists()


def test_a_storage_that_cannot_be_written_to_does_not_end_a_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = Lease(fs.LocalFileSystem(), str(tmp_path / "gone"))
    lease.hold()
    lease.hold()
    lease.release()
    assert caplog.text.count("cannot be written to") == 1 and not (tmp_path / "gone").exists()


def test_other_storage_is_leased_alike(tmp_path: Path) -> None:
    storage = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    lease = Lease(storage, "run")
    (tmp_path / "run").mkdir()
    lease.hold()
    assert json.loads((tmp_path / "run" / NAME).read_text())["beat_s"] == module.REMOTE_BEAT_S
    lease.release()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\x80", b"[" * 4096, b'{"owner": 1}', b'{"pid": 1e999}', b"x" * 9999]
)
def test_what_is_no_lease_holds_nothing(mine: Lease, tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert Holder.read(content) is None
    mine.check()


def test_a_lease_may_say_anything_and_is_waited_for_in_vain(mine: Lease, tmp_path: Path) -> None:
    mine.hold()
    mine.release()
    state = {"owner": "x", "machine": "", "pid": -1, "started": "", "beats": -5}
    for beat_s, wanted in (("NaN", module.REMOTE_BEAT_S), ("1e9", module.REMOTE_BEAT_S), ("0", 0.0)):
        holder = Holder.read(json.dumps(state | {"beat_s": 0}).replace('"beat_s": 0', f'"beat_s": {beat_s}').encode())
        assert holder is not None and holder.beat_s == wanted and not holder.gone and str(holder)
