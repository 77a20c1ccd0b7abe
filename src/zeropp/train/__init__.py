"""Floor 7: a trainer people can use."""
