#include "tests/support/networks.h"

#include <algorithm>

#include "tests/support/run_op.h"

namespace graft::test {
namespace {

// Networks of random weights, named w0, w1, ... in the order in which they are made.
class Builder {
 public:
  Builder() { graph_ = std::make_unique<Graph>(); }

  Value* input(Dims dims) {
    dims[0] = -1;
    return graph_->add_input("x", DType::f32, dims);
  }
  Value* weight(const Dims& dims, double low = -0.4, double high = 0.4) {
    ++weights_;
    return graph_->add_constant(random_tensor(DType::f32, dims, weights_, low, high), cat('w', weights_ - 1));
  }
  Value* scale(const Dims& dims) { return weight(dims, 0.5, 1.5); }
  Value* number(float value) { return graph_->add_constant(Tensor::scalar(value)); }
  Value* axis(int64_t value) { return graph_->add_constant(Tensor::of<int64_t>({1}, {value})); }
  Value* call(const char* type, const std::vector<Value*>& operands, Attributes attributes = {}) {
    return graph_->add_node("", type, operands, 1, std::move(attributes))->outputs[0];
  }

  Value* convolution(Value* x, int64_t from, int64_t to, int64_t window, int64_t group = 1) {
    return call("Conv", {x, weight({to, from / group, window, window})},
                {{"pads", std::vector<int64_t>(4, window / 2)}, {"group", group}});
  }
  Value* normalization(Value* x, int64_t channels) {
    return call("BatchNormalization",
                {x, scale({channels}), weight({channels}), weight({channels}), scale({channels})});
  }
  Value* clip(Value* x, float high) { return call("Clip", {x, number(0), number(high)}); }

  std::unique_ptr<Graph> end(Value* y) {
    graph_->rename(y, "y");
    graph_->outputs = {y};
    return std::move(graph_);
  }

 private:
  std::unique_ptr<Graph> graph_;
  unsigned weights_ = 0;
};

// Three times Conv, BatchNormalization and an activation; the last two add what came before.
std::unique_ptr<Graph> residual() {
  constexpr int64_t channels = 19;  // leaves padding in blocks of 16 and of 8
  Builder b;
  Value* x = b.input({0, 3, 9, 7});
  for (int64_t i = 0; i < 3; ++i) {
    Value* h = b.normalization(b.convolution(x, i == 0 ? 3 : channels, channels, 3), channels);
    if (i > 0) h = b.call("Add", {x, h});
    x = i == 1 ? b.clip(h, 0.5) : b.call("Relu", {h});
  }
  return b.end(x);
}

// As in MobileNetV2, but for a hard-swish at the end, as exporters spell it out.
std::unique_ptr<Graph> inverted_residual() {
  constexpr int64_t narrow = 16, wide = 32;
  Builder b;
  Value* x = b.input({0, narrow, 8, 7});
  Value* h = b.clip(b.normalization(b.convolution(x, narrow, wide, 1), wide), 6);
  h = b.clip(b.normalization(b.convolution(h, wide, wide, 3, wide), wide), 6);
  h = b.call("Add", {x, b.normalization(b.convolution(h, wide, narrow, 1), narrow)});
  Value* gate = b.clip(b.call("Add", {h, b.number(3)}), 6);
  return b.end(b.call("Div", {b.call("Mul", {h, gate}), b.number(6)}));
}

// The same with as many pixels as thin convolutions want.
std::unique_ptr<Graph> thin_residual() {
  constexpr int64_t narrow = 16, wide = 48;
  Builder b;
  Value* x = b.input({0, narrow, 33, 32});
  Value* h = b.clip(b.normalization(b.convolution(x, narrow, wide, 1), wide), 6);
  h = b.clip(b.normalization(b.convolution(h, wide, wide, 3, wide), wide), 6);
  return b.end(b.call("Add", {x, b.normalization(b.convolution(h, wide, narrow, 1), narrow)}));
}

// Overlapping maxima, and means of windows and of all.
std::unique_ptr<Graph> pooling() {
  constexpr int64_t channels = 19;
  auto window = [](int64_t size, int64_t pad) {
    return Attributes{{"kernel_shape", std::vector<int64_t>{size, size}},
                      {"strides", std::vector<int64_t>{2, 2}},
                      {"pads", std::vector<int64_t>(4, pad)}};
  };
  Builder b;
  Value* h = b.call("Relu", {b.normalization(b.convolution(b.input({0, 3, 15, 13}), 3, channels, 3), channels)});
  h = b.convolution(b.call("MaxPool", {h}, window(3, 1)), channels, channels, 3);
  h = b.call("Tanh", {b.normalization(h, channels)});
  return b.end(b.call("Add", {b.call("AveragePool", {h}, window(2, 0)), b.call("GlobalAveragePool", {h})}));
}

std::unique_ptr<Graph> convolutions() {
  Builder b;
  Value* x = b.input({0, 16, 14, 13});
  return b.end(b.convolution(b.call("Relu", {b.convolution(x, 16, 32, 3)}), 32, 16, 3));
}

// (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias
Value* layer_normalization(Builder& b, Value* x, int64_t width) {
  Value* centred = b.call("Sub", {x, b.call("ReduceMean", {x, b.axis(-1)})});
  Value* variance = b.call("ReduceMean", {b.call("Pow", {centred, b.number(2)}), b.axis(-1)});
  Value* root = b.call("Sqrt", {b.call("Add", {variance, b.number(1e-5F)})});
  return b.call("Add", {b.call("Mul", {b.call("Div", {centred, root}), b.scale({width})}), b.weight({width})});
}

Value* softmax(Builder& b, Value* x) {
  Value* e = b.call("Exp", {b.call("Sub", {x, b.call("ReduceMax", {x, b.axis(-1)})})});
  return b.call("Div", {e, b.call("ReduceSum", {e, b.axis(-1)})});
}

Value* gelu(Builder& b, Value* x) {
  Value* erf = b.call("Erf", {b.call("Div", {x, b.number(std::sqrt(2.0F))})});
  return b.call("Mul", {b.call("Mul", {x, b.call("Add", {erf, b.number(1)})}), b.number(0.5)});
}

// An attention of one head and a GELU, each behind a LayerNormalization, with what careless exporters add: transposes
// that undo each other, values computed twice, Identity.
std::unique_ptr<Graph> attention() {
  constexpr int64_t width = 16;
  const Attributes turn = {{"perm", std::vector<int64_t>{0, 2, 1}}};
  Builder b;
  Value* x = b.input({0, 6, width});
  Value* h = layer_normalization(b, x, width);
  Value* q = b.call("MatMul", {h, b.weight({width, width})});
  Value* key_weight = b.weight({width, width});
  Value* k = b.call("Transpose", {b.call("MatMul", {h, key_weight})}, turn);
  Value* v = b.call("Tanh", {b.call("MatMul", {b.call("Identity", {h}), key_weight})});
  Value* p = softmax(b, b.call("Div", {b.call("MatMul", {q, k}), b.number(4)}));
  Value* mixed = b.call("Transpose", {b.call("Transpose", {b.call("MatMul", {p, v})}, turn)}, turn);
  x = b.call("Add", {x, mixed});
  h = b.call("MatMul", {layer_normalization(b, x, width), b.weight({width, width})});
  h = b.call("Add", {b.weight({width}), h});
  return b.end(b.call("Add", {x, gelu(b, h)}));
}

// Products with a vector behind them; the columns of the first lie apart, so that the transpose of the sum is plain.
std::unique_ptr<Graph> products() {
  constexpr int64_t rows = 6, columns = 5;
  Builder b;
  Value* h = b.call("MatMul", {b.input({0, rows, 8}), b.weight({8, columns})});
  h = b.call("Transpose", {b.call("Add", {h, b.weight({columns})})}, {{"perm", std::vector<int64_t>{0, 2, 1}}});
  h = b.call("MatMul", {b.call("Tanh", {h}), b.weight({rows, 4})});
  return b.end(b.call("Add", {b.weight({4}), h}));
}

// Perceptrons with a connection around, whose products finish their results.
std::unique_ptr<Graph> perceptrons() {
  constexpr int64_t width = 37;
  Builder b;
  Value* x = b.call("Relu", {b.call("Gemm", {b.input({0, 21}), b.weight({21, width}), b.weight({width})})});
  Value* h = b.call("Gemm", {x, b.weight({50, width}), b.weight({50})}, {{"transB", int64_t{1}}});
  h = b.call("MatMul", {b.call("Relu", {h}), b.weight({50, width})});
  h = b.call("Add", {b.call("Add", {h, b.weight({width})}), x});
  return b.end(b.call("Gemm", {h, b.weight({width, 5}), b.weight({5})}));
}

// Swish and Mish as products.
std::unique_ptr<Graph> gates() {
  Builder b;
  Value* h = b.call("Gemm", {b.input({0, 12}), b.weight({12, 9}), b.weight({9})});
  h = b.call("Gemm", {b.call("Mul", {h, b.call("Sigmoid", {h})}), b.weight({9, 7}), b.weight({7})});
  return b.end(b.call("Mul", {b.call("Tanh", {b.call("Softplus", {h})}), h}));
}

// A gate per channel and element-wise work around it, in layouts of convolutions, with results that backward reads.
std::unique_ptr<Graph> regions() {
  constexpr int64_t channels = 19;  // leaves padding in blocks of 16 and of 8
  Builder b;
  Value* x = b.convolution(b.input({0, 3, 9, 7}), 3, channels, 3);
  Value* h = b.call("Softplus", {b.call("Add", {x, b.weight({channels, 1, 1})})});
  h = b.call("Sub", {b.call("Elu", {b.call("Mul", {h, x})}), b.number(0.5)});
  Value* gate = b.call("GlobalAveragePool", {h});
  gate = b.call("HardSigmoid", {b.call("Conv", {gate, b.weight({channels, channels, 1, 1})})});
  h = b.call("Sum", {b.call("Mul", {h, gate}), x, b.weight({channels, 1, 1})});
  return b.end(b.convolution(b.call("LeakyRelu", {h}), channels, channels, 1));
}

// Two convolutions with normalisations, and the same again behind one that is trained. Window, strides and a bias vary.
std::unique_ptr<Graph> backbone() {
  Builder b;
  Value* x = b.input({0, 3, 9, 7});
  Value* h = b.call("Conv", {x, b.weight({19, 3, 3, 3}), b.weight({19})}, {{"strides", std::vector<int64_t>{2, 2}}});
  h = b.call("Sigmoid", {b.normalization(h, 19)});
  h = b.call("Sigmoid", {b.normalization(b.convolution(h, 19, 19, 3, 19), 19)});
  h = b.convolution(h, 19, 16, 1);
  h = b.call("Sigmoid", {b.normalization(b.convolution(h, 16, 16, 3), 16)});
  return b.end(b.convolution(h, 16, 5, 1));
}

// A frozen part whose convolutions finish their results: with an activation, with what is added and both.
std::unique_ptr<Graph> frozen_residual() {
  constexpr int64_t channels = 32;
  Builder b;
  Value* x = b.input({0, 16, 9, 7});
  Value* h = b.clip(b.normalization(b.convolution(x, 16, channels, 1), channels), 6);
  h = b.call("Relu", {b.call("Add", {h, b.normalization(b.convolution(h, channels, channels, 3), channels)})});
  h = b.call("Add", {b.normalization(b.convolution(h, channels, channels, 3, channels), channels), h});
  return b.end(b.convolution(b.call("Sigmoid", {h}), channels, 5, 1));
}

// Rows of a table, picked more than once and from the end too.
std::unique_ptr<Graph> embedding() {
  constexpr int64_t rows = 11, width = 8;
  Builder b;
  Value* ids = b.call("Cast", {b.call("Mul", {b.input({0, 6}), b.number(5)})}, {{"to", int64_t{7}}});
  Value* h = b.call("Tanh", {b.call("Gather", {b.weight({rows, width}), ids})});
  return b.end(b.call("MatMul", {h, b.weight({width, 4})}));
}

// Channels weighed by what all of them have in common, as in MobileNetV3.
std::unique_ptr<Graph> squeeze_excite() {
  constexpr int64_t channels = 24, few = 6;
  Builder b;
  Value* x = b.input({0, channels, 8, 7});
  Value* h = b.clip(b.normalization(b.convolution(x, channels, channels, 3), channels), 6);
  Value* s = b.call("GlobalAveragePool", {h});
  s = b.call("Relu", {b.call("Add", {b.convolution(s, channels, few, 1), b.weight({few, 1, 1})})});
  s = b.call("HardSigmoid", {b.call("Add", {b.convolution(s, few, channels, 1), b.weight({channels, 1, 1})})});
  return b.end(b.convolution(b.call("Mul", {s, h}), channels, channels, 1));
}

}  // namespace

const std::vector<Network>& networks() {
  static const std::vector<Network> all = {
      {"small_mlp"},
      {"small_cnn"},
      {"block"},
      {"residual",
       residual,
       {3, 3, 9, 7},
       {3, 19, 9, 7},
       {"normalization_activation", "join_sums", "release_gradients"}},
      {"inverted_residual",
       inverted_residual,
       {3, 16, 8, 7},
       {3, 16, 8, 7},
       {"normalization_activation", "depthwise_normalization", "hard_swish"}},
      {"thin_residual",
       thin_residual,
       {4, 16, 33, 32},
       {4, 16, 33, 32},
       {"depthwise_normalization", "join_statistics"}},
      {"pooling", pooling, {3, 3, 15, 13}, {3, 19, 4, 3}, {"normalization_activation"}},
      {"convolutions", convolutions, {3, 16, 14, 13}, {3, 16, 14, 13}, {"winograd"}},
      {"attention",
       attention,
       {3, 6, 16},
       {3, 6, 16},
       {"layer_normalization", "softmax", "attention", "gelu", "merge_transposes", "merge_equal", "remove_identities",
        "skip_padding"}},
      {"products", products, {3, 6, 8}, {3, 5, 4}, {"product_bias"}},
      {"perceptrons", perceptrons, {29, 21}, {29, 5}, {"product_epilogue"}},
      {"regions", regions, {3, 3, 9, 7}, {3, 19, 9, 7}, {"elementwise"}},
      {"squeeze_excite", squeeze_excite, {3, 24, 8, 7}, {3, 24, 8, 7}, {"elementwise"}},
      {"gates", gates, {5, 12}, {5, 7}, {"swish", "mish"}},
      {"embedding", embedding, {3, 6}, {3, 6, 4}, {"sparse_gradients"}},
      {"backbone",
       backbone,
       {3, 3, 9, 7},
       {3, 5, 4, 3},
       {"fold_normalization"},
       {"w0", "w1", "w2", "w3", "w6", "w7", "w8", "w12", "w13", "w14"}},
      {"frozen_residual",
       frozen_residual,
       {3, 16, 9, 7},
       {3, 5, 9, 7},
       {"fold_normalization", "convolution_epilogue"},
       {"w0", "w1", "w2", "w5", "w6", "w7", "w10", "w11", "w12"}}};
  return all;
}

std::vector<std::string> trained(const Network& network, std::vector<std::string> parameters) {
  std::erase_if(parameters, [&](const std::string& name) { return network.frozen.count(name) > 0; });
  return parameters;
}

std::vector<Network> built() {
  std::vector<Network> found;
  std::copy_if(networks().begin(), networks().end(), std::back_inserter(found),
               [](const Network& n) { return n.make; });
  return found;
}

const Network& network_named(const std::string& name) {
  auto found = std::find_if(networks().begin(), networks().end(),
                            [&](const Network& network) { return network.name == name && network.make; });
  if (found == networks().end()) throw UsageError("no network is called \"", name, '"');
  return *found;
}

}  // namespace graft::test
