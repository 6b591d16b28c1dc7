"""Linear attention mixers: a matrix state per head, with decays, gates and the delta rule."""
