"""What evaluating 10,000 samples costs: whole time ÷ sampling time, and the most memory, of `ebb evaluate` on a run.

    make bench-evaluate RUN=runs/mnist

The classifiers that judge are trained once a run and kept; they come first here, and their time is printed apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def evaluate(run: Path, count: int, seed: int) -> tuple[float, float]:
    """Seconds and peak memory in MB of `ebb evaluate` in a process of its own."""
    command = [sys.executable, "-c", MEASURED, "evaluate", str(run), "--n", str(count), "--seed", str(seed)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began, float(done.stderr.split()[-1])


MEASURED = """
import resource, sys
from ebb.cli import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, file=sys.stderr)
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=10_000)
    given = parser.parse_args()
    first, _ = evaluate(given.run, 200, seed=1)
    print(f"first evaluation, of 200 samples, with the training of the classifiers: {first:.0f} s", flush=True)
    again, _ = evaluate(given.run, 200, seed=2)
    print(f"the same again, with the classifiers kept: {again:.0f} s", flush=True)
    whole, memory = evaluate(given.run, given.n, seed=3)
    sampling = json.loads((given.run / "evaluation.json").read_text(encoding="utf8"))["settings"]["sampling_seconds"]
    print(
        f"{given.n:,} samples: {whole:.0f} s, of which sampling {sampling:.0f} s: ×{whole / sampling:.2f};"
        f" peak memory {memory:,.0f} MB"
    )
