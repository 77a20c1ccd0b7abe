"""Floor 6: one file per family of verbs."""
