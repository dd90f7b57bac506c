"""One model, looked into: what it has learnt, what it costs, and what it remembers."""
