"""Reading, storing and batching data sets."""
