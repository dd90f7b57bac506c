"""Ctrl-C at a known update."""

from contextlib import contextmanager

import ebb.run.supervise


def stop_after(monkeypatch, updates):
    """Ctrl-C after so many updates."""
    asked = iter(range(10**6))

    @contextmanager
    def interruptible():
        yield lambda: 2 if next(asked) >= updates - 1 else 0

    monkeypatch.setattr(ebb.run.supervise, "interruptible", interruptible)
