"""Modules that mixers, blocks and models share: norms, MLPs, residual connections, activations, short convolutions."""
