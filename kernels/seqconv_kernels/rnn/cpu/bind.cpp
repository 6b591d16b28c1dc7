// Checks of the recurrent cells' arguments on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

struct Sizes {
  std::vector<int64_t> channels, projected, saved, weight, bias, states;
  Dtype acc;
};

Sizes sizes(const RnnArgs& s) {
  const RnnSizes c = kRnnSizes[int(s.cell)];
  const int64_t channels = s.heads * s.width;
  return {{s.batch, s.length, channels},
          {s.batch, s.length, c.gates * channels},
          {s.batch, s.length, c.saved * channels},
          {c.gates, s.heads, s.width, s.width},
          {c.gates, s.heads, s.width},
          {s.segments.count, c.states, channels},
          accumulation(s.dtype)};
}

RnnArgs arguments(const View& x, Dtype dtype, const View& weight, const View& bounds, const View& starts, int cell,
                  int threads) {
  RnnArgs s{};
  if (cell < 0 || cell > int(RnnCell::slstm) || threads < 1 || x.shape.size() != 3 || weight.shape.size() != 4)
    throw std::invalid_argument("rnn: an unknown cell, or x or the weight is missing");
  s.dtype = dtype, s.cell = RnnCell(cell), s.threads = threads;
  s.batch = x.shape[0], s.length = x.shape[1], s.heads = weight.shape[1], s.width = weight.shape[2];
  s.segments = segments(bounds, s.batch, s.length);
  s.starts = (const int64_t*)optional(starts, "starts", Dtype::i64, {s.batch});
  const Sizes z = sizes(s);
  s.weight = required(weight, "recurrent_weight", z.acc, z.weight);
  return s;
}

int forward(View x, View weight, View bias, View initial, View starts, View bounds, View y, View saved,
            View final_state, int cell, int threads) {
  RnnArgs s = arguments(x, activation_dtype(x, "x"), weight, bounds, starts, cell, threads);
  const Sizes z = sizes(s);
  s.x = rows(x, "x", s.dtype, z.projected);
  s.bias = optional(bias, "bias", z.acc, z.bias);
  s.initial = optional(initial, "initial_state", z.acc, z.states);
  s.y = required(y, "y", z.acc, z.channels);
  s.saved = optional(saved, "saved", z.acc, z.saved);
  s.final_state = required(final_state, "final_state", z.acc, z.states);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(rnn_forward, s));
}

int backward(View weight, View initial, View starts, View bounds, View y, View saved, View dy, View dfinal, View dx,
             View dweight, View dbias, View dinitial, int cell, int threads) {
  RnnArgs s = arguments(y, activation_dtype(y, "y"), weight, bounds, starts, cell, threads);
  const Sizes z = sizes(s);
  s.initial = optional(initial, "initial_state", z.acc, z.states);
  s.y = required(y, "y", z.acc, z.channels), s.saved = required(saved, "saved", z.acc, z.saved);
  s.dy = required(dy, "dy", z.acc, z.channels), s.dfinal = optional(dfinal, "dfinal", z.acc, z.states);
  s.dx = required(dx, "dx", z.acc, z.projected), s.dweight = required(dweight, "dweight", z.acc, z.weight);
  s.dbias = required(dbias, "dbias", z.acc, z.bias), s.dinitial = required(dinitial, "dinitial", z.acc, z.states);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(rnn_backward, s));
}

const Bindings bindings([](nb::module_& m) {
  m.def("rnn_forward", &forward);
  m.def("rnn_backward", &backward);
});

}  // namespace
}  // namespace seqconv
