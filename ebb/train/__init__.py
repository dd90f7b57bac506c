"""Training: a loop that knows no diffusion, and objectives that do."""
