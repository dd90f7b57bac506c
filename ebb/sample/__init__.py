"""From noise to data: one loop, and solvers with explicit state."""
