"""Recipes against the tables of published settings: equal value by value, or listed with the reason."""

import pytest
import torch

from lra.models.build import build_model, parameter_groups
from lra.recipes.catalog import FURTHER, PUBLISHED, create_recipe, differences
from lra.recipes.published import _KEYS, FOLDER, published_settings, read_table
from lra.tasks import create_task
from seqconv.filters.state_space.state_space import StateSpaceFilter

TABLES = [
    (path.stem.removesuffix("_language"), task)
    for path in sorted(FOLDER.glob("*.toml"))
    for task in read_table(path)
    if task not in _KEYS
]
EVERYWHERE = {
    "n_layers",
    "d_model",
    "norm",
    "norm_placement",
    "dropout",
    "input_dropout",
    "mlp",
    "pooling",
    "schedule",
} | {
    *(
        "batch_size",
        "lr",
        "weight_decay",
        "decay_all",
        "steps",
        "warmup_steps",
        "warmup_power",
        "beta1",
        "beta2",
        "eps",
    ),
    *("max_grad_norm", "classifier_hidden", "position_embedding", "task.convention", "mixer.dropout"),
}
"""What every table says."""
SIX = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")


def test_every_published_recipe_has_a_table():
    further = {(mixer, task) for task, mixers in FURTHER.items() for mixer in mixers}
    larger = {("attention", "pathfinder64"), ("attention", "path256")}
    assert {(mixer, task) for mixer in PUBLISHED for task in SIX} | further | larger == set(TABLES)


@pytest.mark.parametrize(("mixer", "task"), TABLES)
def test_a_recipe_equals_its_source_or_says_why_not(mixer, task):
    recipe, settings = create_recipe(task, mixer), published_settings(mixer, task)
    assert recipe.source == settings.source
    assert settings.values.keys() <= recipe.overridable().keys(), "a published value by an unknown name"
    departures = settings.departures(recipe)
    assert departures.keys() <= settings.differs.keys(), "a difference without a reason"
    assert settings.differs.keys() & settings.values.keys() == departures.keys(), "a reason without a difference"
    assert settings.values.keys() >= EVERYWHERE - (
        set() if hasattr(create_task(task), "convention") else {"task.convention"}
    )
    shown = differences(recipe)
    assert set(shown) == set(settings.differs)
    assert all(shown[name].startswith(departures[name]) for name in departures)


def test_values_that_change_results():
    """Read once more by hand: what was wrong in recipes before."""
    s4, image = create_recipe("listops", "s4"), create_recipe("image", "s4")
    assert (s4.mask_padding, s4.mixer_options["dt_transform"], s4.mixer_options["n_ssm"]) == (
        "mixer_inputs",
        "softplus",
        1,
    )
    assert image.mixer_options["lr"] == dict.fromkeys(("dt", "A", "B", "C", "P"), 1e-3)
    assert (image.mixer_options["dropout"], image.mixer_options["n_ssm"]) == (0.1, 1)
    assert create_recipe("image", "s4d").mixer_options["n_ssm"] == 2
    mega = create_recipe("pathx", "mega")
    assert (mega.warmup_power, mega.mixer_options["truncation"], mega.decay_all) == (2, 4096, True)
    assert create_recipe("text", "mega").task_options == {"convention": "mega"}
    attention = create_recipe("image", "attention")
    assert (attention.beta2, attention.eps, attention.mlp_dropout, attention.pooling) == (0.98, 1e-9, 0.3, "cls")
    assert create_recipe("path256", "attention").n_layers == 2
    pairs = create_recipe("retrieval", "attention")
    assert (pairs.pooling, pairs.mlp) == ("first", "gelu_tanh")
    scales = [create_recipe("pathx", mixer).task_options.get("convention", "s4") for mixer in ("s4", "sgconv", "s5")]
    assert scales == ["s4", "mega", "mega"], "pixels in [0, 1] or [-1, 1]"
    assert "no published setting" in create_recipe("image", "mamba").source


def _model(recipe, tmp_path):
    task = create_task(recipe.task, recipe.task_options)
    task.prepare(tmp_path, quiet=True)
    return build_model(recipe, task.load(tmp_path))


SMALL = {"task.train": 40, "task.val": 20, "task.test": 20, "d_model": 8, "n_layers": 1}


def test_optimiser_groups_of_s4_are_those_of_its_code(tmp_path):
    """With rates by name, dt and C train at the main rate and only C decays; with one number all train at it."""
    by_name = create_recipe("listops", "s4").override({**SMALL, "mixer.l_max": None})
    one = by_name.override({"mixer.lr": create_recipe("image", "s4").mixer_options["lr"]})
    for recipe, rates in (
        (by_name, {"inv_dt": 0.01, "C": 0.01, "A_real": 1e-3, "P": 1e-3}),
        (one, {"inv_dt": 1e-3, "C": 1e-3}),
    ):
        model = _model(recipe, tmp_path)
        groups = {id(p): group for group in parameter_groups(model, recipe) for p in group["params"]}
        (filter,) = [module for module in model.modules() if isinstance(module, StateSpaceFilter)]
        for name, rate in rates.items():
            group = groups[id(getattr(filter, name))]
            assert group["lr"] == rate, name
            assert group["weight_decay"] == (0.05 if name == "C" else 0.0), name


def test_optimisers_without_groups_decay_everything(tmp_path):
    recipe = create_recipe("listops", "mega").override({**SMALL, "mixer.d_k": 4, "mixer.d_v": 8})
    groups = parameter_groups(_model(recipe, tmp_path), recipe)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.001, 0.01)}


def test_padding_enters_norms_but_not_mixers(tmp_path):
    """In evaluation the two ways of masking agree; in training batch statistics tell them apart."""
    recipe = create_recipe("listops", "s4").override({**SMALL, "mixer.l_max": None, "n_layers": 2})
    task = create_task("listops", recipe.task_options)
    task.prepare(tmp_path, quiet=True)
    data = task.load(tmp_path)
    batch = data.collate([data.splits["train"][i] for i in range(4)])
    logits = {}
    for masking in ("mixer_inputs", "everywhere", "pooling"):
        torch.manual_seed(0)
        model = build_model(recipe.override({"mask_padding": masking}), data)
        with torch.no_grad():
            logits[masking] = [model.train(training)(**batch).logits for training in (False, True)]
    assert torch.allclose(logits["mixer_inputs"][0], logits["everywhere"][0], atol=1e-5)
    assert not torch.allclose(logits["mixer_inputs"][1], logits["everywhere"][1], atol=1e-5)
    assert not torch.allclose(logits["mixer_inputs"][0], logits["pooling"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"read published settings s4.toml: received .*No such file"),
        ("values = ", r"read published settings s4.toml: received .*; wanted a TOML file"),
        ("source = 3", r"received source=3; wanted a str"),
        ('source = "a"\ncommit = "b"\nfiles = []\n[values]\n[differs]\n[listops]\nfile = "c"', r"received \[listops\]"),
        ('source = "a"\ncommit = "b"\nfiles = []\n[values]\n[differs]', r"received no \[listops\]; wanted a table"),
    ],
)
def test_a_malformed_table_is_one_clear_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s4.toml").write_text(content)
    with pytest.raises(ValueError, match=message):
        published_settings("s4", "listops", tmp_path)
