"""Recordings: spoken words and electrocardiograms."""
