"""What the check on a GPU is made of: processes, stages, variants, hazards, the report."""
