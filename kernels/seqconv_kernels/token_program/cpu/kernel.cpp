// The ops of a token, each cut into items that a team of threads takes in turn; a barrier ends each op.
//
// Numbers between ops are float32 whatever the dtype of the model; parameters, states and what enters and leaves the
// list are widened and rounded where they are read and written. Lanes are channels, but in the scan and in attention,
// where they are the states of a channel and the channels of a head.
#include "kernel.hpp"

#include "../../_cpp/parallel.hpp"
#include "../../skinny_linear/cpu/product.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

using T = float;
using V = Vec<float>;
using M = Memory<float, float>;
constexpr int W = Lanes<float>::count;
constexpr int64_t kChannels = 16 * W;  // of an item of the short convolution, the scan and the gate

SEQCONV_INLINE V read(const void* data, Dtype dtype, int64_t i, int live) {
  if (dtype == Dtype::bf16) return load<T, bf16>((const bf16*)data + i, live);
  if (dtype == Dtype::f16) return load<T, f16>((const f16*)data + i, live);
  return load<T, T>((const T*)data + i, live);
}
SEQCONV_INLINE void write(void* data, Dtype dtype, int64_t i, V v, int live) {
  if (dtype == Dtype::bf16) return store<T, bf16>((bf16*)data + i, v, live);
  if (dtype == Dtype::f16) return store<T, f16>((f16*)data + i, v, live);
  store<T, T>((T*)data + i, v, live);
}
SEQCONV_INLINE V read(const TokenRows& x, int64_t row, int64_t i, int live) {
  return read(x.data, x.dtype, row * x.stride + i, live);
}
SEQCONV_INLINE void write(const TokenRows& x, int64_t row, int64_t i, V v, int live) {
  write(x.data, x.dtype, row * x.stride + i, v, live);
}
SEQCONV_INLINE V read(const TokenVector& v, int64_t i, int live) { return read(v.data, v.dtype, i, live); }
SEQCONV_INLINE T get(const TokenVector& v, int64_t i) {
  if (v.dtype == Dtype::bf16) return Memory<T, bf16>::get((const bf16*)v.data + i);
  if (v.dtype == Dtype::f16) return Memory<T, f16>::get((const f16*)v.data + i);
  return ((const T*)v.data)[i];
}
SEQCONV_INLINE T lane_sum(V v) {
  T sum = 0;
  for (int i = 0; i < W; ++i) sum += v[i];
  return sum;
}
SEQCONV_INLINE int lanes_left(int64_t i, int64_t width) { return int(min(W, width - i)); }

// x P(X < x) of a standard normal X. With y = |x| / sqrt 2: P(X < -|x|) = erfc(y) / 2, erfc(y) = t p(t) exp(-y^2) with
// t = 1 / (1 + 0.3275911 y), error 1.5e-7 (Abramowitz and Stegun 7.1.26).
SEQCONV_INLINE V gelu(V x) {
  const V y = -minus_magnitude<T>(x) * 0.70710678118654752f, t = 1.0f / (1.0f + 0.3275911f * y);
  constexpr T coefficients[] = {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
  V p = splat<T>(1.061405429f);
  for (T c : coefficients) p = p * t + c;
  const V tail = 0.5f * p * t * exp<T>(-y * y);
  return (x > 0) ? x - x * tail : x * tail;
}
SEQCONV_INLINE V activate(V x, Activation activation) {
  constexpr T kSqrt2OverPi = 0.79788456080286536f, kCubic = 0.044715f;
  switch (activation) {
    case Activation::silu: return silu<T>(x);
    case Activation::gelu: return gelu(x);
    case Activation::gelu_tanh: return 0.5f * x * (1.0f + tanh<T>(kSqrt2OverPi * (x + kCubic * x * x * x)));
    case Activation::relu: return maximum<T>(x, V{});
    case Activation::relu2: return maximum<T>(x, V{}) * maximum<T>(x, V{});
    case Activation::tanh: return tanh<T>(x);
    case Activation::sigmoid: return sigmoid<T>(x);
    default: return x;
  }
}

// One item: a row.
void norm(const TokenNorm& a, int64_t row) {
  T mean = 0, factor = 1;
  if (a.kind != TokenNorm::copy) {
    V sum{};
    if (a.kind == TokenNorm::layer) {
      for (int64_t i = 0; i < a.width; i += W) sum += read(a.x, row, i, lanes_left(i, a.width));
      mean = lane_sum(sum) / T(a.width);
    }
    V squares{};
    for (int64_t i = 0; i < a.width; i += W) {
      const int live = lanes_left(i, a.width);
      V d = read(a.x, row, i, live) - mean;
      for (int k = live; k < W; ++k) d[k] = 0;
      squares += d * d;
    }
    factor = 1.0f / __builtin_sqrtf(lane_sum(squares) / T(a.width) + T(a.eps));
  }
  for (int64_t i = 0; i < a.width; i += W) {
    const int live = lanes_left(i, a.width);
    V y = (read(a.x, row, i, live) - mean) * factor;
    if (a.weight.data) y *= read(a.weight, i, live) + T(a.unit_offset);
    if (a.bias.data) y += read(a.bias, i, live);
    write(a.out, row, i, y, live);
  }
}

struct LinearWrite {
  const TokenLinear& a;
  SEQCONV_INLINE void operator()(int64_t row, int64_t o, V sums, int live) const {
    if (a.bias.data) sums += read(a.bias, o, live);
    sums = activate(sums, a.activation);
    if (a.residual.data) sums += read(a.residual, row, o, live);
    write(a.out, row, o, sums, live);
  }
};
template <class Q> SEQCONV_INLINE Product<T, Q, LinearWrite> product(const TokenLinear& a, int64_t rows) {
  return {(const Q*)a.weight, a.weight_stride,     rows,       a.inputs, a.outputs, a.groups,
          (const T*)a.scale,  (const T*)a.x.data, a.x.stride, {a}};
}
template <class Run> SEQCONV_INLINE auto with_product(const TokenLinear& a, int64_t rows, Run run) {
  if (a.int8) return run(product<int8_t>(a, rows));
  if (a.dtype == Dtype::bf16) return run(product<bf16>(a, rows));
  if (a.dtype == Dtype::f16) return run(product<f16>(a, rows));
  return run(product<T>(a, rows));
}

// Input number `place` of W channels that the state of a convolution keeps.
SEQCONV_INLINE V kept_inputs(const TokenConv& a, int64_t row, int64_t place, int64_t c, int live) {
  const int64_t at = row * a.row_stride + place * a.tap_stride + c * a.channel_stride;
  if (a.channel_stride == 1) return read(a.state, a.dtype, at, live);
  V v{};
  for (int i = 0; i < live; ++i) v[i] = get({a.state, a.dtype}, at + i * a.channel_stride);
  return v;
}
SEQCONV_INLINE void keep_inputs(const TokenConv& a, int64_t row, int64_t place, int64_t c, V v, int live) {
  const int64_t at = row * a.row_stride + place * a.tap_stride + c * a.channel_stride;
  if (a.channel_stride == 1) return write(a.state, a.dtype, at, v, live);
  for (int i = 0; i < live; ++i) {
    if (a.dtype == Dtype::f32) ((T*)a.state)[at + i * a.channel_stride] = v[i];
    else write(a.state, a.dtype, at + i * a.channel_stride, splat<T>(v[i]), 1);
  }
}

// One item: kChannels channels of a row.
void conv(const TokenConv& a, int64_t row, int64_t first) {
  const int64_t reach = a.taps - 1, end = min(a.channels, first + kChannels);
  for (int64_t c = first; c < end; c += W) {
    const int live = lanes_left(c, a.channels);
    V inputs[kMostTaps], sum = a.bias.data ? read(a.bias, c, live) : V{};
    for (int64_t k = 0; k < reach; ++k) inputs[k] = kept_inputs(a, row, a.kept - reach + k, c, live);
    inputs[reach] = read(a.x, row, c, live);
    for (int64_t k = 0; k < a.taps; ++k) {
      V taps{};
      for (int i = 0; i < live; ++i) taps[i] = get(a.weight, (c + i) * a.taps + k);
      sum += taps * inputs[k];
    }
    for (int64_t place = 0; place + 1 < a.kept; ++place)
      keep_inputs(a, row, place, c, kept_inputs(a, row, place + 1, c, live), live);
    if (a.kept) keep_inputs(a, row, a.kept - 1, c, inputs[reach], live);
    write(a.out, row, c, activate(sum, a.activation), live);
  }
}

// One item: kChannels channels of a row. W channels at a time, whose sums over states are reduced by one tree.
void scan(const TokenScan& a, int64_t row, int64_t first) {
  const int64_t end = min(a.channels, first + kChannels), N = a.d_state;
  const T* B = (const T*)a.B.data + row * a.B.stride;
  const T* C = (const T*)a.C.data + row * a.C.stride;
  for (int64_t c = first; c < end; c += W) {
    const int live = lanes_left(c, a.channels);
    const V u = read(a.u, row, c, live);
    V delta = read(a.delta, row, c, live);
    if (a.bias.data) delta += read(a.bias, c, live);
    delta = softplus<T>(delta);
    const V input = delta * u;
    alignas(64) T partial[W * W];
    for (int r = 0; r < W; ++r) {
      V sum{};
      for (int64_t n = 0; r < live && n < N; n += W) {
        const int states = lanes_left(n, N);
        T* h = (T*)a.h + (row * a.channels + c + r) * N + n;
        const V decay = exp<T>(-delta[r] * exp<T>(load<T, T>((const T*)a.A_log + (c + r) * N + n, states)));
        const V next = decay * load<T, T>(h, states) + input[r] * load<T, T>(B + n, states);
        store<T, T>(h, next, states);
        sum += next * load<T, T>(C + n, states);
      }
      M::store(partial + r * W, sum);
    }
    alignas(64) T sums[W];
    lane_sums<T>(partial, W, sums);
    V y = M::load(sums);
    if (a.D.data) y += read(a.D, c, live) * u;
    if (a.z.data) y *= silu<T>(read(a.z, row, c, live));
    write(a.out, row, c, y, live);
  }
}

// One item: kChannels channels of a row.
void gate(const TokenGate& a, int64_t row, int64_t first) {
  for (int64_t i = first; i < min(a.width, first + kChannels); i += W) {
    const int live = lanes_left(i, a.width);
    write(a.out, row, i, activate(read(a.a, row, i, live), a.activation) * read(a.b, row, i, live), live);
  }
}

// One head: the first `rotary_dim` channels in pairs (i, i + rotary_dim / 2) turned to a position; the rest as it is.
SEQCONV_INLINE void turned(const TokenAttention& a, const T* head, T position, T* out) {
  const int64_t half = a.rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const T angle = position / T(a.scaling) * a.rates[i], cos = __builtin_cosf(angle), sin = __builtin_sinf(angle);
    out[i] = head[i] * cos - head[half + i] * sin;
    out[half + i] = head[half + i] * cos + head[i] * sin;
  }
  for (int64_t i = a.rotary_dim; i < a.head_dim; ++i) out[i] = head[i];
}

// One item: a row's heads of queries that share keys and values. W tokens at a time: their scores by one tree of sums,
// their maximum with that of the tokens before, and the sums over values rescaled to it.
void attention(const TokenAttention& a, int64_t row, int64_t group) {
  const int64_t D = a.head_dim, last = a.past, token = a.groups * D, per_group = a.heads / a.groups;
  const int64_t first = max(0, last - a.tokens[row]), at = row * a.cache_stride + group * D;
  const T position = T(a.tokens[row]);
  const T* heads = (const T*)a.qkv.data + row * a.qkv.stride;
  alignas(64) T own[kWidestHead + W] = {}, query[kWidestHead + W] = {};
  turned(a, heads + (a.heads + group) * D, position, own);
  for (int64_t i = 0; i < D; i += W) {
    const int live = lanes_left(i, D);
    write(a.key, a.dtype, at + last * token + i, load<T, T>(own + i, live), live);
    const T* value = heads + (a.heads + a.groups + group) * D + i;
    write(a.value, a.dtype, at + last * token + i, load<T, T>(value, live), live);
  }
  for (int64_t head = group * per_group; head < (group + 1) * per_group; ++head) {
    turned(a, heads + head * D, position, query);
    V values[kWidestHead / W] = {};
    T largest = -__builtin_inff(), total = 0;
    for (int64_t s = first; s <= last; s += W) {
      const int live = int(min(W, last + 1 - s));
      alignas(64) T partial[W * W] = {}, scores[W];
      for (int r = 0; r < live; ++r) {
        V sum{};
        for (int64_t i = 0; i < D; i += W)
          sum += read(a.key, a.dtype, at + (s + r) * token + i, lanes_left(i, D)) * M::load(query + i);
        M::store(partial + r * W, sum);
      }
      lane_sums<T>(partial, W, scores);
      T highest = largest;
      for (int r = 0; r < live; ++r) {
        scores[r] *= T(a.scale);
        highest = scores[r] > highest || scores[r] != scores[r] ? scores[r] : highest;
      }
      V weights = exp<T>(M::load(scores) - highest);
      for (int r = live; r < W; ++r) weights[r] = 0;
      const T kept = s == first ? 0.0f : exp<T>(splat<T>(largest - highest))[0];
      largest = highest, total = total * kept + lane_sum(weights);
      for (int64_t i = 0; i < D; i += W) {
        V sum = values[i / W] * kept;
        for (int r = 0; r < live; ++r)
          sum += weights[r] * read(a.value, a.dtype, at + (s + r) * token + i, lanes_left(i, D));
        values[i / W] = sum;
      }
    }
    for (int64_t i = 0; i < D; i += W) write(a.out, row, head * D + i, values[i / W] / total, lanes_left(i, D));
  }
}

int64_t items(const TokenOp& op, int64_t rows) {
  switch (op.kind) {
    case TokenOp::linear: return with_product(op.linear_, rows, [](const auto& p) { return p.items(); });
    case TokenOp::conv: return rows * ceil_div(op.conv_.channels, kChannels);
    case TokenOp::scan: return rows * ceil_div(op.scan_.channels, kChannels);
    case TokenOp::gate: return rows * ceil_div(op.gate_.width, kChannels);
    case TokenOp::attention: return rows * op.attention_.groups;
    default: return rows;
  }
}
void work(const TokenOp& op, int64_t rows, int64_t item) {
  // Channels of a row in parts of kChannels.
  const auto part = [&](int64_t channels, auto run) {
    const int64_t parts = ceil_div(channels, kChannels);
    run(item / parts, item % parts * kChannels);
  };
  switch (op.kind) {
    case TokenOp::norm: return norm(op.norm_, item);
    case TokenOp::linear: return with_product(op.linear_, rows, [&](const auto& p) { p.item(item); });
    case TokenOp::conv: return part(op.conv_.channels, [&](int64_t row, int64_t c) { conv(op.conv_, row, c); });
    case TokenOp::scan: return part(op.scan_.channels, [&](int64_t row, int64_t c) { scan(op.scan_, row, c); });
    case TokenOp::gate: return part(op.gate_.width, [&](int64_t row, int64_t c) { gate(op.gate_, row, c); });
    case TokenOp::attention:
      return attention(op.attention_, item / op.attention_.groups, item % op.attention_.groups);
  }
}

}  // namespace

Status token_program(const TokenOp* ops, int64_t count, int64_t rows, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = items(ops[i], rows);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < size; ++item) work(ops[i], rows, item);
  }
  return Status::done;
}

}  // namespace seqconv::SEQCONV_ISA
