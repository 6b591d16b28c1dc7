"""Published SaShiMis: options and sizes of the original's configurations, and its weights in one of transformers'."""

import pytest
import torch

from golden_cases import load_case
from seqconv import SeqConvForCausalLM, from_original, to_transformers
from seqconv.zoo.sashimi import SASHIMI, list_sashimi, sashimi_config


@pytest.mark.parametrize("name", SASHIMI)
def test_sizes_are_the_published_ones(name):
    entry, config = SASHIMI[name], sashimi_config(name)
    with torch.device("meta"):
        model = SeqConvForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(entry.millions, abs=0.006)
    assert (config.hidden_size, config.num_hidden_layers, config.pool_sizes) == (64, 8, [4, 4])
    assert config.mixer_options.get("n_ssm") == (None if config.pool_unet else 1)
    assert entry.source.endswith(f"/{name.replace('_', '-')}.yaml")


def test_weights_of_the_original_go_into_a_model_of_the_same_sizes():
    case = load_case("vision/sashimi_model")
    o, params = case.hyper, {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    sizes = {"hidden_size": o["d_model"], "num_hidden_layers": o["n_layers"], "pool_sizes": o["pool"]}
    mixer = {"d_state": o["d_state"], "dt_transform": "exp"}
    original = from_original(case.meta["original"], params, **o)
    for module in original.modules():  # the original's cut kernels have a length; fresh ones have none
        mixer |= {"l_max": module.l_max} if getattr(module, "l_max", None) else {}
    model = to_transformers("sashimi_sc09", vocab_size=9, mixer_options={**mixer, "l_max": None}, **sizes).double()
    assert set(model.model.backbone.state_dict()) == set(original.state_dict())
    shapes = {k: v.shape for k, v in model.model.backbone.state_dict().items()}
    assert shapes == {k: v.shape for k, v in original.state_dict().items()}
    x = torch.randn(2, 11, o["d_model"], dtype=torch.float64)
    fresh = model.model.backbone(x)
    model.model.backbone.load_state_dict(original.state_dict())
    assert not torch.equal(model.model.backbone(x), fresh)


def test_a_named_model_generates():
    torch.manual_seed(0)
    model = to_transformers("sashimi_sc09", hidden_size=8, num_hidden_layers=1)
    tokens = torch.randint(0, 256, (1, 21))
    written = model.generate(tokens, max_new_tokens=4, do_sample=False)
    again = model.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=False)
    assert written.shape == (1, 25)
    assert torch.equal(written, again)


def test_unknown_names_raise():
    assert list_sashimi("*sc09*") == ["sashimi_sc09", "sashimi_sc09_unet"]
    with pytest.raises(ValueError, match="did you mean 'sashimi_sc09'"):
        sashimi_config("sashimi_sc9")
