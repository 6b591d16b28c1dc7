"""Terminator's block of hyper-kernels: the original's numbers, of a batch and of single images."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.vision import create_mixer_2d, list_mixers_2d
from seqconv.vision.registry import mixer_2d_entry
from tolerances import assert_near

SMALL = {"image_size": 5, "kernel_sizes": [3, 3, 5, 3], "hidden": [4, 3, 3, 2, 3], "layers": [2, 1, 1, 2, 1]}


def last(x):
    return x.movedim(1, -1).contiguous()


def test_outputs_and_gradients_of_the_original():
    case = load_case("vision/terminator_layer")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = last(case.tensors["in.x"].double()).requires_grad_()
    y = imported(x)
    assert_close(y, last(case.tensors["out.y"]), 1e-9, 1e-9, "outputs")
    (y * last(case.tensors["cot.y"])).sum().backward()
    gradients = {k: v.double() for k, v in case.group("grad").items()}
    assert_close(x.grad, last(gradients.pop("in.x")), 1e-6, 1e-6, "gradient of the images")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, gradients, 1e-6, 1e-6 * largest)


def test_each_image_gives_what_the_original_gives_for_it_alone():
    case = load_case("vision/terminator_layer")
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    x = last(case.tensors["in.x"].double())
    image = from_original(case.meta["original"], params, statistics="image")
    assert_near(image(x), last(case.tensors["out.y_single"]))
    batch = from_original(case.meta["original"], params)
    assert_near(torch.cat([batch(x[i : i + 1]) for i in range(3)]), image(x))
    assert (batch(x) - image(x)).abs().max() > 0.1
    assert not torch.allclose(batch(x)[:2], batch(x[:2]))


def test_it_is_marked_as_experimental():
    marked = [name for name in list_mixers_2d() if mixer_2d_entry(name).experimental]
    assert marked == ["hyper_kernel"]
    assert mixer_2d_entry("hyper_kernel").summary.startswith("Experimental. Kernels as large as the image")


def test_padding_of_whole_images_and_packed_images_are_taken():
    torch.manual_seed(0)
    mixer = create_mixer_2d("hyper_kernel", 4, **SMALL).double()
    x = torch.randn(2, 5, 5, 4, dtype=torch.float64)
    assert torch.equal(mixer(x, mask=torch.ones(2, 5, 5, dtype=torch.bool)), mixer(x))
    packed = mixer(x.flatten(0, 2)[None, None], sizes=[(5, 5), (5, 5)])
    assert_near(packed.view_as(x), mixer(x))


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["image", "batch"])
def test_compiles_without_graph_breaks(statistics, unannotated):
    torch.manual_seed(0)
    mixer, x = create_mixer_2d("hyper_kernel", 4, statistics=statistics, **SMALL).eval(), torch.randn(2, 5, 5, 4)
    torch.compiler.reset()
    assert_near(torch.compile(mixer, fullgraph=True, backend="aot_eager")(x), mixer(x))


def test_bad_sizes_raise(unannotated):
    mixer = create_mixer_2d("hyper_kernel", 4, **SMALL)
    mask = torch.ones(1, 5, 5, dtype=torch.bool)
    mask[:, 4:] = False
    case = load_case("vision/terminator_layer")
    read = lambda **hyper: from_original(case.meta["original"], case.group("param"), **hyper)  # noqa: E731
    cases = {
        r"images of 5 by 4 cells.*5 by 5 cells.*Remedy: resize": lambda: mixer(torch.randn(1, 5, 4, 4)),
        r"images of 6 by 6 cells.*5 by 5": lambda: mixer(torch.randn(1, 6, 6, 4)),
        r"images of 5 by 5 cells under a mask.*all of them real": lambda: mixer(torch.randn(1, 5, 5, 4), mask=mask),
        r"statistics 'batches'.*did you mean 'batch'": lambda: create_mixer_2d("hyper_kernel", 4, statistics="batches"),
        r"kernel_sizes=\[3, 4, 5, 3\].*odd": lambda: create_mixer_2d("hyper_kernel", 4, kernel_sizes=[3, 4, 5, 3]),
        r"image_size=1": lambda: create_mixer_2d("hyper_kernel", 4, image_size=1),
        r"5 widths and 5 numbers": lambda: create_mixer_2d("hyper_kernel", 4, hidden=[8, 8]),
        r"bottleneck_factor=2.*as wide as its input": lambda: read(bottleneck_factor=2),
        r"num_concat_pre=1.*earlier layers": lambda: read(num_concat_pre=1),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
