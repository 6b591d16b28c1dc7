"""Convolution mixers: short and long convolutions, implicit and explicit filters, gates."""
