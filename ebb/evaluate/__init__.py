"""Figures that say how close samples come to real images, and the page that shows a run."""
