"""Families of attention and of what takes its place: SLAB, EcoFormer, PVTv2, Twins."""
