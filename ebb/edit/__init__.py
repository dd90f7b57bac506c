"""Editing: existing pictures given to a denoiser that was made to invent them."""
