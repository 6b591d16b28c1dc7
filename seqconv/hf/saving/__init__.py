"""Saving: folders that are complete or absent, model cards, the file that loads a model by itself."""
