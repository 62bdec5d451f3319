// Products of matrices finish their result while it is in registers: Relu, its gradient and the sum of that over the
// rows, or a sum with another value. Only where nothing else reads what the product gives, so that no more values live
// than before. Behind lay_out, on a sorted graph.
#include <algorithm>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/op.h"

namespace graft {
namespace {

constexpr size_t beside_slot = 3;  // what a product's result meets

bool is_step(const Node& node) { return node.stage == Stage::step && node.device == Device::cpu; }

bool is_f32(const std::vector<Value*>& values) {
  return std::all_of(values.begin(), values.end(), [](const Value* v) { return !v || v->dtype == DType::f32; });
}

bool is_plain(const Value& value) { return value.layout.is_plain(value.dims); }

// Whether graft.MatMul computes the same, and can go on.
bool is_product(const Node& node) {
  const bool gemm = node.domain.empty() && node.type == "Gemm";
  if ((!gemm && node.type != "MatMul") || !is_step(node) || node.has("zero_rows") || node.has("behind") ||
      !is_f32(node.inputs) || !is_f32(node.outputs))
    return false;
  const Value *a = node.inputs[0], *b = node.inputs[1], *c = node.input(2), *y = node.outputs[0];
  if (a->dims.size() < 2 || b->dims.size() < 2 || a->count() == 0 || y->count() == 0 || !is_plain(*y)) return false;
  if (!gemm) return true;
  return node.real("alpha", 1) == 1 && (!c || (node.real("beta", 1) == 1 && c->dims == Dims{y->dims.back()}));
}

struct Behind {
  const char* name = nullptr;
  Value *product = nullptr, *beside = nullptr;  // operands
};

class ProductJoiner {
 public:
  explicit ProductJoiner(Graph& graph) : graph_(graph), kept_(pattern::kept_values(graph)) {}

  int run() {
    const Provenance before = graph_.provenance();
    const std::vector<Node*> nodes = graph_.node_list();
    for (size_t i = 0; i < nodes.size(); ++i) places_[nodes[i]] = i;
    // Sums stand behind what they sum up, and go with it.
    std::unordered_set<const Node*> gone;
    int joined = 0;
    for (Node* node : nodes) {
      if (gone.count(node) || !is_step(*node)) continue;
      for (const Behind& behind : behind_products(*node)) {
        if (!fits(*node, behind)) continue;
        Node* sum = sum_of(*node);
        gone.insert(sum);
        build(node, behind, sum);
        ++joined;
        break;
      }
    }
    graph_.set_provenance(before);
    return joined;
  }

 private:
  // The ways to see a node as one behind a product.
  static std::vector<Behind> behind_products(const Node& node) {
    if (node.domain == "graft") {
      if (node.type == "ReluGrad") return {{"ReluGrad", node.inputs[0], node.inputs[1]}};
    } else if (node.type == "Relu") {
      return {{"Relu", node.inputs[0], nullptr}};
    } else if (node.type == "Add") {
      return {{"Add", node.inputs[0], node.inputs[1]}, {"Add", node.inputs[1], node.inputs[0]}};
    }
    return {};
  }

  bool fits(const Node& node, const Behind& behind) const {
    const Value &given = *behind.product, &y = *node.outputs[0];
    const Node* product = given.producer;
    if (!product || !is_product(*product) || given.users.size() != 1 || kept_.count(&given) ||
        product->provenance.direction != node.provenance.direction || !is_f32(node.inputs) || y.dims != given.dims ||
        !is_plain(y))
      return false;
    const Value* x = behind.beside;
    return !x || (x->dims == y.dims && is_plain(*x) && (!x->producer || places_.at(x->producer) < places_.at(product)));
  }

  // What sums up the rows of the node's result; nullptr where nothing does.
  Node* sum_of(const Node& node) const {
    for (Node* user : node.outputs[0]->users) {
      if (!user->domain.empty() || user->type != "ReduceSum" || user->integer("keepdims", 1) == 0 || !is_step(*user) ||
          !is_plain(*user->outputs[0]))
        continue;
      auto axes = pattern::reduced_axes(*user);
      const auto last = static_cast<int64_t>(node.outputs[0]->dims.size()) - 1;
      const bool rows = axes && static_cast<int64_t>(axes->size()) == last && axes->back() == last - 1;
      if (rows) return user;
    }
    return nullptr;
  }

  void build(Node* node, const Behind& behind, Node* sum) {
    Node* product = behind.product->producer;
    Attributes attributes{{"behind", std::string(behind.name)}};
    for (const char* name : {"transA", "transB"}) attributes[name] = product->integer(name, 0);
    std::vector<Value*> inputs = product->inputs;
    inputs.resize(beside_slot);
    if (behind.beside) inputs.push_back(behind.beside);
    graph_.insert_before(product);
    graph_.set_provenance(product->provenance);
    Node* joined = graph_.add_node("graft", "MatMul", inputs, sum ? 2 : 1, attributes);
    graph_.insert_before(nullptr);
    joined->name = product->name;
    infer(*joined);
    places_[joined] = places_.at(product);
    take_over(node, joined, 0);
    if (sum) take_over(sum, joined, 1);
    if (sum) graph_.erase(sum);
    graph_.erase(node);
    graph_.erase(product);
  }

  void take_over(const Node* from, Node* joined, size_t index) {
    Value *before = from->outputs[0], *now = joined->outputs[index];
    now->layout = before->layout;
    pattern::take_over(graph_, before, joined, index);
    if (kept_.count(before)) kept_.insert(now);
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
  std::unordered_map<const Node*, size_t> places_;
};

}  // namespace

int join_products(Graph& graph) { return ProductJoiner(graph).run(); }

}  // namespace graft
