"""2-D mixers whose kernels are functions of the position."""
