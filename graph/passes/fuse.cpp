// Merges what is computed twice and removes what changes nothing.
#include <algorithm>
#include <numeric>
#include <unordered_set>

#include "graph/passes/dropout.h"
#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/op.h"

namespace graft {
namespace {

bool is_onnx(const Node& node, std::string_view type) { return node.domain.empty() && node.type == type; }

class Fuser {
 public:
  explicit Fuser(Graph& graph) : graph_(graph), kept_(pattern::kept_values(graph)) {}

  // Results that are their operand: Identity, casts and reshapes to what is there already.
  void remove_identities() {
    for (Node* node : graph_.node_list()) {
      Value* x = node->input(0);
      Value* y = node->output(0);
      if (!x || !y || kept_.count(y) || node->outputs.size() != 1 || !is_identity(*node)) continue;
      graph_.replace_uses(y, x);
      graph_.erase(node);
    }
  }

  // A transpose of a transpose is one transpose.
  void merge_transposes() {
    for (Node* node : graph_.node_list()) {
      Node* before = node->input(0) ? node->input(0)->producer : nullptr;
      if (!is_onnx(*node, "Transpose") || !before || !is_onnx(*before, "Transpose")) continue;
      auto inner = permutation(*before);
      auto outer = permutation(*node);
      std::vector<int64_t> both;
      for (int64_t axis : outer) both.push_back(inner[static_cast<size_t>(axis)]);
      node->attributes["perm"] = both;
      graph_.set_input(node, 0, before->inputs[0]);
    }
    graph_.prune();
  }

  // A vector that is added to a product becomes its third operand: one pass over the result less.
  void add_to_products() {
    for (Node* add : graph_.node_list()) {
      if (!is_onnx(*add, "Add")) continue;
      for (size_t i : {0, 1}) {
        Value *product = add->inputs[i], *vector = add->inputs[1 - i];
        Node* node = product->producer;
        if (!node || node->type != "MatMul" || node->inputs.size() > 2 || product->users.size() != 1 ||
            kept_.count(product) || !is_float(product->dtype) || product->dims.size() < 2 ||
            vector->dims != Dims{product->dims.back()} || vector->dtype != product->dtype ||
            node->inputs[0]->dims.size() < 2 || node->inputs[1]->dims.size() < 2)
          continue;
        graph_.insert_before(add);
        graph_.set_provenance(node->provenance);
        Node* sum = graph_.add_node("graft", "MatMul", {node->inputs[0], node->inputs[1], vector}, 1, node->attributes);
        sum->name = node->name;
        infer(*sum);
        pattern::replace(graph_, add->outputs[0], sum->outputs[0]);
        break;
      }
    }
  }

  // The direct algorithm wherever Winograd's could be taken, see ops/conv.h.
  void forbid_winograd() {
    for (const auto& node : graph_.nodes()) {
      if (node->type.starts_with("Conv")) node->attributes["winograd"] = int64_t{0};
    }
  }

  void merge_equal() {
    merge_constants();
    std::unordered_map<std::string, Node*> seen;
    std::unordered_map<const Node*, std::vector<Node*>> backward;
    for (Node* node : graph_.node_list()) {
      if (node->forward) backward[node->forward].push_back(node);
    }
    for (Node* node : graph_.node_list()) {
      auto key = key_of(*node);
      if (!key) continue;
      auto [found, fresh] = seen.emplace(*key, node);
      if (fresh || !can_replace(*node)) continue;
      for (size_t i = 0; i < node->outputs.size(); ++i) {
        if (node->outputs[i]) graph_.replace_uses(node->outputs[i], found->second->outputs[i]);
      }
      for (Node* grad : backward[node]) {
        grad->forward = found->second;
        backward[found->second].push_back(grad);
      }
      graph_.erase(node);
    }
  }

 private:
  static std::vector<int64_t> permutation(const Node& transpose) {
    auto rank = transpose.inputs[0]->dims.size();
    std::vector<int64_t> reversed(rank);
    for (size_t d = 0; d < rank; ++d) reversed[d] = static_cast<int64_t>(rank - 1 - d);
    return transpose.integers("perm", reversed);
  }

  static bool is_identity(const Node& node) {
    const Value& x = *node.inputs[0];
    const Value& y = *node.outputs[0];
    if (x.dtype != y.dtype || x.dims != y.dims || x.opaque) return false;
    if (is_onnx(node, "Transpose")) {
      auto perm = permutation(node);
      return std::is_sorted(perm.begin(), perm.end());
    }
    bool single = is_onnx(node, "Concat") || is_onnx(node, "Sum") || is_onnx(node, "Max") || is_onnx(node, "Min");
    if (single) return node.inputs.size() == 1;
    constexpr const char* views[] = {"Identity", "Cast", "Reshape", "Expand", "Flatten"};
    return std::any_of(std::begin(views), std::end(views), [&](const char* type) { return is_onnx(node, type); });
  }

  // Small constants of equal bytes: axes and shapes that differ in identity only would keep equal nodes apart.
  void merge_constants() {
    constexpr int64_t longest = 1024;
    std::unordered_map<std::string, Value*> seen;
    for (const auto& value : graph_.values()) {
      if (!value->is_constant() || !value->data.defined() || value->data.bytes() > longest ||
          value->dtype == DType::string)
        continue;
      std::string key = cat(value->dtype, value->dims);
      key.append(static_cast<const char*>(value->data.raw()), static_cast<size_t>(value->data.bytes()));
      auto [found, fresh] = seen.emplace(std::move(key), value.get());
      if (!fresh && !kept_.count(value.get())) graph_.replace_uses(value.get(), found->second);
    }
  }

  // What a node computes, as text; nullopt where two equal nodes may differ.
  static std::optional<std::string> key_of(const Node& node) {
    constexpr int64_t longest = 4096;
    if (is_random(node)) return std::nullopt;
    std::ostringstream key;
    key << node.domain << '.' << node.type << '.' << static_cast<int>(node.device) << '.' << node.forward;
    for (const Value* input : node.inputs) key << ',' << (input ? input->id : -1);
    key << '>';
    for (const Value* output : node.outputs) {
      if (output && output->opaque) return std::nullopt;
      key << (output ? '1' : '0');
    }
    for (const auto& [name, attribute] : node.attributes) {
      key << ';' << name << '=' << attribute.index() << ':';
      if (std::holds_alternative<std::shared_ptr<Graph>>(attribute)) return std::nullopt;
      if (const auto* tensor = std::get_if<Tensor>(&attribute)) {
        if (tensor->bytes() > longest || tensor->dtype() == DType::string) return std::nullopt;
        key << tensor->dtype() << tensor->dims();
        key.write(static_cast<const char*>(tensor->raw()), tensor->bytes());
      }
      write(key, attribute);
    }
    return key.str();
  }

  static void write(std::ostringstream& key, const Attribute& attribute) {
    key << std::hexfloat;
    if (const auto* v = std::get_if<int64_t>(&attribute)) key << *v;
    if (const auto* v = std::get_if<double>(&attribute)) key << *v;
    if (const auto* v = std::get_if<std::string>(&attribute)) key << v->size() << ' ' << *v;
    if (const auto* list = std::get_if<std::vector<int64_t>>(&attribute)) {
      for (int64_t v : *list) key << v << ' ';
    }
    if (const auto* list = std::get_if<std::vector<double>>(&attribute)) {
      for (double v : *list) key << v << ' ';
    }
    if (const auto* list = std::get_if<std::vector<std::string>>(&attribute)) {
      for (const auto& v : *list) key << v.size() << ' ' << v;
    }
  }

  // Graph outputs and what states become keep their own values.
  bool can_replace(const Node& node) const {
    return std::none_of(node.outputs.begin(), node.outputs.end(), [&](const Value* v) { return v && kept_.count(v); });
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
};

}  // namespace

void fuse(Graph& graph, const std::set<std::string>& disabled) {
  Fuser fuser(graph);
  if (!disabled.count("remove_identities")) fuser.remove_identities();
  if (!disabled.count("merge_transposes")) fuser.merge_transposes();
  if (!disabled.count("remove_identities")) fuser.remove_identities();
  if (!disabled.count("merge_equal")) fuser.merge_equal();
  if (!disabled.count("product_bias")) fuser.add_to_products();
  if (disabled.count("winograd")) fuser.forbid_winograd();
  graph.prune();
}

}  // namespace graft
