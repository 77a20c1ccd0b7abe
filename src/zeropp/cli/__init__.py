"""Floor 8: one file per family of verbs."""
