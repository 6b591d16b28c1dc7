"""Attention mixers: softmax attention, whole, windowed or in chunks, alone and after a recurrence or a convolution."""
