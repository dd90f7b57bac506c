"""What a finished network is taught on top of its weights: small changes, put on, weighed, merged and taken off."""
