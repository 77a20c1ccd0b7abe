"""Floor 5: a trainer people can use."""
