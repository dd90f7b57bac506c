"""What is kept on disk: absent or complete, by one process at a time, and nothing deleted that ebb did not make."""
