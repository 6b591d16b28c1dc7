"""What holds for every registered 2-D mixer: a new one is tested by registering it."""

import copy
import zlib

import pytest
import torch
from torch import Tensor, nn

from representatives import defaults
from seqconv import Mixer, create_mixer, list_mixers
from seqconv.registry import mixer_entry
from seqconv.vision import Mixer2d, create_mixer_2d, list_mixers_2d, mixer_2d_config, register_2d
from seqconv.vision.registry import mixer_2d_entry
from tolerances import assert_near

D_MODEL = 8
CASES = [(name, dict(options)) for name in list_mixers_2d() for options in ({}, *mixer_2d_entry(name).examples)]
every = pytest.mark.parametrize("case", CASES, ids=str)
any_size = pytest.mark.parametrize("case", [c for c in CASES if mixer_2d_entry(c[0]).mixer.any_size], ids=str)


def build(case, dtype=torch.float64) -> Mixer2d:
    """The mixer of a case with every parameter moved off its initial value (biases off zero)."""
    name, options = case
    torch.manual_seed(zlib.crc32(str(case).encode()))
    mixer = create_mixer_2d(name, D_MODEL, **options).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return mixer.to(dtype)


def small_images(case, batch: int = 2) -> Tensor:
    """Images of 4 by 5 cells, or of the one size that the mixer takes."""
    mixer = create_mixer_2d(case[0], D_MODEL, **case[1])
    return images(*((4, 5) if mixer.any_size else (mixer.image_size, mixer.image_size)), batch=batch)


def images(*sizes: int, batch: int = 2, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *sizes, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)


@any_size
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (4, 7), (9, 3)])
def test_any_size_keeps_its_shape(case, size):
    x = images(*size)
    y = build(case)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert build(case)(x[:0]).shape == (0, *size, D_MODEL)


@every
def test_images_in_a_batch_give_what_they_give_alone(case):
    mixer, x = build(case), small_images(case, batch=3)
    assert_near(mixer(x), torch.cat([mixer(x[i : i + 1]) for i in range(3)]))


@any_size
def test_images_of_different_sizes_share_a_batch(case):
    mixer, sizes = build(case), [(4, 6), (2, 3), (1, 6), (4, 1), (3, 3)]
    x = torch.full((len(sizes), 4, 6, D_MODEL), 7.0, dtype=torch.float64)
    mask, alone = torch.zeros(len(sizes), 4, 6, dtype=torch.bool), []
    for i, (height, width) in enumerate(sizes):
        image = images(4, 6, batch=5)[i : i + 1, :height, :width]
        x[i, :height, :width], mask[i, :height, :width] = image[0], True
        alone.append(mixer(image))
    y = mixer(x, mask=mask)
    for i, (height, width) in enumerate(sizes):
        assert_near(y[i : i + 1, :height, :width], alone[i], what=f"image of {height} by {width}")
    assert (y[~mask] == 0).all()


@every
def test_every_parameter_is_trained_and_cells_depend_on_each_other(case):
    mixer, x = build(case), small_images(case).requires_grad_()
    y = mixer(x)
    (gradient,) = torch.autograd.grad(y[0, 2, 2].sum(), x, retain_graph=True)
    assert gradient[1].abs().max() == 0
    gradient[0, 2, 2] = 0
    assert gradient[0].abs().max() > 1e-9, "no mixing of cells"
    y.square().sum().backward()
    idle = [n for n, p in mixer.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


@every
def test_float32_and_bfloat16_are_close_to_float64(case):
    mixer, x = build(case), small_images(case)
    want = mixer(x)
    for dtype in (torch.float32, torch.bfloat16):
        got = copy.deepcopy(mixer).to(dtype)(x.to(dtype))
        assert got.dtype == dtype
        assert got.isfinite().all()
        if mixer.continuous or dtype == torch.float32:
            assert_near(got, want, dtype=dtype, what=str(dtype))


@every
def test_hooks_of_the_mixer_and_of_its_children_fire(case):
    mixer, called = build(case), set[str]()
    for name, module in mixer.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    mixer(small_images(case))
    inside = [name for name in dict(mixer.named_modules()) if name.startswith("mixers.") and name.count(".") > 1]
    computing = {
        name
        for name, module in mixer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | Mixer | Mixer2d) and name not in inside
    }
    assert computing <= called


@every
def test_the_state_dict_alone_decides_and_so_does_the_seed(case):
    mixer, x = build(case), small_images(case)
    fresh = create_mixer_2d(case[0], D_MODEL, **case[1]).double().eval()
    fresh.load_state_dict(mixer.state_dict())
    assert torch.equal(fresh(x), mixer(x))
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(create_mixer_2d(case[0], D_MODEL, **case[1]).state_dict())
    assert all(torch.equal(drawn[0][k], drawn[1][k]) for k in drawn[0])


def reset(module: nn.Module) -> None:
    for child in module.children():
        reset(child)
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


@every
def test_a_mixer_built_on_meta_and_reset_equals_one_that_was_built(case):
    name, options = case
    if name == "scan":  # the tests of sequence mixers hold the others to it
        options = options | {"mixer": "sgconv", "mixer_options": None}
    torch.manual_seed(5)
    want = create_mixer_2d(name, D_MODEL, **options).state_dict()
    with torch.device("meta"):
        mixer = create_mixer_2d(name, D_MODEL, **options)
    torch.manual_seed(5)
    reset(mixer.to_empty(device="cpu"))
    got = mixer.state_dict()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


@pytest.mark.parametrize("case", defaults([c for c in CASES if not mixer_2d_entry(c[0]).experimental], str))
def test_compiles_without_graph_breaks(case, unannotated):
    mixer, x = build(case), small_images(case)
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    assert_near(compiled(x), mixer(x))


@pytest.mark.parametrize("name", list_mixers())
def test_a_scan_by_rows_is_the_sequence_mixer_on_the_flattened_image(name):
    torch.manual_seed(0)
    options = dict(mixer_entry(name).examples[0])
    scan = create_mixer_2d("scan", 8, mixer=name, mixer_options=options, orders=["row"]).double().eval()
    mixer = create_mixer(name, 8, **options).double().eval()
    mixer.load_state_dict(scan.mixers[0].state_dict())
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    assert_near(scan(x).flatten(1, 2), mixer(x.flatten(1, 2)))
    assert_near(scan(x[:, :1])[:, 0], mixer(x[:, 0]))


@pytest.mark.parametrize("name", list_mixers())
def test_cross_scans_commute_with_turning_the_image_if_their_mixer_is_shared(name):
    """Row, column and both reversed are permuted by a half turn, and by transposition."""
    torch.manual_seed(0)
    scan = create_mixer_2d("scan", 8, mixer=name, shared=True).double().eval()
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64)
    assert_near(scan(x.flip(1, 2)), scan(x).flip(1, 2), what="half turn")
    assert_near(scan(x.transpose(1, 2)), scan(x).transpose(1, 2), what="transposed")


def test_merges_are_sum_mean_and_projection():
    torch.manual_seed(0)
    made = {
        merge: create_mixer_2d("scan", D_MODEL, mixer="s4d", merge=merge).double().eval()
        for merge in ("sum", "mean", "concat")
    }
    made["mean"].load_state_dict(made["sum"].state_dict())
    projected = {k: v for k, v in made["concat"].state_dict().items() if k.startswith("out_proj")}
    made["concat"].load_state_dict(made["sum"].state_dict() | projected)
    x = images(3, 4)
    assert_near(made["mean"](x), made["sum"](x) / 4)
    with torch.no_grad():
        made["concat"].out_proj.weight.copy_(torch.eye(D_MODEL).repeat(1, 4))
        made["concat"].out_proj.bias.zero_()
    assert_near(made["concat"](x), made["sum"](x))


def test_axial_mixing_is_by_rows_and_then_by_columns():
    mixer, x = build(("axial", {"mixer": "s4d", "bidirectional": False})), images(3, 5)
    rows = torch.stack([mixer.rows[0](x[:, i]) for i in range(3)], dim=1)
    assert_near(mixer(x), torch.stack([mixer.columns[0](rows[:, :, j]) for j in range(5)], dim=2))
    both = build(("axial", {"mixer": "s4d"}))
    both.columns[1].load_state_dict(both.columns[0].state_dict())
    both.rows[1].load_state_dict(both.rows[0].state_dict())
    assert_near(both(x.flip(1)), both(x).flip(1))
    assert_near(both(x.flip(2)), both(x).flip(2))


def test_errors_say_what_to_do(unannotated):
    mixer, x = build(("hyena", {})), images(3, 4)
    holes = torch.ones(2, 3, 4, dtype=torch.bool)
    holes[0, 1, 1] = False
    shifted = torch.ones(2, 3, 4, dtype=torch.bool)
    shifted[0, 0] = False
    cases = {
        r"x of shape \(2, 3, 32\).*\(batch, height, width, d_model\).*Remedy": lambda: mixer(x.flatten(2)),
        r"x of shape \(2, 3, 4, 5\).*d_model=8.*Remedy": lambda: mixer(x[..., :5]),
        r"images of 0 by 4 cells.*Remedy": lambda: mixer(x[:, :0]),
        r"dtype torch.float16.*float64.*Remedy": lambda: mixer(x.half()),
        r"x on meta.*Remedy": lambda: mixer(x.to("meta")),
        r"mask of dtype torch.float32.*Remedy": lambda: mixer(x, mask=holes.float()),
        r"mask of shape \(2, 3, 3\).*Remedy": lambda: mixer(x, mask=holes[..., :3]),
        r"no rectangle at the top left.*Remedy": lambda: mixer(x, mask=holes),
        r"no rectangle at.*right and at the bottom": lambda: mixer(x, mask=shifted),
        r"2-D mixer 'hyna'.*did you mean 'hyena'": lambda: create_mixer_2d("hyna", 4),
        r"option 'ordr'.*did you mean 'order'": lambda: create_mixer_2d("hyena", 4, ordr=3),
        r"dropout=nan.*finite": lambda: create_mixer_2d("hyena", 4, dropout=float("nan")),
        r"d_model=0.*at least 1": lambda: create_mixer_2d("scan", 0),
        r"merge 'add'.*one of": lambda: create_mixer_2d("scan", 4, merge="add"),
        r"orders='row'.*orders=\['row'\]": lambda: create_mixer_2d("scan", 4, orders="row"),
        r"mixer 'mmba'.*did you mean 'mamba'": lambda: create_mixer_2d("scan", 4, mixer="mmba"),
        r"scan order 'rw'.*did you mean 'row'": lambda: create_mixer_2d("scan", 4, orders=["rw"]),
        r"the name 'hyena' a second time": lambda: register_2d("hyena")(Mixer2d),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
    assert mixer_2d_config("scan")().merge == "sum"
