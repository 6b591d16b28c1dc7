// From the words that `token_program/program.py` writes to the ops of the kernel.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

constexpr int kInt8 = -1;  // as program.py calls the dtype of an int8 weight
constexpr int64_t kMost = int64_t(1) << 40;  // numbers of a tensor

// Reads words and constants one after the other and rejects what no tensor has.
class Reader {
 public:
  Reader(const std::vector<int64_t>& words, const std::vector<double>& constants)
      : words_(words), constants_(constants) {}

  bool done() const { return at_ == words_.size() && constant_ == constants_.size(); }
  bool more() const { return at_ < words_.size(); }
  static void expect(bool good) {
    if (!good) throw std::invalid_argument("token_program: an op, a dtype, a size or an address that no tensor has");
  }
  int64_t word() {
    expect(at_ < words_.size());
    return words_[at_++];
  }
  double constant() {
    expect(constant_ < constants_.size());
    return constants_[constant_++];
  }
  int64_t size(int64_t least = 1, int64_t most = kMost) {
    const int64_t n = word();
    expect(n >= least && n <= most);
    return n;
  }
  Dtype dtype() {
    const int64_t code = word();
    expect(code == int64_t(Dtype::f32) || code == int64_t(Dtype::bf16) || code == int64_t(Dtype::f16));
    return Dtype(code);
  }
  void* optional() { return pointer(uintptr_t(word())); }
  void* address() {
    void* p = optional();
    expect(p);
    return p;
  }
  TokenRows optional_rows() { return {optional(), dtype(), size(0)}; }
  TokenRows rows() {
    const TokenRows x = optional_rows();
    expect(x.data);
    return x;
  }
  TokenRows wide_rows() {
    const TokenRows x = rows();
    expect(x.dtype == Dtype::f32);
    return x;
  }
  TokenVector optional_vector() { return {optional(), dtype()}; }
  TokenVector vector() {
    const TokenVector x = optional_vector();
    expect(x.data);
    return x;
  }
  Activation activation() { return Activation(size(0, kActivations - 1)); }

 private:
  const std::vector<int64_t>& words_;
  const std::vector<double>& constants_;
  size_t at_ = 0, constant_ = 0;
};

// Braces read in order.
TokenNorm norm(Reader& r) {
  return {r.rows(), r.rows(), r.optional_vector(), r.optional_vector(), r.size(), r.size(0, TokenNorm::layer),
          r.size(0, 1), r.constant()};
}
TokenLinear linear(Reader& r) {
  TokenLinear a{};
  a.x = r.wide_rows(), a.out = r.rows(), a.residual = r.optional_rows();
  a.weight = r.address();
  const int64_t code = r.word();
  a.int8 = code == kInt8;
  Reader::expect(a.int8 || code == int64_t(Dtype::f32) || code == int64_t(Dtype::bf16) || code == int64_t(Dtype::f16));
  a.dtype = a.int8 ? Dtype::f32 : Dtype(code);
  a.weight_stride = r.size(), a.scale = r.optional(), a.groups = r.size();
  a.bias = r.optional_vector();
  a.inputs = r.size(), a.outputs = r.size(), a.activation = r.activation();
  Reader::expect(a.inputs % a.groups == 0 && a.weight_stride >= a.inputs && a.int8 == (a.scale != nullptr));
  return a;
}
TokenConv conv(Reader& r) {
  const TokenConv a{r.rows(), r.rows(), r.optional(), r.dtype(), r.size(0), r.size(0), r.size(0), r.size(0),
                    r.vector(), r.optional_vector(), r.size(), r.size(1, kMostTaps), r.activation()};
  Reader::expect(a.kept >= a.taps - 1 && (a.state || !a.kept));
  return a;
}
TokenScan scan(Reader& r) {
  TokenScan a{r.rows(), r.rows(), r.optional_rows(), r.wide_rows(), r.wide_rows(), r.rows(), r.address(),
              r.optional_vector(), r.optional_vector(), r.address(), r.size(), r.size()};
  return a;
}
TokenGate gate(Reader& r) { return {r.rows(), r.rows(), r.rows(), r.size(), r.activation()}; }
TokenAttention attention(Reader& r) {
  TokenAttention a{};
  a.qkv = r.wide_rows(), a.out = r.rows();
  a.key = r.address(), a.value = r.address(), a.dtype = r.dtype();
  a.cache_stride = r.size(0), a.past = r.size(0), a.tokens = static_cast<const int64_t*>(r.address());
  a.heads = r.size(), a.groups = r.size(), a.head_dim = r.size(1, kWidestHead), a.rotary_dim = r.size(0, a.head_dim);
  a.rates = static_cast<const float*>(r.optional());
  a.scaling = r.constant(), a.scale = r.constant();
  Reader::expect(a.heads % a.groups == 0 && a.rotary_dim % 2 == 0 && (a.rates || !a.rotary_dim));
  return a;
}

TokenOp op(Reader& r) {
  TokenOp made;
  made.kind = TokenOp::Kind(r.size(0, TokenOp::attention));
  switch (made.kind) {
    case TokenOp::norm: made.norm_ = norm(r); break;
    case TokenOp::linear: made.linear_ = linear(r); break;
    case TokenOp::conv: made.conv_ = conv(r); break;
    case TokenOp::scan: made.scan_ = scan(r); break;
    case TokenOp::gate: made.gate_ = gate(r); break;
    case TokenOp::attention: made.attention_ = attention(r); break;
  }
  return made;
}

int token_program(const std::vector<int64_t>& words, const std::vector<double>& constants, int64_t rows, int threads) {
  Reader reader(words, constants);
  Reader::expect(rows >= 1 && threads >= 1);
  std::vector<TokenOp> ops;
  while (reader.more()) ops.push_back(op(reader));
  Reader::expect(reader.done());
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(token_program, ops.data(), int64_t(ops.size()), rows, threads));
}

const Bindings bindings([](nb::module_& m) { m.def("token_program", &token_program); });

}  // namespace
}  // namespace seqconv
