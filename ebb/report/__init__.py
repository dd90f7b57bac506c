"""What was measured as pages that need nothing else: a run, a sweep; their tables and drawings."""
