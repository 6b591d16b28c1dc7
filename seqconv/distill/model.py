"""Distilling whole models: long convolutions whose filter has no recurrence get a modal one in each channel."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..convolution.long_convolution import LongConvolution
from ..convolution.replacement import long_convolutions, modal_sizes, replace_filter
from ..filters.base import Filter
from ..filters.mixed import MixedFilter
from ..filters.state_space.modal import ModalFilter
from .certificates.budget import Choice, spend
from .certificates.certificate import Certificate
from .certificates.tail import taps_beyond
from .filter import distill_filter
from .fitting.gradient_mode import with_gradients
from .fitting.modes import Modes, put
from .fitting.sensitivity import Sensitivity, check_calibration, measured_divergence, sensitivities
from .task import ORDERS, Distilled, FilterTask, filter_task

FLOOR = 1e-3
"""Share of the mean of a spectrum that every frequency weighs at least."""


@dataclass(frozen=True)
class DistilledModel:
    """A distilled copy of a model, and what is proven about each of its filters.

    Attributes:
        model: the copy; its original is unchanged.
        certificates: of every filter that was tried, by the name of its convolution.
        kept: names of convolutions that keep their exact filter, because no channel can meet the tolerance. Of the
            others, channels whose certificate is not ``met`` keep their exact response.
        predicted_kl: divergence from the original's predictions on the calibration batch, in nats per token, as the
            Fisher information predicts it; ``None`` without calibration.
        measured_kl: the same, measured.
    """

    model: nn.Module
    certificates: dict[str, Certificate]
    kept: tuple[str, ...]
    predicted_kl: float | None = None
    measured_kl: float | None = None

    @property
    def channels(self) -> tuple[int, int]:
        """How many channels are distilled, and of how many."""
        met = [c.met for c in self.certificates.values()]
        return sum(int(m.sum()) for m in met), sum(len(m) for m in met)

    @property
    def convolutions(self) -> tuple[int, int]:
        """How many convolutions are distilled in every channel, and of how many."""
        return sum(bool(c.met.all()) for c in self.certificates.values()), len(self.certificates)

    @property
    def states(self) -> int:
        """Real states of all recurrences together."""
        return sum(int(c.order[c.met].sum()) for c in self.certificates.values())

    def __str__(self) -> str:
        parts = []
        for name, certificate in self.certificates.items():
            met, channels = int(certificate.met.sum()), len(certificate.met)
            fate = "distilled" if met == channels else f"{met} of {channels} channels distilled, the others kept exact"
            fate = "kept exact: no channel meets the tolerance" if name in self.kept else fate
            parts.append(f"{name or 'the module itself'} ({fate})\n{certificate}")
        if self.predicted_kl is not None:
            parts.append(f"KL per token: predicted {self.predicted_kl:.3g} nats, measured {self.measured_kl:.3g} nats")
        return "\n\n".join(parts)


@with_gradients
def distill(
    model: nn.Module,
    order: int | None = None,
    tolerance: float | None = None,
    *,
    state_budget: int | None = None,
    calibration: Int[Tensor, "batch length"] | None = None,
    length: int | None = None,
    within: int | None = None,
    recurrent: bool = False,
    weighted: bool = True,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    **options: Any,
) -> DistilledModel:
    """Replace the filters of a model by certified recurrences, so that it decodes with a constant state.

    Args:
        model: a model or mixer of seqconv; it is copied.
        order: real order of every recurrence.
        tolerance: relative H-infinity error allowed; a channel that cannot be proven to meet it keeps its exact
            filter, and is decoded by exact online convolution next to the recurrences of the others.
        state_budget: real states of all recurrences together, given to the channels that need them most by the
            divergence predicted on ``calibration``.
        calibration: token ids for a causal language model; with any of the three ways to choose orders it adds
            the predicted and the measured divergence to the result.
        length: taps that are fitted; by default as many as the filter defines. The certificates include a bound of
            the taps after them; it is infinite for a filter without end whose recurrence gives no bound.
        within: longest context of interest: as ``length``, and bounds of that window alone choose and are compared with
            the tolerance, as in :func:`~seqconv.distill.distill_filter`.
        recurrent: also replace filters that have a recurrence already (S4 to a lower order, say).
        weighted: solve residues under the spectra seen on ``calibration`` where no tolerance is asked for.
        progress: wraps the names of the filters while they are fitted, to show a progress bar.
        **options: ``method``, ``norm``, ``fir_head`` and ``refine_steps`` of
            :func:`~seqconv.distill.distill_filter`; the parameters take the dtype of the filter's, float32 at least.

    Raises:
        ValueError: nothing to distil, a filter without end and no ``length``, a budget without calibration, a
            calibration batch that is too short; as ``distill_filter``.
    """
    if calibration is not None:
        check_calibration(calibration)
        calibration = calibration.clone()  # one of inference mode cannot be saved for the derivatives
    reach = min((n for n in (length, within) if n is not None), default=None)
    taps = _all_taps(model, reach, recurrent)
    seen = None if calibration is None else sensitivities(model, calibration, {n: h.shape[1] for n, h in taps.items()})
    own = {name: options | _given(long_convolutions(model)[name], taps[name]) for name in taps}
    if seen is not None and tolerance is None and weighted:
        own = {name: own[name] | {"weight": _weight(seen[name])} for name in taps}
    if state_budget is None:
        results = {
            name: distill_filter(taps[name], order, tolerance, within=within and taps[name].shape[1], **own[name])
            for name in progress(taps)
        }
    elif order is not None or tolerance is not None:
        got = f"state_budget={state_budget} with order={order}, tolerance={tolerance}"
        raise argument_error("distill", got, "one way to choose the orders", "pass one of the three")
    elif seen is None:
        remedy = "pass calibration=token_ids"
        raise argument_error("distill", f"state_budget={state_budget} alone", "a calibration batch too", remedy)
    else:
        window = {name: options | {"window_only": within is not None} for name, options in own.items()}
        results = _within_budget(taps, window, seen, state_budget, progress)
    made = _replaced(model, results)
    if seen is None or calibration is None:
        return made
    predicted = sum(
        float(seen[name].from_taps(_error(taps[name], result.filter))[result.certificate.met].sum())
        for name, result in results.items()
    )
    return replace(made, predicted_kl=predicted, measured_kl=measured_divergence(model, made.model, calibration))


def _all_taps(model: nn.Module, length: int | None, recurrent: bool) -> dict[str, Tensor]:
    causal = {n: c for n, c in long_convolutions(model).items() if c.state_kind != "none"}
    chosen = {n: c for n, c in causal.items() if recurrent or not c.filter.recurrent}
    if not chosen:
        got = f"a model with {len(causal)} causal long convolutions, none without a recurrence"
        remedy = "pass recurrent=True to reduce recurrences, or a model with convolutional mixers"
        raise argument_error("distill", got, "a filter without a recurrence", remedy)
    return {name: _taps(name, conv, length) for name, conv in chosen.items()}


def _taps(name: str, conv: LongConvolution, length: int | None) -> Tensor:
    lengths = [n for n in (length, conv.filter.max_length) if n is not None]
    if not lengths:
        remedy = "pass length, the number of taps to fit"
        raise argument_error("distill", f"a filter without end in {name!r}", "a length", remedy)
    with torch.no_grad():
        taps: Tensor = conv.filter(min(lengths))
    return taps.double()


def _dtype(convolution: LongConvolution) -> torch.dtype:
    """What a modal filter in this place is stored in, and therefore certified in."""
    return torch.promote_types(next(convolution.filter.parameters()).dtype, torch.float32)


def _given(convolution: LongConvolution, taps: Tensor) -> dict[str, Any]:
    """What the task of a filter takes from its convolution."""
    return {"dtype": _dtype(convolution), "beyond": taps_beyond(convolution.filter, taps.shape[1])}


def _error(taps: Tensor, modal: ModalFilter) -> Tensor:
    return taps.cpu() - modal.in_float64().impulse_response(taps.shape[1])


def _weight(sensitivity: Sensitivity) -> Tensor:
    """The spectrum, with a floor so that no frequency goes unheard."""
    mean = sensitivity.spectrum.mean(1, keepdim=True)
    return torch.where(mean > 0, sensitivity.spectrum + FLOOR * mean, torch.ones_like(mean))


def _within_budget(
    taps: dict[str, Tensor],
    options: dict[str, dict[str, Any]],
    seen: dict[str, Sensitivity],
    budget: int,
    progress: Callable[[Iterable[str]], Iterable[str]],
) -> dict[str, Distilled]:
    """Fit every order of :data:`ORDERS`, predict what each costs, spend the budget, and put the chosen together.

    Spent by the spectra, predicted by the taps: a choice that is made by the numbers it is then judged by looks too
    good, and the spectra have fewer of them to fit.
    """
    tasks = {name: filter_task(h, ORDERS[-1], **options[name]) for name, h in taps.items()}
    fitted = {name: _every_order(tasks[name]) for name in progress(taps)}
    choices = {}
    for name, task in tasks.items():
        errors = [_error(taps[name], task.modal(modes)) for modes in fitted[name].values()]
        costs = [seen[name].from_spectrum(error) for error in errors]
        choices[name] = Choice(tuple(fitted[name]), torch.stack(costs, dim=1))
    results = {}
    for name, orders in spend(choices, budget).items():
        modes: Modes = tasks[name].no_modes(ORDERS[-1] + 1)
        for d in orders.unique().tolist():
            rows = orders == d
            put(modes, rows, Modes(*(part[rows] for part in fitted[name][d])))
        results[name] = tasks[name].finish(modes, None, (f"orders from a budget of {budget} real states",))
    return results


def _every_order(task: FilterTask) -> dict[int, Modes]:
    """Modes of every one of :data:`ORDERS`, and none for order 0."""
    found = {0: task.no_modes()}
    for order in ORDERS:
        found[order] = task.fit(order, found[max(found)])[0]
    return found


def _replaced(model: nn.Module, results: dict[str, Distilled]) -> DistilledModel:
    copied = copy.deepcopy(model)
    certificates = {name: result.certificate for name, result in results.items()}
    kept = tuple(name for name, certificate in certificates.items() if not bool(certificate.met.any()))
    for name, result in results.items():
        if name not in kept:
            before = long_convolutions(copied)[name].filter
            replace_filter(copied, name, _distilled_part(before, result).to(next(before.parameters()).device))
    for part in copied.modules():
        backbone, config = getattr(part, "backbone", None), getattr(part, "config", None)
        if isinstance(backbone, nn.Module) and config is not None:
            cast(Any, config).modal_filters = modal_sizes(backbone)
    return DistilledModel(copied, certificates, kept)


def _distilled_part(before: Filter, result: Distilled) -> Filter:
    """The modal filter, or, where channels miss the tolerance, a mixed one in which they stay as they are.

    Raises:
        ValueError: a channel that misses the tolerance and was distilled before: its earlier recurrence would have to
            stay next to the new ones.
    """
    met = result.certificate.met
    if bool(met.all()):
        return result.filter
    exact: list[int] = (~met).nonzero().flatten().tolist()
    if isinstance(before, MixedFilter):
        if again := sorted(set(exact) - set(before.exact_channels)):
            got, wanted = f"channels {again[:8]} that were distilled before", "channels that meet the tolerance again"
            raise argument_error("distill", got, wanted, "distil the exact model to this tolerance")
        before = before.exact
    return MixedFilter(before, result.filter.select(met.nonzero().flatten()), exact)
