#include <algorithm>
#include <set>

#include "importers/onnx/edit.h"
#include "importers/onnx/edit_graph.h"
#include "importers/onnx/tensors.h"

namespace graft {
namespace {

// What may stand between a classifier and the graph output without changing what its classes are.
const std::set<std::string> passes = {"Softmax",     "LogSoftmax", "Sigmoid",   "Identity",  "Flatten",
                                      "Reshape",     "Squeeze",    "Unsqueeze", "Transpose", "Dropout",
                                      "Cast",        "Exp",        "Relu",      "Clip",      "GlobalAveragePool",
                                      "AveragePool", "ReduceMean"};

struct Classifier {
  onnx::NodeProto* node = nullptr;
  int weight = 1;                            // operand that holds the weights
  onnx::NodeProto* weight_reader = nullptr;  // the node that reads the tensor: `node`, or a Transpose, Identity, Cast
  onnx::NodeProto* adder = nullptr;          // the node that has the bias, nullptr for none
  int bias = 0;                              // its operand
  size_t class_axis = 0;                     // of the weight tensor in the file
};

class HeadSearch {
 public:
  HeadSearch(GraphEdit& edit) : edit_(edit) {}

  // The classifier that gives `name`; its node is nullptr where there is none.
  Classifier find(std::string name) const {
    constexpr int longest = 64;
    for (int steps = 0; steps < longest; ++steps) {
      auto* node = edit_.producer(name);
      if (!node || !plain_domain(node->domain()).empty() || !node->input_size()) return {};
      Classifier found = classifier(*node);
      if (found.node) return found;
      int next = operand_before(*node);
      if (next < 0) return {};
      name = node->input(next);
    }
    return {};
  }

  std::vector<std::string> candidates() const {
    std::vector<std::string> list;
    for (auto& node : *edit_.graph().mutable_node()) {
      Classifier found = classifier(node);
      if (!found.node || found.adder == &node) continue;
      const Place* weight = edit_.constant(found.weight_reader->input(operand(found)));
      list.push_back(cat(where_of(node), " with ", weight->dims[found.class_axis], " outputs"));
    }
    return list;
  }

  static int operand(const Classifier& c) { return c.weight_reader == c.node ? c.weight : 0; }

 private:
  Classifier classifier(onnx::NodeProto& node) const {
    const std::string& type = node.op_type();
    if (type == "Gemm") return with_bias(linear(node, attribute(node, "transB") != 0), node);
    if (type == "MatMul") return linear(node, false);
    if (type == "Conv") return with_bias(convolution(node), node);
    if (type == "Add") return biased(node);
    return {};
  }

  static Classifier with_bias(Classifier c, onnx::NodeProto& node) {
    constexpr int slot = 2;
    if (c.node && node.input_size() > slot && !node.input(slot).empty()) {
      c.adder = &node;
      c.bias = slot;
    }
    return c;
  }

  // Weights of rank 2, classes last unless transposed.
  Classifier linear(onnx::NodeProto& node, bool classes_first) const {
    Classifier c;
    c.weight_reader = weight_reader(node, 1, classes_first);
    if (!c.weight_reader) return {};
    c.node = &node;
    c.class_axis = classes_first ? 0 : 1;
    const Place* weight = edit_.constant(c.weight_reader->input(operand(c)));
    if (!weight || weight->dims.size() != 2 || !is_float(weight->dtype)) return {};
    return c;
  }

  Classifier convolution(onnx::NodeProto& node) const {
    Classifier c;
    bool untransposed = true;
    c.weight_reader = weight_reader(node, 1, untransposed);
    if (!c.weight_reader || !untransposed || attribute(node, "group", 1) != 1) return {};
    c.node = &node;
    const Place* weight = edit_.constant(c.weight_reader->input(operand(c)));
    if (!weight || weight->dims.size() < 3 || !is_float(weight->dtype)) return {};
    bool pointwise = std::all_of(weight->dims.begin() + 2, weight->dims.end(), [](int64_t d) { return d == 1; });
    return pointwise ? c : Classifier{};
  }

  // MatMul + constant.
  Classifier biased(onnx::NodeProto& node) const {
    for (int slot : {0, 1}) {
      const Place* bias = edit_.constant(node.input(slot));
      auto* product = edit_.producer(node.input(1 - slot));
      if (!bias || !product || product->op_type() != "MatMul" || !plain_domain(product->domain()).empty()) continue;
      Classifier c = linear(*product, false);
      if (!c.node) continue;
      const Place* weight = edit_.constant(c.weight_reader->input(operand(c)));
      if (bias->dims.empty() || bias->dims.back() != weight->dims[c.class_axis] ||
          element_count(bias->dims) != bias->dims.back())
        continue;
      c.adder = &node;
      c.bias = slot;
      return c;
    }
    return {};
  }

  // The node that reads the weight tensor, past Identity, Cast and a matrix Transpose, which flips `classes_first`.
  onnx::NodeProto* weight_reader(onnx::NodeProto& node, int slot, bool& classes_first) const {
    onnx::NodeProto* reader = &node;
    if (reader->input_size() <= slot) return nullptr;
    constexpr int longest = 8;
    for (int steps = 0; steps < longest; ++steps) {
      const std::string& name = reader->input(reader == &node ? slot : 0);
      if (edit_.constant(name)) return reader;
      auto* before = edit_.producer(name);
      if (!before || !plain_domain(before->domain()).empty() || before->input_size() < 1) return nullptr;
      const std::string& type = before->op_type();
      if (type == "Transpose") classes_first = !classes_first;
      else if (type != "Identity" && type != "Cast") return nullptr;
      reader = before;
    }
    return nullptr;
  }

  static int64_t attribute(const onnx::NodeProto& node, const std::string& name, int64_t otherwise = 0) {
    for (const auto& entry : node.attribute()) {
      if (entry.name() == name) return entry.i();
    }
    return otherwise;
  }

  // The operand to look at next, -1 where the search ends.
  int operand_before(const onnx::NodeProto& node) const {
    const std::string& type = node.op_type();
    if (passes.count(type)) return 0;
    if (node.input_size() != 2) return -1;
    // A scale or an offset of one number.
    if (type == "Add" || type == "Sub" || type == "Mul" || type == "Div") {
      for (int slot : {0, 1}) {
        const Place* one = edit_.constant(node.input(slot));
        if (one && element_count(one->dims) == 1) return 1 - slot;
      }
    }
    // Softmax spelled out: exp(x - max) / sum.
    auto* first = edit_.producer(node.input(0));
    if (type == "Div" && first && first->op_type() == "Exp") return 0;
    auto* second = edit_.producer(node.input(1));
    if (type == "Sub" && second && !edit_.constant(node.input(0))) return 0;
    return -1;
  }

  GraphEdit& edit_;
};

// All values that a value flows into.
std::set<std::string> downstream(const onnx::GraphProto& graph, const std::string& from) {
  std::set<std::string> reached{from};
  size_t before = 0;
  while (before != reached.size()) {  // once in a sorted file
    before = reached.size();
    for (const auto& node : graph.node()) {
      bool reads = std::any_of(node.input().begin(), node.input().end(),
                               [&](const std::string& name) { return reached.count(name) != 0; });
      if (reads) reached.insert(node.output().begin(), node.output().end());
    }
  }
  reached.erase("");
  return reached;
}

// Shapes behind the head that say the old class count.
void correct_shapes(GraphEdit& edit, const std::set<std::string>& reached, const OnnxModel::Contents& model,
                    int64_t old_classes, int64_t classes) {
  auto& graph = edit.graph();
  auto& infos = *graph.mutable_value_info();
  for (int i = infos.size() - 1; i >= 0; --i) {
    if (reached.count(infos[i].name())) infos.DeleteSubrange(i, 1);
  }
  for (auto& output : *graph.mutable_output()) {
    if (!reached.count(output.name())) continue;
    auto& dims = *output.mutable_type()->mutable_tensor_type()->mutable_shape()->mutable_dim();
    for (int i = dims.size() - 1; i >= 0; --i) {
      if (dims[i].dim_value() != old_classes) continue;
      dims[i].set_dim_value(classes);
      break;
    }
    if (!dims.size()) output.mutable_type()->mutable_tensor_type()->clear_shape();
  }
  constexpr int64_t longest = 16;  // a Reshape has few dims
  for (auto& node : *graph.mutable_node()) {
    bool shapes = node.op_type() == "Reshape" || node.op_type() == "Expand";
    if (!shapes || node.input_size() < 2 || !reached.count(node.input(0))) continue;
    const Place* place = edit.constant(node.input(1));
    if (!place || place->dtype != DType::i64 || element_count(place->dims) > longest) continue;
    Tensor shape = model.tensor(*place).clone();
    auto* dims = shape.data<int64_t>();
    auto* last =
        std::find(std::reverse_iterator(dims + shape.count()), std::reverse_iterator(dims), old_classes).base();
    if (last == dims) continue;
    *(last - 1) = classes;
    edit.replace_operand(node, 1, shape);
  }
}

}  // namespace

HeadEdit replace_head(OnnxModel& model, int64_t classes, uint64_t seed, const std::string& output) {
  if (classes < 1) throw UsageError("a new head wants at least 1 output, got ", classes);
  GraphEdit edit(model.contents());
  std::string ends_in = edit.output(output).name();
  HeadSearch search(edit);
  Classifier head = search.find(ends_in);
  if (!head.node) {
    std::string list;
    for (const auto& candidate : search.candidates()) list += "\n  " + candidate;
    throw ModelError("[output \"", shortened(ends_in),
                     "\"] ends in no classifier (Gemm, MatMul + Add or 1x1 Conv behind activations and reshapes)",
                     list.empty() ? ", and the model has none" : ": the model has these, further from the output",
                     list);
  }
  int slot = HeadSearch::operand(head);
  const Place& weight = *edit.constant(head.weight_reader->input(slot));
  HeadEdit result{label_of(*head.node), {}, ends_in, weight.dims[head.class_axis], classes};
  Dims dims = weight.dims;
  int64_t fan_in = element_count(dims) / std::max<int64_t>(dims[head.class_axis], 1);
  dims[head.class_axis] = classes;
  byte_count(weight.dtype, dims);
  Tensor fresh = fresh_weights(weight.dtype, dims, fan_in, seed, weight.name);
  result.parameters.push_back(edit.replace_operand(*head.weight_reader, slot, fresh));
  if (head.adder) {
    const Place* bias = edit.constant(head.adder->input(head.bias));
    if (!bias || bias->dims.empty() || bias->dims.back() != result.old_classes) {
      throw ModelError(where_of(*head.adder), " has no constant bias of ", result.old_classes, " entries");
    }
    Dims bias_dims = bias->dims;
    bias_dims.back() = classes;
    Tensor values = fresh_weights(bias->dtype, bias_dims, fan_in, seed, bias->name);
    result.parameters.push_back(edit.replace_operand(*head.adder, head.bias, values));
  }
  correct_shapes(edit, downstream(edit.graph(), head.node->output(0)), model.contents(), result.old_classes, classes);
  return result;
}

}  // namespace graft
