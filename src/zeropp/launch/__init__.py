"""Ranks of a run: torchrun's, or local ones of our own."""
