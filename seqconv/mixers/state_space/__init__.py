"""State space mixers: linear recurrences of a state per channel or head, time-invariant (S4) or selective (Mamba)."""
