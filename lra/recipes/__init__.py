"""Everything that a run depends on: recipes by task and mixer, options, budgets, published results."""
