"""Recipes: everything that a run depends on, by task and mixer."""

from .catalog import create_recipe, list_recipes
from .recipe import Recipe

__all__ = ["Recipe", "create_recipe", "list_recipes"]
