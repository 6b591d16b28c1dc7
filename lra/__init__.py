"""Long Range Arena and companions: data, recipes, runs and reports; see ``python -m lra --help``."""

from .models.configuration import register_auto_classes

register_auto_classes()
