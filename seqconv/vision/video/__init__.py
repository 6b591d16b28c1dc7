"""Backbones, blocks and classifiers of videos."""
