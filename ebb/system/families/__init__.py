"""Families: what is trained and how it draws, one a file."""
