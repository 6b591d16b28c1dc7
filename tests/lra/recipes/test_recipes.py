"""Recipes and options: every recipe is consistent, overrides are checked by name and type."""

import dataclasses
import json

import pytest

from lra.options import convert, split_overrides
from lra.recipes.catalog import FURTHER as PUBLISHED_FURTHER
from lra.recipes.catalog import MIXERS, create_recipe, list_recipes
from lra.recipes.recipe import Recipe
from lra.report.published_results import ROWS, published_for
from lra.tasks import TASKS, create_task
from lra.tasks.synthetic.base import Online
from seqconv import create_mixer

FURTHER = ("scifar", "smnist", "pmnist", "sc35", "sc10", "sc35-mfcc", "sc10-mfcc", "ptbxl", "enwik8", "wikitext103")
"""Data of other papers, with settings of seqconv's own for mixers that have none published."""


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_recipe_names_its_source_and_survives_json(task, mixer):
    recipe = create_recipe(task, mixer)
    assert recipe.source
    assert recipe.warmup_steps < recipe.steps or recipe.schedule == "rsqrt"
    assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe
    own = task.endswith("-small") or task in FURTHER or isinstance(create_task(task), Online)
    assert recipe.reduced == (own and mixer not in PUBLISHED_FURTHER.get(task, {}))


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_of_a_recipe_can_be_built(mixer):
    recipe = create_recipe("listops-small", mixer)
    assert not create_mixer(mixer, 16, **recipe.mixer_options).causal


def test_overrides_reach_every_level():
    changes = split_overrides(
        ["lr=0.002", "steps=7", "mixer.d_state=8", "mixer.lr=null", "task.convention=jax", "compile=true"]
    )
    recipe = create_recipe("listops-small", "s4d").override(changes)
    assert (recipe.lr, recipe.steps, recipe.compile) == (0.002, 7, True)
    assert recipe.mixer_options["d_state"] == 8
    assert recipe.mixer_options["lr"] is None
    assert recipe.mixer_options["bidirectional"] is True
    assert create_task(recipe.task, recipe.task_options).convention == "jax"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stpes": "7"}, r"override 'stpes'; wanted one of .*did you mean 'steps'"),
        ({"mixer.d_stat": "7"}, r"'d_stat'.*did you mean 'd_state'"),
        ({"task.sed": "7"}, r"option 'sed'.*did you mean 'seed'"),
        ({"steps": "many"}, r"steps='many'; wanted int"),
        ({"steps": "2.5"}, r"steps='2.5'; wanted int"),
        ({"steps": "true"}, r"steps='true'; wanted int"),
        ({"compile": "1"}, r"compile='1'; wanted bool"),
        ({"steps": "0"}, r"steps=0; wanted sizes of at least 1"),
        ({"lr": "NaN"}, r"lr=nan; wanted .* rates of at least 0"),
        ({"accumulate": "7"}, r"batch_size=64, accumulate=7.*that accumulate divides"),
        ({"schedule": "cosin"}, r"schedule 'cosin'.*did you mean 'cosine'"),
        ({"precision": "bf16"}, r"precision 'bf16'; wanted one of bfloat16, float16, float32"),
        ({"model.embedding_scal": "2"}, r"model option 'embedding_scal'.*did you mean 'embedding_scale'"),
        ({"model.vocab_size": "7"}, r"model option 'vocab_size'"),
        ({"mlp_every": "3"}, r"n_layers=4, mlp_every=3; wanted a multiple of mlp_every"),
        ({"task.seed": "x"}, r"task listops-small: received seed='x'; wanted int"),
    ],
)
def test_wrong_overrides_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        create_recipe("listops-small", "s4d").override(changes)


@pytest.mark.parametrize("mixer", MIXERS)
def test_what_is_shown_can_be_overridden(mixer):
    recipe = create_recipe("listops-small", mixer)
    assert recipe.override({name: value for name, (value, _) in recipe.overridable().items()}).overridable() == (
        recipe.overridable()
    )


@pytest.mark.parametrize(
    ("task", "mixer", "message"),
    [
        ("listop", "s4", r"task 'listop'; .*did you mean 'listops'"),
        ("listops", "s4dd", r"recipe 's4dd'; .*did you mean 's4d'"),
    ],
)
def test_unknown_names_name_the_nearest(task, mixer, message):
    with pytest.raises(ValueError, match=message):
        create_recipe(task, mixer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["lr"], r"'lr'; wanted name=value"), (["a=1", "a=2"], r"'a' twice; wanted each name once")],
)
def test_wrong_overrides_on_the_command_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_overrides(arguments)


def test_values_are_converted_to_the_field():
    assert convert("x", "n", "3", float) == 3.0
    assert convert("x", "n", "null", int | None) is None
    assert convert("x", "n", "3", str) == "3"
    assert convert("x", "n", False, bool) is False


def test_published_rows():
    assert ("S4 (second version)", 59.60, "S4 paper, table 10") in published_for("s4", "listops")
    assert published_for("s4", "listops-small") == []
    assert all(len(row.accuracies) == 6 for row in ROWS)


def test_recipes_are_listed():
    assert len(list_recipes()) == len(TASKS) * len(MIXERS)
    assert {field.name for field in dataclasses.fields(Recipe)} >= {"lr", "steps", "source"}
