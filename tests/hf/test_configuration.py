"""The configuration: both names of a size, what it rejects, and that it survives a file."""

import pytest
from tiny import cases as mixer_cases
from tiny import config, label

from seqconv import SeqConvConfig, SeqConvForCausalLM, SeqConvForImageClassification, SeqConvModel, list_mixers


def test_sizes_have_the_names_of_transformers_and_their_own():
    made = SeqConvConfig(d_model=12, n_layers=3)
    assert (made.hidden_size, made.num_hidden_layers, made.d_model, made.n_layers) == (12, 3, 12, 3)


def test_defaults_build_a_model():
    assert SeqConvConfig().mixer in list_mixers()
    assert SeqConvForCausalLM(config()).num_parameters() > 0


@pytest.mark.parametrize("case", mixer_cases(), ids=label)
def test_survives_a_file(tmp_path, case):
    made = config(case[0], mixer_options=case[1], norm="rms", num_labels=5, pooling="last")
    made.save_pretrained(tmp_path)
    read = SeqConvConfig.from_pretrained(tmp_path)
    assert read.to_dict() == made.to_dict()
    assert set(read.mixer_options) == set(case[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "hyna"}, r"mixer 'hyna'.*did you mean 'hyena'"),
        ({"mixer": "hyena", "mixer_options": {"ordre": 3}}, r"option 'ordre'.*did you mean 'order'"),
        ({"layer_pattern": ["hyena", ["s4d", {"dt_mn": 1.0}]]}, r"option 'dt_mn'.*did you mean 'dt_min'"),
        ({"layer_pattern": []}, r"layer_pattern=\[\]; wanted a list of layers"),
        ({"layer_pattern": "hyena"}, r"layer_pattern='hyena'; wanted a list of layers"),
        ({"layer_pattern": [3]}, r"received 3; wanted a mixer name"),
        ({"layer_pattern": ["hyena"], "mixer_options": {"order": 3}}, r"a layer_pattern and mixer_options"),
        ({"dropout": float("nan")}, r"dropout=nan; wanted numbers that are finite"),
        ({"mixer_options": {"dt_min": float("nan")}}, r"nan.*wanted numbers that are finite"),
        ({"norm_options": {"eps": float("inf")}}, r"inf.*wanted numbers that are finite"),
        ({"dropout": 1.0}, r"dropout=1.0; wanted a probability in \[0, 1\)"),
        ({"hidden_size": 0}, r"hidden_size=0; wanted an integer of at least 1"),
        ({"hidden_size": 8.0}, r"hidden_size=8.0; wanted an integer"),
        ({"n_layers": True}, r"num_hidden_layers=True; wanted an integer"),
        ({"mlp_hidden": -1}, r"mlp_hidden=-1; wanted None or at least 1"),
        ({"mlp_ratio": "4"}, r"mlp_ratio='4'; wanted a number above 0"),
        ({"bidirectional": "yes"}, r"bidirectional='yes'; wanted True or False"),
        ({"pooling": "men"}, r"pooling 'men'.*did you mean 'mean'"),
        ({"norm_placement": "postt"}, r"norm_placement 'postt'.*did you mean 'post'"),
        ({"modality": "text "}, r"modality 'text '.*did you mean 'text'"),
        ({"patch_size": 5}, r"image_size=32 and patch_size=5; wanted a patch size that divides"),
        ({"mixer_options": [1]}, r"mixer_options=\[1\]; wanted a mapping or None"),
        ({"mixer_options": {"dt_min": {1, 2}}}, r"wanted numbers that are finite, strings"),
        ({"hiden_size": 8}, r"option 'hiden_size'.*did you mean 'hidden_size'"),
        ({"n_layer": 8}, r"option 'n_layer'.*did you mean 'n_layers'"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unannotated")
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SeqConvConfig(**options)


def test_options_of_blocks_raise_when_the_model_is_made():
    for options, message in (
        ({"norm": "layr"}, r"norm 'layr'.*did you mean 'layer'"),
        ({"mlp": "swiglue"}, r"mlp 'swiglue'.*did you mean 'swiglu'"),
        ({"residual": "som"}, r"residual 'som'.*did you mean 'sum'"),
    ):
        with pytest.raises(ValueError, match=message):
            SeqConvModel(config(**options))


def test_a_value_changed_afterwards_is_checked_too():
    made = config()
    made.hidden_size = -1
    with pytest.raises(ValueError, match="hidden_size=-1"):
        SeqConvModel(made)


def test_configuration_of_another_model_raises(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(ValueError, match=r"model_type 'bert'; wanted a seqconv checkpoint.*Remedy: .*AutoModel"):
        SeqConvModel.from_pretrained(tmp_path)


def test_causal_language_models_reject_what_depends_on_the_future():
    for options in (
        {"bidirectional": True},
        {"norm": "instance"},
        {"layer_pattern": ["s4d", ["s4d", {"bidirectional": True}]]},
    ):
        with pytest.raises(ValueError, match=r"layers \[.*\] that are not causal.*Remedy: .*SeqConvForMaskedLM"):
            SeqConvForCausalLM(config(**options))


def test_models_reject_other_modalities():
    with pytest.raises(ValueError, match=r"modality='audio'; wanted modality 'image'"):
        SeqConvForImageClassification(config(modality="audio"))
