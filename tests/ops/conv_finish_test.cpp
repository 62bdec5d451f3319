// Convolutions that finish their result: what the operators behind them would give, by every kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "ops/bfloat16_gemm.h"
#include "ops/op.h"
#include "runtime/device/device.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

constexpr size_t beside_slot = 3;

struct Case {
  const char *x, *w;
  const char* attributes = "";  // with a comma behind
  bool bias = true;
};

const Case pointwise{"[2,48,9,8]", "[40,48,1,1]"};
const Case tiles{"[3,256,11,13]", "[272,256,1,1]"};
const Case winograd{"[2,32,11,10]", "[48,32,3,3]", "pads = [1, 1, 1, 1], "};
const Case narrow{"[1,16,67,63]", "[40,16,1,1]", "", false};
const std::vector<Case> cases = {
    pointwise,
    tiles,
    winograd,
    narrow,
    {"[1,3,31,29]", "[64,3,7,7]", "strides = [2, 2], pads = [3, 3, 3, 3], "},
    {"[2,32,9,8]", "[64,32,3,3]", "strides = [2, 2], pads = [1, 1, 1, 1], "},
    {"[2,19,9,7]", "[21,19,3,3]", "pads = [1, 1, 1, 1], "},
    {"[2,64,9,8]", "[64,16,3,3]", "group = 4, "},
    {"[2,48,9,8]", "[48,1,3,3]", "group = 48, strides = [2, 1], pads = [1, 1, 1, 1], "},
    {"[2,19,30]", "[5,19,3]"},
};

struct Activated {
  const char* attributes;
  double (*f)(double);
};

// std::max and std::clamp leave a NaN as it is.
const Activated relu{"activation = \"relu\"", [](double t) { return std::max(t, 0.0); }};
const std::vector<Activated> activations = {
    relu,
    {"activation = \"none\"", [](double t) { return t; }},
    {"activation = \"clip\", min = 0.0, max = 6.0", [](double t) { return std::clamp(t, 0.0, 6.0); }},
    {"activation = \"clip\", min = -1.0, max = 2.0", [](double t) { return std::clamp(t, -1.0, 2.0); }},
    {"activation = \"hard_swish\"", [](double t) { return t * std::clamp(t / 6 + 0.5, 0.0, 1.0); }},
};

std::unique_ptr<Graph> graph_of(const Case& c, const std::string& type, const std::string& attributes,
                                const std::string& beside, DType dtype = DType::f32) {
  const std::string w = c.w;
  return graph_from_text(
      cat("(float", c.x, " x, float", w, " w", c.bias ? cat(", float", w.substr(0, w.find(',')), "] b") : "",
          beside.empty() ? "" : cat(", float", beside, " r"), ") => (y) { y = ", type, '<', c.attributes, attributes,
          ">(x, w",
          c.bias           ? ", b"
          : beside.empty() ? ""
                           : ", ",
          beside.empty() ? "" : ", r", ") }"),
      dtype);
}

// Channels, and elements of what is added, at which activations are tried.
void put_special_values(Tensor& values) {
  auto* v = values.data<float>();
  v[0] = std::numeric_limits<float>::quiet_NaN();
  v[1] = std::numeric_limits<float>::infinity();
  v[2] = -1e30F;
  v[3] = 1e-39F;
  v[4] = -0.0F;
}

Tensor laid(const Value& value, const Tensor& tensor, const Layout& from, const Layout& to) {
  Tensor result(tensor.dtype(), {to.storage_count()});
  relayout(value.dims, size_of(value.dtype), from, tensor.raw(), to, result.raw());
  return result;
}

class Finishing {
 public:
  Finishing(const Case& c, const Activated& activated, bool adds, DType dtype) : dtype_(dtype) {
    const auto bare = graph_of(c, "Conv", "auto_pad = \"NOTSET\"", "");
    const Node& convolution = *bare->nodes().front();
    const Dims y = convolution.outputs[0]->dims;
    unsigned seed = 0;
    for (const Value* value : convolution.inputs) given_.push_back(random_feed(DType::f32, value->dims, -1, 1, ++seed));
    if (c.bias) put_special_values(given_[2]);
    if (dtype == DType::bf16) given_[0] = rounded(given_[0]), given_[1] = rounded(given_[1]);
    Tensor sum = evaluate(convolution, given_)[0];
    given_.resize(beside_slot);
    if (adds) {
      Tensor r = random_feed(DType::f32, y, -2, 2, 9);
      put_special_values(r);
      if (dtype == DType::bf16) r = rounded(r);
      given_.push_back(r);
    } else if (!c.bias) {
      given_.resize(2);
    }
    expected_ = Tensor(DType::f32, y);
    for (int64_t i = 0; i < sum.count(); ++i) {
      const double r = adds ? given_[beside_slot].data<float>()[i] : 0;
      expected_.data<float>()[i] = static_cast<float>(activated.f(sum.data<float>()[i] + r));
    }
    std::string beside;
    for (int64_t dim : y) beside += cat(beside.empty() ? "[" : ",", dim);
    beside = adds ? beside + ']' : "";
    graph_ = graph_of(c, "graft.Conv", activated.attributes, beside, dtype == DType::f64 ? dtype : DType::f32);
    what_ = cat(c.x, " and ", c.w, " in ", dtype, ", ", activated.attributes, adds ? ", adds" : "");
  }

  // In every layout that is proposed, by every kernel, and over what is added where that is offered: their names.
  std::set<std::string> check() {
    SCOPED_TRACE(what_);
    Node& node = *graph_->nodes().front();
    if (dtype_ == DType::bf16) lower(node);
    for (Value* input : node.inputs) {
      if (input) input->layout = Layout::plain(input->dims);
    }
    std::set<std::string> names;
    for (const Candidate& candidate : find_kernel(node)->propose(node)) {
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        if (node.inputs[i]) node.inputs[i]->layout = candidate.inputs[i];
      }
      node.outputs[0]->layout = candidate.outputs[0];
      EXPECT_TRUE(!node.input(beside_slot) || candidate.inputs[beside_slot] == candidate.outputs[0]);
      const KernelFunctions* kernel = find_kernel(node);
      std::vector<std::string> kernels;
      if (kernel->choices) kernels = kernel->choices(node);
      if (kernels.empty()) kernels.emplace_back();
      for (const std::string& name : kernels) {
        node.kernel = name;
        for (bool in_place : {false, true}) {
          if (run(node, in_place)) names.insert(name + (in_place ? " in place" : ""));
        }
      }
      node.kernel.clear();
    }
    return names;
  }

 private:
  static Tensor rounded(const Tensor& tensor) { return tensor.cast(DType::bf16).cast(DType::f32); }

  static void lower(const Node& node) {
    auto mixed = find_op(node)->mixed_precision(node);
    ASSERT_TRUE(mixed) << "no kernel for bfloat16";
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      if (node.inputs[i] && mixed->takes_low(i)) node.inputs[i]->dtype = DType::bf16;
    }
    EXPECT_TRUE(!node.input(beside_slot) || mixed->takes_low(beside_slot));
    if (mixed->gives_low(0)) node.outputs[0]->dtype = DType::bf16;
  }

  bool run(const Node& node, bool in_place) const {
    const KernelFunctions* kernel = find_kernel(node);
    const Settlement settlement = kernel->settle(node, nullptr);
    const std::pair<int, int> over{0, static_cast<int>(beside_slot)};
    const auto& offered = settlement.in_place;
    if (in_place && std::find(offered.begin(), offered.end(), over) == offered.end()) return false;
    const Value& y = *node.outputs[0];
    std::vector<Tensor> inputs;
    Binding binding{.inputs = {}, .outputs = {}, .settlement = &settlement};
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Value* input = node.inputs[i];
      inputs.push_back(input ? laid(*input, given_[i].cast(input->dtype), Layout::plain(input->dims), input->layout)
                             : Tensor{});
      binding.inputs.push_back(input ? inputs.back().raw() : nullptr);
    }
    Tensor result(y.dtype, {y.layout.storage_count()});
    std::memset(result.raw(), 0x3f, static_cast<size_t>(result.bytes()));
    if (in_place) result = inputs[beside_slot];
    binding.outputs = {result.raw()};
    auto scratch = allocate_bytes(settlement.scratch_bytes, false);
    binding.scratch = scratch.get();
    kernel->prepare(node, binding)(*make_stream(Device::cpu));
    const Layout plain = Layout::plain(y.dims);
    const Tensor got = laid(y, result, y.layout, plain).reshaped(y.dims);
    const double tolerance = y.dtype == DType::bf16 ? 4e-2 : 1e-4;
    const std::string how = cat(node.kernel, ' ', y.layout, in_place ? " in place" : "");
    expect_close(got.cast(DType::f32), expected_, tolerance, how);
    expect_close(result, laid(y, got, plain, y.layout), 0, "padding of " + how);
    return true;
  }

  DType dtype_;
  std::vector<Tensor> given_;  // float32
  Tensor expected_;
  std::unique_ptr<Graph> graph_;
  std::string what_;
};

void check_all(DType dtype) {
  for (const Case& c : cases) {
    for (const Activated& activated : activations) {
      for (bool adds : {false, true}) Finishing(c, activated, adds, dtype).check();
    }
  }
}

TEST(ConvFinish, Float) { check_all(DType::f32); }
TEST(ConvFinish, Double) { check_all(DType::f64); }
TEST(ConvFinish, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  check_all(DType::bf16);
}

TEST(ConvFinish, EveryKernelDoes) {
  auto of = [](const Case& c, DType dtype) { return Finishing(c, relu, true, dtype).check(); };
  EXPECT_TRUE(of(winograd, DType::f32).count("winograd in place"));
  EXPECT_TRUE(of(narrow, DType::f32).count("narrow"));
  EXPECT_TRUE(of(pointwise, DType::f32).count(" in place"));
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  EXPECT_TRUE(of(tiles, DType::f32).count("float_tiles"));
  EXPECT_TRUE(of(tiles, DType::bf16).count("tiles in place"));
  EXPECT_TRUE(of(pointwise, DType::bf16).count("tiles in place"));
}

TEST(ConvFinish, RefusesWhatItHasNot) {
  const Tensor x(DType::f32, {2, 3, 8, 8}), w(DType::f32, {4, 3, 3, 3}), r(DType::f32, {2, 4, 6, 6});
  auto run = [&](const Tensor& beside, const char* activation) {
    return run_op("graft", "Conv", {x, w, {}, beside}, 1, {{"activation", std::string(activation)}});
  };
  EXPECT_NO_THROW(run(r, "relu"));
  EXPECT_THROW(run(r, "gelu"), ModelError);
  EXPECT_THROW(run(Tensor(DType::f32, {2, 4, 6, 5}), "relu"), ModelError);
  EXPECT_THROW(run(r.cast(DType::f64), "relu"), ModelError);
  EXPECT_THROW(run_op("graft", "Conv", {x, Tensor(DType::f32, {4, 3})}, 1), ModelError);
  EXPECT_THROW(op_gradients("graft", "Conv", {x, w}, 1, {{"activation", std::string("relu")}}, r, {0}),
               UnsupportedError);
}

}  // namespace
}  // namespace graft::test
