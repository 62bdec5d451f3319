#include <gtest/gtest.h>

#include "ops/op.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {

Layout layout_of_tag(const std::string& tag, const Dims& dims) {
  if (tag == "nhwc") return Layout::permuted(dims, {0, 2, 3, 1});
  int64_t block = tag == "nChw16c" ? 16 : tag == "nChw8c" ? 8 : 0;
  if (!block) throw UsageError("no layout is called ", tag);
  Dims outer = dims;
  outer[1] = (dims[1] + block - 1) / block;
  Layout layout = Layout::plain(outer);
  for (int64_t& stride : layout.strides) stride *= block;
  layout.padded = dims;
  layout.padded[1] = outer[1] * block;
  layout.blocks = {{1, block}};
  return layout;
}

namespace {

Tensor relayout(const Value& value, const Tensor& tensor, const Layout& from, const Layout& to) {
  Tensor result(tensor.dtype(), {to.storage_count()});
  graft::relayout(value.dims, size_of(value.dtype), from, tensor.raw(), to, result.raw());
  return result;
}

// Storage that is not zero where it should be becomes visible: results start as garbage.
Tensor garbage(DType dtype, int64_t count) {
  Tensor tensor(dtype, {count});
  std::memset(tensor.raw(), 0x3f, static_cast<size_t>(tensor.bytes()));
  return tensor;
}

void run(const Node& node, const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) {
  const KernelFunctions* functions = find_kernel(node);
  Settlement settlement = functions->settle(node, nullptr);
  auto scratch = allocate_bytes(settlement.scratch_bytes, false);
  Binding binding{{}, {}, scratch.get(), &settlement};
  for (const auto& input : inputs) binding.inputs.push_back(input.defined() ? input.raw() : nullptr);
  for (auto& output : outputs) binding.outputs.push_back(output.raw());
  Kernel kernel = functions->prepare(node, binding);
  auto stream = make_stream(Device::cpu);
  kernel(*stream);
  stream->synchronize();
}

std::vector<Tensor> random_inputs(const Node& node, const Feeds& feeds) {
  std::vector<Tensor> plain;
  unsigned seed = 1;
  for (const Value* input : node.inputs) {
    ++seed;
    if (!input) plain.emplace_back();
    else if (input->is_constant()) plain.push_back(input->data);
    else if (auto given = feeds.find(input->name); given != feeds.end()) plain.push_back(given->second);
    else plain.push_back(random_feed(input->dtype, input->dims, is_float(input->dtype) ? -2 : 0, 2, seed));
  }
  return plain;
}

// The node's kernel in the layouts of a candidate.
void check_candidate(const Node& node, const Candidate& candidate, const std::vector<Tensor>& plain,
                     const std::vector<Tensor>& expected, double tolerance) {
  std::vector<Tensor> inputs, outputs;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    Value* input = node.inputs[i];
    inputs.push_back(input ? relayout(*input, plain[i], Layout::plain(input->dims), candidate.inputs[i]) : Tensor{});
    if (input) input->layout = candidate.inputs[i];
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    node.outputs[i]->layout = candidate.outputs[i];
    outputs.push_back(garbage(node.outputs[i]->dtype, candidate.outputs[i].storage_count()));
  }
  run(node, inputs, outputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Value& value = *node.outputs[i];
    Layout as_plain = Layout::plain(value.dims);
    Tensor got = relayout(value, outputs[i], value.layout, as_plain).reshaped(value.dims);
    expect_close(got.cast(expected[i].dtype()), expected[i], tolerance, cat("output ", i));
    // The same storage again, with padding that is surely zero.
    expect_close(outputs[i], relayout(value, got, as_plain, value.layout), 0, cat("padding of output ", i));
  }
}

// In those that it proposes first for `operand` in the layout `tag`.
void check_proposal(const Node& node, const std::string& tag, size_t operand, const std::vector<Tensor>& plain,
                    const std::vector<Tensor>& expected, double tolerance) {
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i]) node.inputs[i]->layout = Layout::plain(node.inputs[i]->dims);
  }
  if (tag != "any") node.inputs[operand]->layout = layout_of_tag(tag, node.inputs[operand]->dims);
  Candidate candidate = find_kernel(node)->propose(node).at(0);
  if (tag != "any") {
    ASSERT_EQ(candidate.inputs[operand], node.inputs[operand]->layout) << "the kernel wants another layout";
  }
  check_candidate(node, candidate, plain, expected, tolerance);
}

// Operands that mixed precision makes bfloat16, and what they are in float32 in `plain`.
std::vector<Tensor> lowered(const MixedPrecision& mixed, std::vector<Tensor>& plain) {
  std::vector<Tensor> given = plain;
  for (size_t i = 0; i < plain.size(); ++i) {
    const bool low = mixed.follows || mixed.takes_low(i);
    if (!low || !plain[i].defined() || plain[i].dtype() != DType::f32) continue;
    given[i] = plain[i].cast(DType::bf16);
    plain[i] = given[i].cast(DType::f32);
  }
  return given;
}

}  // namespace

void check_layout(const std::string& text, const std::string& tag, size_t operand, const Feeds& feeds,
                  double tolerance) {
  SCOPED_TRACE(cat(text, " with operand ", operand, " in ", tag));
  auto graph = graph_from_text(text);
  const Node& node = **graph->nodes().begin();
  std::vector<Tensor> plain = random_inputs(node, feeds);
  check_proposal(node, tag, operand, plain, evaluate(node, plain), tolerance);
}

void check_mixed(const std::string& text, const std::string& tag, size_t operand, const Feeds& feeds,
                 double tolerance) {
  SCOPED_TRACE(cat(text, " in bfloat16 with operand ", operand, " in ", tag));
  auto graph = graph_from_text(text);
  const Node& node = **graph->nodes().begin();
  std::vector<Tensor> plain = random_inputs(node, feeds);
  auto mixed = find_op(node)->mixed_precision(node);
  ASSERT_TRUE(mixed) << "no kernel for bfloat16";
  std::vector<Tensor> given = lowered(*mixed, plain);
  std::vector<Tensor> expected = evaluate(node, plain);
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i].dtype() == DType::bf16) node.inputs[i]->dtype = DType::bf16;
  }
  for (bool wide : {true, false}) {
    if (wide && mixed->optional == 0 && !mixed->mixes) continue;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      Value* output = node.outputs[i];
      const bool low = mixed->follows || mixed->gives_low(i), either = mixed->mixes || mixed->gives_either(i);
      if (output && is_float(output->dtype)) output->dtype = low && !(wide && either) ? DType::bf16 : DType::f32;
    }
    check_proposal(node, tag, operand, given, expected, tolerance);
  }
}

std::set<std::string> check_choices(const std::string& text, DType dtype, double tolerance) {
  SCOPED_TRACE(cat(text, " in ", dtype));
  auto graph = graph_from_text(text);
  Node& node = **graph->nodes().begin();
  std::vector<Tensor> plain = random_inputs(node, {}), given = plain;
  std::optional<MixedPrecision> mixed;
  if (dtype == DType::bf16) mixed = find_op(node)->mixed_precision(node);
  if (mixed) given = lowered(*mixed, plain);
  const std::vector<Tensor> expected = evaluate(node, plain);
  for (size_t i = 0; i < given.size(); ++i) node.inputs[i]->dtype = given[i].dtype();
  for (size_t i = 0; mixed && i < node.outputs.size(); ++i) {
    if (mixed->gives_low(i)) node.outputs[i]->dtype = DType::bf16;
  }
  for (Value* input : node.inputs) input->layout = Layout::plain(input->dims);
  std::set<std::string> names;
  for (const Candidate& candidate : find_kernel(node)->propose(node)) {
    for (size_t i = 0; i < node.inputs.size(); ++i) node.inputs[i]->layout = candidate.inputs[i];
    for (size_t i = 0; i < node.outputs.size(); ++i) node.outputs[i]->layout = candidate.outputs[i];
    for (const std::string& name : find_kernel(node)->choices(node)) {
      SCOPED_TRACE(name);
      node.kernel = name;
      check_candidate(node, candidate, given, expected, tolerance);
      names.insert(name);
    }
    node.kernel.clear();
  }
  return names;
}

}  // namespace graft::test
