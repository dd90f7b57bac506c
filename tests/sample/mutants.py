"""Mistakes that a test of a solver must catch."""


class Mutant:
    """A solver with one mistake, made by changing the arguments of a step or what it gives back."""

    def __init__(self, solver, change):
        self.solver, self.order, self.change = solver, solver.order, change
        self.start = solver.start

    def step(self, denoise, x, t, s, cond, state, draw):
        return self.change(self.solver.step, denoise, x, t, s, cond, state, draw)


def quiet(step, denoise, x, t, s, cond, state, draw):
    """Half of the fresh noise."""
    return step(denoise, x, t, s, cond, state, lambda like, part=0: draw(like, part) / 2)


def repeated(step, denoise, x, t, s, cond, state, draw):
    """Every draw of a step is the first again."""
    return step(denoise, x, t, s, cond, state, lambda like, part=0: draw(like))
