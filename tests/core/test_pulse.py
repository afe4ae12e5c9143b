"""The loss of Ray's control service is said, for Tune's loop only stands still."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from ladder import wait_until

from ray_mixopt.tune import pulse


def test_a_service_that_goes_away_and_comes_back_is_said_once_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pulse, "PERIOD_S", 0.02)
    monkeypatch.setattr(pulse, "SILENCE_S", 0.2)
    service, over = socket.create_server(("127.0.0.1", 0)), threading.Event()
    address = f"127.0.0.1:{service.getsockname()[1]}"
    thread = threading.Thread(target=pulse.watch, args=[address, lambda: not over.is_set()])
    with caplog.at_level(logging.WARNING):
        thread.start()
        assert not over.wait(0.4) and not caplog.records
        service.close()
        wait_until(lambda: caplog.records, timeout_s=10, what="a word")
        assert not over.wait(0.4)
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            wait_until(lambda: len(caplog.records) > 1, timeout_s=10, what="another word")
            over.set()
            thread.join(10)
    lost, found = (record.getMessage() for record in caplog.records)
    assert address in lost and "ray_mixopt.restore then goes on" in lost and "answers again" in found


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:80", "[::1]:1", "no address"])
def test_what_cannot_be_reached_does_not_answer(address: str) -> None:
    assert not pulse._answers(address)
