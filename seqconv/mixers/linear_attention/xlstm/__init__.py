"""xLSTM's matrix memory: the cell, the layer of the paper and that of the 7B model."""
