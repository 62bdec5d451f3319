// Binds input shapes and walks the graph once: infer a node, fold it when all it reads is constant, inline an If whose
// condition became known. ONNX's own data propagation covers eleven operators; folding by our kernels covers all.
#include <algorithm>

#include "graph/passes/dropout.h"
#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {
namespace {

// Larger results are left to the prologue, which computes them once and not into the model's constants.
constexpr int64_t fold_limit_bytes = int64_t{1} << 20;

class Specialiser {
 public:
  Specialiser(Graph& graph, const Evaluator& evaluate) : graph_(graph), evaluate_(evaluate) {}

  void bind_inputs(const std::map<std::string, Dims>& input_dims) {
    std::string open;
    for (Value* input : graph_.inputs) {
      auto given = input_dims.find(input->name);
      if (given != input_dims.end()) bind(*input, given->second);
      if (!input->shaped()) open += cat("\n  \"", input->name, "\" ", describe(*input));
    }
    if (!open.empty()) throw UsageError("these inputs have free dimensions that must be given:", open);
  }

  void run() {
    for (Node* node : graph_.node_list()) visit(node);
    if (!data_dependent_.empty())
      throw UnsupportedError::listing("cannot be given a shape", std::move(data_dependent_));
    graph_.insert_before(nullptr);
    graph_.prune();
  }

 private:
  static std::string describe(const Value& input) {
    if (!input.ranked) return "of any shape";
    std::string text = "(";
    for (size_t d = 0; d < input.dims.size(); ++d) {
      bool named = d < input.dim_names.size() && !input.dim_names[d].empty();
      text += cat(d ? "," : "", input.dims[d] >= 0 ? cat(input.dims[d]) : named ? input.dim_names[d] : "?");
    }
    return text + ')';
  }

  static void bind(Value& input, const Dims& dims) {
    bool fits = !input.ranked || input.dims.size() == dims.size();
    for (size_t d = 0; fits && input.ranked && d < dims.size(); ++d)
      fits = input.dims[d] < 0 || input.dims[d] == dims[d];
    if (!fits) throw DataError("input \"", input.name, "\" of shape ", describe(input), " cannot take ", dims);
    element_count(dims);
    input.dims = dims;
    input.ranked = true;
  }

  void visit(Node* node) {
    bool shaped_inputs =
        std::all_of(node->inputs.begin(), node->inputs.end(), [](const Value* v) { return !v || v->shaped(); });
    if (!shaped_inputs) return;  // behind a node whose shape depends on data: that one is reported
    if (node->domain.empty() && node->type == "If") return inline_if(node);
    graft::infer(*node);
    if (fold_shape(node)) return;
    bool shaped =
        std::all_of(node->outputs.begin(), node->outputs.end(), [](const Value* v) { return !v || v->shaped(); });
    if (!shaped) {
      data_dependent_.push_back(node->blocker(find_kernel(*node)
                                                  ? cat("has a shape that depends on ", what_is_open(*node))
                                                  : "has no kernel, and a shape that ONNX does not tell"));
      return;
    }
    for (const Value* output : node->outputs) {
      if (output && !output->opaque) byte_count(output->dtype, output->dims);  // overflow is an error here
    }
    fold(node);
  }

  // What keeps the shape of a node's results open.
  std::string what_is_open(const Node& node) const {
    for (const Value* input : node.inputs) {
      auto found = unfolded_.find(input);
      if (found != unfolded_.end()) return found->second->where() + ", for which there is no kernel";
    }
    return "the data";
  }

  void replace(Node* node, size_t i, Tensor data) {
    Value* old_value = node->outputs[i];
    std::string name = old_value->name;
    graph_.rename(old_value, "");
    graph_.replace_uses(old_value, graph_.add_constant(std::move(data), name));
  }

  // Shape and Size need the shape of their input only.
  bool fold_shape(Node* node) {
    if (!node->domain.empty() || (node->type != "Shape" && node->type != "Size")) return false;
    const Dims& dims = node->inputs.at(0)->dims;
    if (node->type == "Size") {
      replace(node, 0, Tensor::scalar<int64_t>(element_count(dims)));
    } else {
      auto rank = static_cast<int64_t>(dims.size());
      auto clamp = [&](int64_t axis) { return std::clamp<int64_t>(axis < 0 ? axis + rank : axis, 0, rank); };
      int64_t start = clamp(node->integer("start", 0));
      int64_t end = std::max(start, clamp(node->integer("end", rank)));
      std::vector<int64_t> part(dims.begin() + start, dims.begin() + end);
      replace(node, 0, Tensor::of<int64_t>({end - start}, part));
    }
    return true;
  }

  void fold(Node* node) {
    int64_t bytes = 0;
    for (const Value* output : node->outputs) {
      if (output && output->opaque) return;
      if (output) bytes = checked_add(bytes, byte_count(output->dtype, output->dims));
    }
    const Node* missing = find_kernel(*node) ? nullptr : node;
    bool constant = std::all_of(node->inputs.begin(), node->inputs.end(), [&](const Value* v) {
      auto unfolded = unfolded_.find(v);
      if (unfolded != unfolded_.end()) missing = unfolded->second;
      return !v || (v->is_constant() && v->data.defined()) || unfolded != unfolded_.end();
    });
    if (!constant || is_random(*node) || bytes > fold_limit_bytes) return;
    if (missing) {
      for (const Value* output : node->outputs) unfolded_[output] = missing;
      return;
    }
    std::vector<Tensor> operands;
    for (const Value* input : node->inputs) operands.push_back(input ? input->data : Tensor{});
    std::vector<Tensor> results = evaluate_(*node, operands);
    for (size_t i = 0; i < node->outputs.size(); ++i) {
      if (node->outputs[i]) replace(node, i, results[i]);
    }
  }

  void inline_if(Node* node) {
    const Value* condition = node->inputs.at(0);
    if (!condition->is_constant()) {
      data_dependent_.push_back(node->blocker("has a condition that depends on the data"));
      return;
    }
    bool taken = condition->data.cast(DType::boolean).data<bool>()[0];
    auto found = node->attributes.find(taken ? "then_branch" : "else_branch");
    const auto* body = found == node->attributes.end() ? nullptr : std::get_if<std::shared_ptr<Graph>>(&found->second);
    if (!body || !*body) throw ModelError(node->where(), " lacks the branch that its condition takes");
    graph_.insert_before(node);
    graph_.set_provenance(node->provenance);
    size_t before = graph_.nodes().size();
    std::vector<Value*> results = graph_.inline_body(**body, {});
    if (results.size() != node->outputs.size())
      throw ModelError(node->where(), " has ", node->outputs.size(), " results, its branch ", results.size());
    std::vector<Node*> added;
    for (auto at = node->position; added.size() < graph_.nodes().size() - before;) added.push_back((--at)->get());
    for (size_t i = 0; i < results.size(); ++i) {
      if (!node->outputs[i]) continue;
      std::string name = node->outputs[i]->name;
      graph_.rename(node->outputs[i], "");
      if (results[i]->role == Role::result && results[i]->name.empty()) graph_.rename(results[i], name);
      graph_.replace_uses(node->outputs[i], results[i]);
    }
    std::reverse(added.begin(), added.end());
    for (Node* inner : added) visit(inner);
  }

  Graph& graph_;
  const Evaluator& evaluate_;
  std::vector<Blocker> data_dependent_;
  std::unordered_map<const Value*, const Node*> unfolded_;  // constant, but the node has no kernel
};

}  // namespace

void specialise(Graph& graph, const std::map<std::string, Dims>& input_dims, const Evaluator& evaluate) {
  Specialiser specialiser(graph, evaluate);
  specialiser.bind_inputs(input_dims);
  specialiser.run();
}

}  // namespace graft
