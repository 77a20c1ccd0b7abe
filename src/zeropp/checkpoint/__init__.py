"""Saving and loading a pipeline."""
