"""Fitting: poles and residues of a recurrence for a given impulse response."""
