"""RWKV's time mixes, one file per generation."""
