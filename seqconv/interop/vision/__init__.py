"""Layers and models for images."""
