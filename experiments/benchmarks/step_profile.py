"""Where the time of our own update goes, by torch's profiler."""

from __future__ import annotations

from published import Steps
from torch.profiler import ProfilerActivity, profile

PARTS = {
    "convolutions": ("mkldnn_convolution", "convolution_backward"),
    "BatchNorm": ("native_batch_norm", "native_batch_norm_backward"),
    "ReLU": ("clamp_min", "threshold_backward"),
    "copies": ("copy_",),
}
"""operators that are told apart, on a CPU"""


def parts(epoch: Steps) -> dict[str, float]:
    """The share of an epoch's time that each of `PARTS` takes, and "the rest"."""
    epoch()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        epoch()
    own = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in watched.key_averages()}
    whole = sum(own.values())
    found = {part: sum(own.get(name, 0) for name in names) / whole for part, names in PARTS.items()}
    return found | {"the rest": 1 - sum(found.values())}
