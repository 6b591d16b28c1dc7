"""Recipes by task and mixer: published settings with their source, and reduced ones for two processor cores.

A mixer without a published setting on a task trains as S4D, and its recipe says so in ``source``. Which file and commit
a published recipe follows, every value of it, and what differs: :mod:`~lra.recipes.published`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from seqconv_kernels._core.errors import unknown_name

from ..tasks import TASKS
from .attention import SIZES, attention
from .language import mega_text, s4_words
from .mega import mega
from .published import published_settings
from .recipe import Options, Recipe
from .reduced import companion, small
from .s4 import further_s4, s4, s4d, third_version
from .s5 import s5
from .sgconv import LENGTHS, sgconv

UNPUBLISHED = "no published setting; trained as S4D with seqconv's own mixer options"
LARGER = {"pathfinder64": ("pathfinder", 4096), "path256": ("pathx", 65536), "path512": ("pathx", 262_144)}
"""Sizes without published settings of their own, but for attention's: whose settings they take, and their length."""
MIXERS = (
    "s4", "s4d", "s5", "sgconv", "hyena", "mega", "tcnca", "mamba", "mamba2", "mamba3", "gla", "gated_deltanet", "kda",
    "rwkv7", "rg_lru", "gated_short_conv", "attention",
)  # fmt: skip
PUBLISHED: Mapping[str, Callable[[str], Recipe]] = {
    "s4": s4,
    "s4d": s4d,
    "s5": s5,
    "sgconv": sgconv,
    "mega": mega,
    "attention": attention,
}
FURTHER: Mapping[str, Mapping[str, Callable[[str], Recipe]]] = {
    "sc35": {"s4": further_s4, "s5": s5},
    "scifar": {"s4": further_s4},
    "wikitext103": {"s4": s4_words, "mega": mega_text},
    "enwik8": {"mega": mega_text},
}
"""Published settings on tasks outside of the benchmark."""


def create_recipe(task: str, mixer: str) -> Recipe:
    """The recipe of a mixer on a task.

    Raises:
        ValueError: unknown task or mixer; the nearest are named.
    """
    if task not in TASKS:
        raise unknown_name("create_recipe", "task", task, TASKS)
    if mixer not in MIXERS:
        raise unknown_name("create_recipe", "recipe", mixer, MIXERS)
    if task in LARGER and not (mixer == "attention" and task in SIZES):
        return _as_smaller(task, mixer)
    if task in LENGTHS or task in LARGER:
        return _published(task, mixer) if mixer in PUBLISHED else unpublished(task, mixer)
    if mixer in FURTHER.get(task, {}):
        return _published(task, mixer)
    return small(task, mixer) if task.endswith("-small") else companion(task, mixer)


def _published(task: str, mixer: str) -> Recipe:
    make = FURTHER.get(task, PUBLISHED)[mixer]
    return replace(make(task), source=published_settings(mixer, task).source)


def unpublished(task: str, mixer: str) -> Recipe:
    """A mixer without published settings, trained as S4D."""
    options: Options = {"bidirectional": True, **({"l_max": LENGTHS[task]} if mixer == "hyena" else {})}
    training = {"mask_padding": "pooling", **third_version(task)}
    return Recipe(f"{task}/{mixer}", task, mixer, mixer_options=options, source=UNPUBLISHED, **training)


def _as_smaller(task: str, mixer: str) -> Recipe:
    other, length = LARGER[task]
    recipe = create_recipe(other, mixer)
    longer = {name: length for name in ("l_max", "max_positions") if name in recipe.mixer_options}
    source = f"as {other}: {recipe.source}"
    return replace(
        recipe, name=f"{task}/{mixer}", task=task, mixer_options=recipe.mixer_options | longer, source=source
    )


def differences(recipe: Recipe) -> dict[str, str]:
    """In what a recipe of the catalog departs from the source that it names, and why; nothing without a source."""
    task = LARGER[recipe.task][0] if recipe.source.startswith("as ") else recipe.task
    if recipe.mixer not in PUBLISHED or recipe.reduced or recipe.source == UNPUBLISHED:
        return {}
    settings = published_settings(recipe.mixer, task)
    found = settings.departures(_published(task, recipe.mixer))
    return {name: f"{found[name]}: {why}" if name in found else why for name, why in settings.differs.items()}


def list_recipes() -> list[Recipe]:
    """Every recipe of every task."""
    return [create_recipe(task, mixer) for task in TASKS for mixer in MIXERS]
