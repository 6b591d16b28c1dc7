// Checks of the long convolution's arguments on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

FftArgs arguments(const View& u, const View& filter, const View& skip, const View& pre, const View& post,
                  const View& history, const View& tables, int64_t size, int threads) {
  FftArgs a{};
  a.dtype = activation_dtype(u, "u");
  const Dtype acc = accumulation(a.dtype);
  a.batch = u.shape[0], a.length = u.shape[1], a.channels = u.shape[2];
  a.past = history.shape.size() == 3 ? history.shape[1] : 0;
  a.filter = required(filter, "h", acc, {a.channels, -1});
  a.taps = filter.shape[1];
  a.size = size;
  if (a.taps < 1 || threads < 1 || !serves_size(size) || size < a.past + a.length)
    throw std::invalid_argument("fft_conv: the size of the transform must be 2^k, 3 2^k or 5 2^k and hold the signal");
  a.tables = required(tables, "tables", acc, {table_elements(size)});
  const std::vector<int64_t> activation = {a.batch, a.length, a.channels};
  a.u = rows(u, "u", a.dtype, activation);
  a.pre = rows(pre, "pre_gate", a.dtype, activation), a.post = rows(post, "post_gate", a.dtype, activation);
  a.history = rows(history, "history", acc, {a.batch, a.past, a.channels});
  a.skip = optional(skip, "skip", acc, {a.channels});
  a.splits = fft_splits(a.batch, a.channels);
  a.threads = threads;
  return a;
}

int forward(View u, View filter, View skip, View pre, View post, View history, View tables, int64_t size, View y,
            int threads) {
  FftArgs a = arguments(u, filter, skip, pre, post, history, tables, size, threads);
  a.y = required(y, "y", a.dtype, {a.batch, a.length, a.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(fft_forward, a));
}

int backward(View u, View filter, View skip, View pre, View post, View history, View tables, int64_t size, View dy,
             View du, View dfilter, View dskip, View dpre, View dpost, View dhistory, int threads) {
  FftArgs a = arguments(u, filter, skip, pre, post, history, tables, size, threads);
  const Dtype acc = accumulation(a.dtype);
  const std::vector<int64_t> activation = {a.batch, a.length, a.channels};
  a.dy = rows(dy, "dy", a.dtype, activation);
  a.du = required(du, "du", a.dtype, activation);
  a.dpre = optional(dpre, "dpre_gate", a.dtype, activation);
  a.dpost = optional(dpost, "dpost_gate", a.dtype, activation);
  a.dhistory = optional(dhistory, "dhistory", acc, {a.batch, a.past, a.channels});
  if (!dy.given() || dpre.given() != pre.given() || dpost.given() != post.given() ||
      dhistory.given() != history.given())
    throw std::invalid_argument("fft_conv: the gradients do not match the inputs");
  a.dfilter = required(dfilter, "dh", acc, {a.channels, a.taps});
  a.dskip = optional(dskip, "dskip", acc, {a.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(fft_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("fft_conv_forward", &forward);
  m.def("fft_conv_backward", &backward);
});

}  // namespace
}  // namespace seqconv
