from __future__ import annotations

import time

import torch

from quench.usage import Usage


def test_usage_is_of_the_time_since_it_was_last_asked() -> None:
    usage = Usage(torch.device("cpu"))
    with usage.watched(every=0.01):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        before = usage.take()
        ballast = bytearray(b"1") * 300_000_000
        time.sleep(0.1)
        after = usage.take()
    assert before["process_cpu_percentage"] > 0
    assert after["process_memory_megabytes"] > before["process_memory_megabytes"] + len(ballast) / 2e6
    assert 0 < after["system_memory_usage_percentage"] < 100
