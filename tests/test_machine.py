import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from ebb.machine import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory() if {keep} else None)
conv, x = torch.nn.Conv2d(8, 8, 3, padding=1), torch.randn(8, 8, 64, 64)
with torch.no_grad():
    for warm in range(20):
        conv(conv(x))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for step in range(20):
        held = [conv(conv(x)) for _ in range(8)]
        del held
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def ran(keep, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | environment
    out = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True, env=env
    )
    said, faults = out.stdout.split()
    return said, int(faults)


@pytest.mark.full
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_a_step_frees_serves_the_next():
    """The kernel is asked for pages once and not at every step."""
    _, usual = ran(False)
    said, kept = ran(True)
    assert said == "True"
    assert usual > 1000
    assert kept < usual / 10


@pytest.mark.full
def test_a_choice_in_the_environment_stands():
    assert ran(True, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_other_libraries_are_left_alone(monkeypatch):
    from ebb import machine

    class Other:
        def __init__(self, name):
            pass

    monkeypatch.setattr(machine.ctypes, "CDLL", Other)
    assert machine.keep_freed_memory.__wrapped__() is False
