// Patterns that exporters spell out become operators with kernels and gradients of their own. Shapes are known and
// constants are folded here.
#include <algorithm>
#include <cmath>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/build.h"

namespace graft {
namespace {

using pattern::made_by;
using pattern::product_of;
using pattern::sum_of;

// A region that computes `result` and what to put there.
struct Match {
  Value* result = nullptr;
  std::vector<const Value*> inputs;  // where the region begins
  std::string type;
  std::vector<Value*> operands;
  Attributes attributes = {};
};

using Matcher = std::optional<Match> (*)(Value* result);

Match unary(Value* result, Value* x, const std::string& type, Attributes attributes = {}) {
  return {result, {x}, type, {x}, std::move(attributes)};
}

// --- Gelu: x/2 (1 + erf(x / sqrt 2)), or with tanh(sqrt(2/pi) (x + 0.044715 x^3)) ---

bool is_erf_of(const Value* value, const Value* x) {
  const Node* erf = made_by(value, "Erf");
  return erf && product_of(erf->inputs[0]).is(std::sqrt(0.5), {x});
}

bool is_cubic_tanh_of(const Value* value, const Value* x) {
  constexpr double cubic = 0.044715;
  const double scale = std::sqrt(2 / std::acos(-1.0));
  const Node* tanh = made_by(value, "Tanh");
  if (!tanh) return false;
  auto inner = product_of(tanh->inputs[0]);
  if (!pattern::is_about(inner.coefficient, scale)) return false;
  if (inner.factors.size() == 1) {  // x + c x^3
    auto sum = sum_of(inner.factors[0]);
    if (sum.shift != 0 || sum.terms.size() != 2) return false;
    if (sum.terms[1] == x) std::swap(sum.terms[0], sum.terms[1]);
    return sum.terms[0] == x && product_of(sum.terms[1]).is(cubic, {x, x, x});
  }
  Value* other = inner.beside(x);  // x (1 + c x^2)
  auto sum = other ? sum_of(other) : pattern::Sum{};
  return sum.shift == 1 && sum.terms.size() == 1 && product_of(sum.terms[0]).is(cubic, {x, x});
}

std::optional<Match> match_gelu(Value* result) {
  auto product = product_of(result);
  if (!pattern::is_about(product.coefficient, 0.5) || product.factors.size() != 2) return std::nullopt;
  for (Value* x : product.factors) {
    auto sum = sum_of(product.beside(x));
    if (sum.shift != 1 || sum.terms.size() != 1) continue;
    if (is_erf_of(sum.terms[0], x)) return unary(result, x, "Gelu", {{"approximate", std::string("none")}});
    if (is_cubic_tanh_of(sum.terms[0], x)) return unary(result, x, "Gelu", {{"approximate", std::string("tanh")}});
  }
  return std::nullopt;
}

// --- HardSwish: x HardSigmoid(x), x Clip(x + 3, 0, 6) / 6 ---

bool is_clip_of(const Value* value, const Value* x) {
  const Node* clip = made_by(value, "Clip");
  if (!clip || !pattern::number(clip->input(1)) || *pattern::number(clip->input(1)) != 0 ||
      !pattern::is_number(clip->input(2), 6))
    return false;
  auto sum = sum_of(clip->inputs[0]);
  return sum.shift == 3 && sum.terms.size() == 1 && sum.terms[0] == x;
}

std::optional<Match> match_hard_swish(Value* result) {
  constexpr double sixth = 1.0 / 6;
  auto product = product_of(result);
  if (product.factors.size() != 2) return std::nullopt;
  for (Value* x : product.factors) {
    Value* gate = product.beside(x);
    const Node* sigmoid = made_by(gate, "HardSigmoid");
    bool hard = sigmoid && product.coefficient == 1 && sigmoid->inputs[0] == x &&
                pattern::is_about(sigmoid->real("alpha", 0.2), sixth) &&
                pattern::is_about(sigmoid->real("beta", 0.5), 0.5);
    bool clipped = pattern::is_about(product.coefficient, sixth) && is_clip_of(gate, x);
    if (hard || clipped) return unary(result, x, "HardSwish");
  }
  return std::nullopt;
}

// --- Swish: x sigmoid(alpha x); Mish: x tanh(softplus(x)) ---

std::optional<Match> match_swish(Value* result) {
  auto product = product_of(result);
  if (product.coefficient != 1 || product.factors.size() != 2) return std::nullopt;
  for (Value* x : product.factors) {
    const Node* sigmoid = made_by(product.beside(x), "Sigmoid");
    if (!sigmoid) continue;
    auto inner = product_of(sigmoid->inputs[0]);
    if (sigmoid->inputs[0] == x) inner = {1, {x}};
    if (inner.is(inner.coefficient, {x})) return unary(result, x, "Swish", {{"alpha", inner.coefficient}});
  }
  return std::nullopt;
}

std::optional<Match> match_mish(Value* result) {
  auto product = product_of(result);
  if (product.coefficient != 1 || product.factors.size() != 2) return std::nullopt;
  for (Value* x : product.factors) {
    const Node* tanh = made_by(product.beside(x), "Tanh");
    const Node* softplus = tanh ? made_by(tanh->inputs[0], "Softplus") : nullptr;
    if (softplus && softplus->inputs[0] == x) return unary(result, x, "Mish");
  }
  return std::nullopt;
}

// --- LayerNormalization: (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias ---

// The first of the trailing axes that a keepdims ReduceMean takes the mean over.
std::optional<int64_t> mean_axis(const Node* mean) {
  if (!mean || !mean->integer("keepdims", 1)) return std::nullopt;
  auto axes = pattern::reduced_axes(*mean);
  auto rank = static_cast<int64_t>(mean->inputs[0]->dims.size());
  if (!axes || axes->empty() || axes->back() != rank - 1) return std::nullopt;
  for (size_t i = 0; i < axes->size(); ++i) {
    if ((*axes)[i] != rank - static_cast<int64_t>(axes->size() - i)) return std::nullopt;
  }
  return axes->front();
}

// x - mean(x)
struct Centred {
  Value* x = nullptr;
  int64_t axis = 0;
};

std::optional<Centred> centred(const Value* value) {
  const Node* difference = made_by(value, "Sub");
  const Node* mean = difference ? made_by(difference->inputs[1], "ReduceMean") : nullptr;
  if (!mean || mean->inputs[0] != difference->inputs[0]) return std::nullopt;
  auto axis = mean_axis(mean);
  if (!axis) return std::nullopt;
  return Centred{difference->inputs[0], *axis};
}

// eps where `value` is mean((x - mean)^2) + eps
std::optional<double> variance_eps(Value* value, const Centred& of) {
  auto sum = sum_of(value);
  const Node* mean = sum.terms.size() == 1 ? made_by(sum.terms[0], "ReduceMean") : nullptr;
  if (!mean || sum.shift < 0 || mean_axis(mean) != of.axis) return std::nullopt;
  // The square may be used once, or be spelled with a second x - mean.
  const Node* square = mean->inputs[0]->producer;
  if (!square) return std::nullopt;
  bool squared = (made_by(mean->inputs[0], "Pow") && pattern::is_number(square->input(1), 2)) ||
                 (made_by(mean->inputs[0], "Mul") && square->inputs[0] == square->inputs[1]);
  auto inner = squared ? centred(square->inputs[0]) : std::nullopt;
  if (!inner || inner->x != of.x || inner->axis != of.axis) return std::nullopt;
  return sum.shift;
}

// The argument of 1 / sqrt(argument), in its spellings; nullptr otherwise.
Value* inverse_root(const Value* value) {
  if (const Node* reciprocal = made_by(value, "Reciprocal")) {
    const Node* root = made_by(reciprocal->inputs[0], "Sqrt");
    return root ? root->inputs[0] : nullptr;
  }
  if (const Node* power = made_by(value, "Pow"))
    return pattern::is_number(power->inputs[1], -0.5) ? power->inputs[0] : nullptr;
  const Node* quotient = made_by(value, "Div");
  const Node* root =
      quotient && pattern::is_number(quotient->inputs[0], 1) ? made_by(quotient->inputs[1], "Sqrt") : nullptr;
  return root ? root->inputs[0] : nullptr;
}

// The argument of the root where `value` is d / sqrt(argument).
Value* divided_by_root(const Value* value, Value*& d) {
  const Node* quotient = made_by(value, "Div");
  if (!quotient) return nullptr;
  d = quotient->inputs[0];
  if (const Node* root = made_by(quotient->inputs[1], "Sqrt")) return root->inputs[0];
  const Node* power = made_by(quotient->inputs[1], "Pow");
  return power && pattern::is_number(power->inputs[1], 0.5) ? power->inputs[0] : nullptr;
}

// What the scaled product is made of; `scale` is the remaining factor.
struct Normalised {
  Centred of;
  double eps = 0;
  Value* scale = nullptr;
};

std::optional<Normalised> normalised(const std::vector<Value*>& factors, Value* d, Value* argument,
                                     const std::vector<const Value*>& taken) {
  auto of = d && argument ? centred(d) : std::nullopt;
  auto eps = of ? variance_eps(argument, *of) : std::nullopt;
  if (!eps || factors.size() != taken.size() + 1) return std::nullopt;
  for (Value* factor : factors) {
    if (std::find(taken.begin(), taken.end(), factor) == taken.end()) return Normalised{*of, *eps, factor};
  }
  return std::nullopt;
}

std::optional<Normalised> match_normalised(const std::vector<Value*>& factors) {
  for (Value* factor : factors) {
    Value* d = nullptr;
    if (Value* argument = divided_by_root(factor, d)) {
      if (auto found = normalised(factors, d, argument, {factor})) return found;
    }
    if (Value* argument = inverse_root(factor)) {
      for (Value* other : factors) {
        if (auto found = normalised(factors, other, argument, {factor, other})) return found;
      }
    }
  }
  return std::nullopt;
}

// Whether `value` broadcasts to the normalised dims and nothing before them.
bool fits(const Value* value, const Dims& dims, int64_t axis) {
  if (!value || value->dims.size() > dims.size()) return false;
  Dims padded(dims.size() - value->dims.size(), 1);
  padded.insert(padded.end(), value->dims.begin(), value->dims.end());
  for (size_t d = 0; d < dims.size(); ++d) {
    if (padded[d] != (static_cast<int64_t>(d) < axis ? 1 : dims[d])) return false;
  }
  return true;
}

std::optional<Match> match_layer_normalization(Value* result) {
  auto product = product_of(result);
  if (product.coefficient != 1) return std::nullopt;
  auto found = match_normalised(product.factors);
  if (!found || !fits(found->scale, found->of.x->dims, found->of.axis)) return std::nullopt;
  Match match{result,
              {found->of.x, found->scale},
              "LayerNormalization",
              {found->of.x, found->scale},
              {{"axis", found->of.axis}, {"epsilon", found->eps}}};
  const Node* add = result->users.size() == 1 ? result->users[0] : nullptr;
  if (add && add->domain.empty() && add->type == "Add") {
    Value* bias = add->inputs[add->inputs[0] == result ? 1 : 0];
    if (fits(bias, found->of.x->dims, found->of.axis)) {
      match.result = add->outputs[0];
      match.inputs.push_back(bias);
      match.operands.push_back(bias);
    }
  }
  return match;
}

// --- Softmax: e / sum(e), e = exp(x - max(x)), with the views that exporters put around the reduced values ---

// The node behind views that keep the order of elements and their number.
const Node* reduction_behind(const Value* value, std::string_view type) {
  while (value && value->producer) {
    const Node* node = value->producer;
    if (made_by(value, type)) return node;
    if (made_by(value, "Max")) {  // against -inf
      if (node->inputs.size() != 2) return nullptr;
      auto lowest = pattern::number(node->inputs[0]);
      value = lowest && *lowest == -HUGE_VAL ? node->inputs[1] : nullptr;
      continue;
    }
    bool view = made_by(value, "Reshape") || made_by(value, "Expand") || made_by(value, "Unsqueeze") ||
                made_by(value, "Squeeze") || made_by(value, "Identity");
    if (!view || element_count(value->dims) != element_count(node->inputs[0]->dims)) return nullptr;
    value = node->inputs[0];
  }
  return nullptr;
}

std::optional<Match> match_softmax(Value* result) {
  const Node* quotient = made_by(result, "Div");
  const Node* e = quotient ? made_by(quotient->inputs[0], "Exp") : nullptr;
  const Node* shifted = e ? made_by(e->inputs[0], "Sub") : nullptr;
  const Node* sum = shifted ? reduction_behind(quotient->inputs[1], "ReduceSum") : nullptr;
  const Node* max = shifted ? reduction_behind(shifted->inputs[1], "ReduceMax") : nullptr;
  if (!sum || !max || sum->inputs[0] != e->outputs[0] || max->inputs[0] != shifted->inputs[0]) return std::nullopt;
  auto axes = pattern::reduced_axes(*sum);
  if (!axes || axes->size() != 1 || axes != pattern::reduced_axes(*max)) return std::nullopt;
  Value* x = shifted->inputs[0];
  Dims reduced = x->dims;
  reduced[static_cast<size_t>((*axes)[0])] = 1;
  if (quotient->inputs[1]->dims != reduced || shifted->inputs[1]->dims != reduced) return std::nullopt;
  return unary(result, x, "Softmax", {{"axis", (*axes)[0]}});
}

struct Pattern {
  const char* name;
  Matcher match;
};

constexpr Pattern patterns[] = {
    {"layer_normalization", match_layer_normalization},
    {"gelu", match_gelu},
    {"hard_swish", match_hard_swish},
    {"swish", match_swish},
    {"mish", match_mish},
    {"softmax", match_softmax},
};

// Scale and bias of LayerNormalization have the normalised dims alone.
Val operand(Graph& graph, const Match& match, size_t i) {
  Val value(graph, match.operands[i]);
  if (i == 0 || match.type != "LayerNormalization") return value;
  const Dims& dims = match.operands[0]->dims;
  return reshape(value, Dims(dims.begin() + std::get<int64_t>(match.attributes.at("axis")), dims.end()));
}

bool apply(Graph& graph, const Match& match) {
  Node* root = match.result->producer;
  bool same = match.operands[0]->dims == match.result->dims && match.operands[0]->dtype == match.result->dtype;
  if (!same || !pattern::is_closed(graph, *root, match.inputs)) return false;
  graph.insert_before(root);
  graph.set_provenance(root->provenance);
  std::vector<Val> operands;
  for (size_t i = 0; i < match.operands.size(); ++i) operands.push_back(operand(graph, match, i));
  Val replacement = call(match.type, operands, match.attributes);
  replacement.value()->producer->name = root->name;
  pattern::replace(graph, match.result, replacement.value());
  return true;
}

// Only where a region can end: most nodes are passed over at once.
bool may_end_pattern(const Node& node) {
  return node.domain.empty() && (node.type == "Mul" || node.type == "Div") && node.outputs[0];
}

}  // namespace

std::map<std::string, int> recognise(Graph& graph, const std::set<std::string>& disabled) {
  Provenance before = graph.provenance();
  std::map<std::string, int> found;
  for (const Pattern& pattern : patterns) {
    if (disabled.count(pattern.name)) continue;
    // A region lies before its last node: what is erased was passed already, but for the Add of a bias.
    std::set<const Node*> gone;
    for (Node* node : graph.node_list()) {
      if (gone.count(node) || !may_end_pattern(*node)) continue;
      auto match = pattern.match(node->outputs[0]);
      if (!match) continue;
      const Node* root = match->result->producer;
      if (!apply(graph, *match)) continue;
      gone.insert(root);
      ++found[pattern.name];
    }
  }
  graph.set_provenance(before);
  if (!disabled.count("normalization_activation")) {
    if (int count = extend_normalization(graph)) found["normalization_activation"] = count;
  }
  if (!disabled.count("depthwise_normalization")) {
    if (int count = join_depthwise(graph)) found["depthwise_normalization"] = count;
  }
  if (!disabled.count("attention")) {
    if (int count = join_attention(graph)) found["attention"] = count;
  }
  return found;
}

}  // namespace graft
