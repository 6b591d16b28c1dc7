"""Reports over runs: tables, learning curves, artifacts."""
