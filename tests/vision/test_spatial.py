"""Hyena over images: the direct definitions, and the numbers of the original."""

import copy

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv.convolution.spatial import convolve_2d
from seqconv.interop import from_original
from seqconv.vision import DirectFilter2d, Hyena2d, HyenaFilter2d

RTOL, ATOL = 1e-9, 1e-12
ORIGINAL = "Itamarzimm/HyenaND:HyenaOperator2d"


def random_signal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def direct(u, taps, skip):
    """The definition of the quadrant convolution, (batch, channels, height, width)."""
    y = skip[:, None, None] * u
    for a in range(min(taps.shape[1], u.shape[2])):
        for b in range(min(taps.shape[2], u.shape[3])):
            y[:, :, a:, b:] += taps[:, a, b, None, None] * u[:, :, : u.shape[2] - a, : u.shape[3] - b]
    return y


def made(**options):
    torch.manual_seed(1)
    defaults = {"l_max": 5, "filter_order": 6, "emb_dim": 5, "w": 2.0}
    return Hyena2d(3, **defaults | options).double()


def test_outputs_filter_and_gradients_of_the_original():
    case = load_case("hyena2d")
    imported = Imported(ORIGINAL, case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    loss = (y * case.tensors["cot.y"]).sum()
    assert_close(loss, case.tensors["out.loss"], RTOL, ATOL, "loss")
    loss.backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    module = from_original(ORIGINAL, case.group("param"), **case.hyper)
    assert_close(module.filter(6, 6).permute(1, 2, 0), case.tensors["out.k2d"][0], RTOL, ATOL, "taps")
    assert_close(module(u), case.tensors["out.y"], RTOL, ATOL, "y of the loaded module")


def test_float32_is_close_to_the_original():
    case = load_case("hyena2d")
    params = {name: value.float() for name, value in case.group("param").items()}
    module = from_original(ORIGINAL, params, **case.hyper)
    assert_close(module(case.tensors["in.u"].float()), case.tensors["out.y"].float(), 1e-4, 1e-6)


def test_the_scale_of_the_original_is_an_option():
    case = load_case("hyena2d")
    imported = from_original(ORIGINAL, case.group("param"), **case.hyper)
    built = Hyena2d(4, l_max=6, filter_order=8, w=2.0).double()
    built.load_state_dict(imported.state_dict())
    v = random_signal(2, 4, 6, 6)
    gates, taps = [torch.ones_like(v)] * 2, built.filter(6, 6)
    zero = torch.zeros(4, dtype=torch.float64)
    skips = imported.D[0, :, None, None] * v
    assert_close(built._recur(gates, v, [taps]) - skips, direct(v, taps, zero), RTOL, ATOL)
    x = random_signal(2, 6, 6, 4)
    with torch.no_grad():
        imported.filter.networks[0].layers[-1].weight.mul_(12)
    assert_close(imported(x), built(x), RTOL, ATOL)


@pytest.mark.parametrize(("size", "reach"), [((5, 4), (5, 4)), ((4, 6), (2, 9)), ((1, 3), (3, 1)), ((1, 1), (1, 1))])
def test_convolution_is_its_definition(size, reach):
    u, taps, skip = random_signal(2, 3, *size), random_signal(3, *reach, seed=1), random_signal(3, seed=2)
    assert_close(convolve_2d(u, taps, skip=skip), direct(u, taps, skip), RTOL, ATOL)
    assert_close(convolve_2d(u, taps), direct(u, taps, 0 * skip), RTOL, ATOL)
    half = convolve_2d(u.bfloat16(), taps.float(), skip=skip.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.double(), direct(u, taps, skip), 0.05, 0.1)


def test_gradients_of_the_convolution():
    u, taps, skip = (t.requires_grad_() for t in (random_signal(1, 2, 3, 4), random_signal(2, 3, 2), random_signal(2)))
    assert torch.autograd.gradcheck(lambda u, taps, skip: convolve_2d(u, taps, skip=skip), (u, taps, skip))


def by_definition(module, x):
    """The whole operator in loops over directions and stages, from its docstring."""
    u = torch.nn.functional.conv2d(
        module.in_proj(x).permute(0, 3, 1, 2), module.short_conv.weight, module.short_conv.bias, padding=1, groups=len(
            module.in_proj.weight)
    )  # fmt: skip
    height, width, d, order = *x.shape[1:], module.order
    taps = module.filter(height, width).reshape(order - 1, d, height, width)

    def flipped(t, axes):
        return torch.flip(t, [2 if axis == "height" else 3 for axis in axes])

    def run(u, axes):
        *gates, v = (flipped(u[:, i * d : (i + 1) * d], axes) for i in range(order + 1))
        for stage, n in enumerate(range(order - 1, 0, -1)):
            around = ("height", "width") if module.directions == "seq" and stage == 0 else ()
            v = flipped(direct(flipped(v * gates[n], around), taps[stage], module.D[stage]), around)
        return flipped(v * gates[0], axes).permute(0, 2, 3, 1)

    if module.directions in ("standard", "seq"):
        return module.out_proj(run(u, ()))
    if module.directions == "parallel":
        sets = u.shape[1] // 4
        return module.out_proj(torch.cat([run(u[:, i * sets : (i + 1) * sets], ()) for i in range(4)], -1))
    parts = [run(u, axes) for axes in ((), ("height", "width"), ("width",), ("height",))]
    if module.directions == "4dir":
        mixed = sum(w * part for w, part in zip(module.mix.weight[0], parts, strict=True)) + module.mix.bias
    else:
        weight = module.mix.weight.unflatten(1, (d, 4))
        mixed = sum(part @ weight[..., i].T for i, part in enumerate(parts)) + module.mix.bias
    return module.out_proj(mixed)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("directions", ["standard", "seq", "4dir", "4dirp", "parallel"])
def test_directions_are_their_definition(directions, order):
    module, x = made(directions=directions, order=order), random_signal(2, 4, 5, 3)
    assert_close(module(x), by_definition(module, x), RTOL, ATOL)


@pytest.mark.parametrize(("directions", "everywhere"), [("standard", False), ("parallel", False), ("4dir", True)])
def test_what_an_output_depends_on(directions, everywhere):
    """The short convolution is centred, so the quadrant begins one row and one column further."""
    module = made(directions=directions)
    x = random_signal(1, 5, 5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[0, 1, 1].sum(), x)
    beyond = torch.cat([gradient[0, 3:].flatten(), gradient[0, :, 3:].flatten()]).abs()
    assert (beyond.min() > 1e-12) if everywhere else (beyond.max() < 1e-12)


@pytest.mark.parametrize("form", ["product", "joint"])
@pytest.mark.parametrize("window", ["fixed", "learned", "symmetric", "none"])
def test_filters_are_their_equations(form, window):
    if (form, window) == ("product", "symmetric"):
        pytest.skip("no such form")
    torch.manual_seed(0)
    root = form == "joint"
    filter = HyenaFilter2d(4, l_max=5, form=form, window=window, sqrt_window=root, shift=0.2, filter_order=3, w=2.0)
    filter = filter.double()
    got = filter(7, 4)
    assert (got[:, 5:] == 0).all()

    def network(layers, e):
        for layer in layers[:-1]:
            e = torch.sin(filter.frequency * (layer.weight @ e + layer.bias))
        return layers[-1].weight @ e

    for i in range(5):
        for j in range(4):
            e, times = (filter.positions[i], filter.positions[j]), (filter.times[i], filter.times[j])
            if form == "product":
                want = 1
                for axis in range(2):
                    want = want * network(filter.networks[axis].layers, e[axis])
                    if window != "none":
                        want = want * (torch.exp(-times[axis] * filter.decays[axis].abs()) + filter.shifts[axis])
            else:
                want = network(filter.networks[0].layers, torch.cat(e))
                if window == "symmetric":
                    want = want * (torch.exp(-(i + j) * filter.decays[0].abs()).sqrt() + filter.shifts[0])
                elif window != "none":
                    rate = times[0] * filter.decays[0].abs() + times[1] * filter.decays[1].abs()
                    want = want * (torch.exp(-rate).sqrt() + filter.shifts[0])
            assert_close(got[:, i, j], want, RTOL, ATOL, f"tap {i, j}")
    if window == "fixed":
        assert_close(filter.shifts, torch.full_like(filter.shifts, 0.2), 1e-6, 0)


def original_weights(directions, form, window, order=3, d=2, side=4, width=5, emb=3):
    """The tensors that the original's constructor makes, of random values."""
    sets, channels, inner = (4 if directions == "parallel" else 1), d * (order - 1), d * (order + 1)
    shapes = {
        "in_proj.weight": (inner, d), "in_proj.bias": (inner,), "short_filter.weight": (sets * inner, 1, 3, 3),
        "short_filter.bias": (sets * inner,), "out_proj.weight": (d, sets * d), "out_proj.bias": (d,),
    }  # fmt: skip
    if directions in ("4dir", "4dirp"):
        out, into = (1, 4) if directions == "4dir" else (d, 4 * d)
        shapes |= {"linear_mix.weight": (out, into), "linear_mix.bias": (out,)}
    if form == "direct":
        shapes |= {"filter": (order, d, side, side), "bias": (order, d)}
        return {name: random_signal(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    shapes |= {
        "filter_fn.bias": (channels,),
        "filter_fn.pos_emb.z": (1, side, emb),
        "filter_fn.pos_emb.t": (1, side, 1),
    }
    joint = form == "joint"
    for part in [""] if joint else ["X", "Y"]:
        prefix = f"filter_fn.{part}implicit_filter"
        for layer, into in ((0, emb * (1 + joint)), (2, width), (4, width)):
            shapes |= {f"{prefix}.{layer}.weight": (width, into), f"{prefix}.{layer}.bias": (width,)}
            shapes[f"{prefix}.{layer + 1}.freq"] = (1, width)
        shapes[f"{prefix}.6.weight"] = (channels, width)
        rates = [] if window == "no" else ["deltas"] if window == "symettric" or not joint else ["Xdeltas", "Ydeltas"]
        rates += ["shift"] if window in ("learn", "symettric") else []
        shapes |= {f"filter_fn.{part}modulation.{name}": (1, 1, channels) for name in rates}
    return {name: random_signal(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    ("directions", "form", "window"),
    [("seq", "joint", "standard"), ("4dir", "product", "learn"), ("4dirp", "joint", "symettric"),
     ("parallel", "joint", "learn"), ("standard", "direct", "standard"), ("seq", "product", "no")],
)  # fmt: skip
def test_every_option_of_the_original_is_read(directions, form, window):
    weights = original_weights(directions, form, window)
    hyper = {"d_model": 2, "l_max": 4, "order": 3, "filter_order": 5, "directional_mode": directions}
    hyper |= {"hyena2d_filter": form == "joint", "window_mode": window, "direct_paramtrization": form == "direct"}
    imported = Imported(ORIGINAL, weights, hyper)
    imported(random_signal(2, 4, 4, 2)).square().sum().backward()
    reached = set(imported.gradients())
    unused = {"filter_fn.pos_emb.t"} | {name for name in weights if name.endswith(".freq")}
    assert set(weights) - reached <= unused
    module = from_original(ORIGINAL, weights, **hyper)
    module.divide_by_side = False
    built, x = copy.deepcopy(module), random_signal(2, 4, 4, 2)
    assert_close(module(x), by_definition(built, x), RTOL, 1e-9)


def test_larger_images_are_mixed_within_the_window():
    module, x = made(l_max=3), random_signal(1, 7, 6, 3)
    assert_close(module(x), by_definition(module, x), RTOL, ATOL)
    filter = DirectFilter2d(2, l_max=2)
    assert (filter(3, 4)[:, 2:] == 0).all()
    assert (filter(3, 4)[:, :, 2:] == 0).all()
    assert torch.equal(filter(3, 4)[:, :2, :2], filter.taps)


def test_every_parameter_is_trained_and_filters_stay_wide():
    module = made(directions="4dirp", order=3, window="learned", form="joint")
    module(random_signal(2, 4, 4, 3)).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []
    half = made(directions="4dir").float().bfloat16()
    assert half.filter(4, 4).dtype == torch.float32
    assert half(torch.randn(1, 4, 4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_errors_say_what_to_do(unannotated):
    case = load_case("hyena2d")

    def read(**hyper):
        return from_original(ORIGINAL, case.group("param"), **case.hyper | hyper)

    x = torch.zeros(1, 4, 4, 3, dtype=torch.float64)
    cases = {
        r"order=1.*Remedy": lambda: made(order=1),
        r"directions '4dirs'.*did you mean '4dir'": lambda: made(directions="4dirs"),
        r"form 'joined'.*": lambda: made(form="joined"),
        r"window 'learn'.*did you mean 'learned'": lambda: made(window="learn"),
        r"window='symmetric'.*take form='joint'": lambda: made(window="symmetric"),
        r"emb_dim=4.*odd": lambda: made(emb_dim=4),
        r"l_max=0.*Remedy": lambda: made(l_max=0),
        r"DirectFilter2d.*l_max=0": lambda: made(l_max=0, direct=True),
        r"2 channels of taps for 3": lambda: convolve_2d(x.permute(0, 3, 1, 2), x[0, :2]),
        r"window_mode 'learned'.*did you mean 'learn'": lambda: read(window_mode="learned"),
        r"window_mode='symettric'.*hyena2d_filter=True": lambda: read(window_mode="symettric"),
        r"'filter_ordr'.*did you mean 'filter_order'": lambda: read(filter_ordr=3),
        r"directions '2dir'": lambda: read(directional_mode="2dir"),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
