"""Side-by-side measurements of the ops against what users have today."""
