"""What may be wrong with a run, with data or with a model: symptom, evidence, cause, and the command to run next."""
