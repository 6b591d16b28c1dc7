"""Gated convolutions: short and long convolutions between elementwise products."""
