"""A run in figures: how close its samples come to real images, with error bars, floors and comparisons."""
