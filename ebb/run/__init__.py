"""`ebb train`: from data and a recipe to a run folder, planned, supervised and resumed."""
