"""The mathematics of the forward process: torch only, no network, no image."""
