"""A run as a document: everything it is, in names and numbers, and what is chosen where nothing was said."""
