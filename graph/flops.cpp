#include "graph/flops.h"

#include <algorithm>
#include <array>

namespace graft {
namespace {

constexpr std::array moves{
    std::string_view("Cast"),      std::string_view("CastLike"),     std::string_view("Concat"),
    std::string_view("Constant"),  std::string_view("DepthToSpace"), std::string_view("Expand"),
    std::string_view("Flatten"),   std::string_view("Gather"),       std::string_view("GatherElements"),
    std::string_view("GatherND"),  std::string_view("Identity"),     std::string_view("Pad"),
    std::string_view("Reorder"),   std::string_view("Reshape"),      std::string_view("Shape"),
    std::string_view("Slice"),     std::string_view("SpaceToDepth"), std::string_view("Split"),
    std::string_view("Squeeze"),   std::string_view("Tile"),         std::string_view("Transpose"),
    std::string_view("Unsqueeze"), std::string_view("Zero"),
};

double count_of(const Value* value) {
  return value && !value->opaque ? static_cast<double>(element_count(value->dims)) : 0;
}

// Every element of the map on the side of the weights' first dim meets one filter of w[0], w = (M, C/group, kernel...).
double convolution(const Value* map, const Value* weights) {
  if (!map || !weights || weights->dims.empty() || weights->dims[0] == 0) return 0;
  return 2 * count_of(map) * count_of(weights) / static_cast<double>(weights->dims[0]);
}

// y = op(a) op(b): every element of y sums over the last axis of op(a).
double product(const Node& node) {
  const Value* a = node.input(0);
  if (!a || a->dims.empty()) return 0;
  bool transposed = node.integer("transA", 0) != 0 && a->dims.size() > 1;
  return 2 * count_of(node.output(0)) * static_cast<double>(a->dims[a->dims.size() - (transposed ? 2 : 1)]);
}

// Products of scores with q or k, and with v or y, of which y = (..., L, E).
double attention(const Value* q, const Value* k, const Value* y, double of_q, double of_y) {
  double rows = count_of(q) / static_cast<double>(std::max<int64_t>(q->dims.back(), 1));
  double scores = rows * static_cast<double>(k->dims[k->dims.size() - 2]);
  return 2 * scores * (of_q * static_cast<double>(q->dims.back()) + of_y * static_cast<double>(y->dims.back()));
}

}  // namespace

double flops(const Node& node) {
  const std::string& type = node.type;
  if (type == "MatMul" || type == "Gemm") return product(node);
  if (type == "Conv") return convolution(node.output(0), node.input(1));
  if (type == "ConvTranspose" || type == "ConvGradData") return convolution(node.input(0), node.input(1));
  if (type == "ConvGradWeights") return convolution(node.input(1), node.output(0));
  if (type == "Attention") return attention(node.input(0), node.input(1), node.output(0), 1, 1);
  if (type == "AttentionGrad") return attention(node.input(1), node.input(2), node.input(0), 3, 2);
  if (type == "DepthwiseNormalization")
    return convolution(node.output(0), node.input(5)) + count_of(node.input(0)) + count_of(node.output(0));
  if (type == "DepthwiseNormalizationGrad")  // of weights and of data
    return 2 * convolution(node.input(0), node.input(4)) + count_of(node.input(0)) + count_of(node.input(1));
  if (type == "Elementwise") return flops(*std::get<std::shared_ptr<Graph>>(node.attributes.at("body")));
  if (std::find(moves.begin(), moves.end(), type) != moves.end()) return 0;
  if (steps_picked_rows_only(node)) return count_of(node.input(1));
  double largest = 0;
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const Value* value : *operands) largest = std::max(largest, count_of(value));
  }
  return largest;
}

bool steps_picked_rows_only(const Node& node) {
  return node.domain == "graft" && node.type == "SgdRows" && node.real("momentum", 0) == 0 &&
         node.real("weight_decay", 0) == 0;
}

double flops(const Graph& graph) {
  double sum = 0;
  for (const auto& node : graph.nodes()) {
    if (node->stage == Stage::step) sum += flops(*node);
  }
  return sum;
}

}  // namespace graft
