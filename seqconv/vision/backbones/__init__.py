"""Backbones: stages of blocks around 2-D mixers, plain and hierarchical, and the parts that they are made of."""
