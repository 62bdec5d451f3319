// Checks of a message before any graph is built: every error names the node, and unknown operators come all at once.
#include <onnx/defs/schema.h>

#include <algorithm>
#include <limits>
#include <set>
#include <unordered_set>

#include "graph/schema.h"
#include "importers/onnx/parse.h"

namespace graft {
namespace {

// Bodies and calls inside each other: every walk over the model recurses as deep.
constexpr int deepest_level = 256;
constexpr int64_t most_nodes = 1 << 19;

bool is_utf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    auto byte = static_cast<unsigned char>(text[i]);
    size_t extra = byte < 0x80 ? 0 : byte >> 5 == 6 ? 1 : byte >> 4 == 14 ? 2 : byte >> 3 == 30 ? 3 : 4;
    if (extra == 4 || i + extra >= text.size()) return false;
    uint32_t point = extra == 0 ? byte : byte & (0x3fU >> extra);
    for (size_t k = 1; k <= extra; ++k) {
      auto next = static_cast<unsigned char>(text[i + k]);
      if (next >> 6 != 2) return false;
      point = point << 6 | (next & 0x3fU);
    }
    constexpr uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    if (point < smallest[extra] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
    i += extra + 1;
  }
  return true;
}

void check_text(const std::string& text, const char* what) {
  if (!is_utf8(text)) throw ModelError("[model] the ", what, " \"", shortened(text), "\" is not UTF-8");
}

struct Size {
  int64_t nodes = 0;
  int depth = 0;
};

class Checker {
 public:
  explicit Checker(const onnx::ModelProto& model) : model_(model), functions_(model) {}

  void run() {
    check_versions();
    for (const auto* text : {&model_.producer_name(), &model_.producer_version(), &model_.domain()})
      check_text(*text, "producer");
    for (const auto& entry : model_.metadata_props()) {
      check_text(entry.key(), "metadata key");
      check_text(entry.value(), "metadata value");
    }
    Size size = check_graph(model_.graph(), opsets_of(model_.opset_import(), "[model]"), 0);
    if (!unknown_.empty()) report_unknown();
    if (size.nodes > most_nodes) {
      throw UnsupportedError("[model] has more than ", most_nodes, " nodes once its functions are inlined");
    }
  }

 private:
  void check_versions() const {
    int64_t ir = model_.ir_version();
    if (ir < 1) throw ModelError("[model] IR version is ", ir, ": allowed are ", oldest_ir, " to ", newest_ir);
    if (ir < oldest_ir || ir > newest_ir) {
      throw UnsupportedError("[model] IR version is ", ir, ": allowed are ", oldest_ir, " to ", newest_ir);
    }
    for (const auto& [domain, version] : opsets_of(model_.opset_import(), "[model]")) {
      check_text(domain, "domain");
      check_opset(domain, version, "[model]");
    }
  }

  static void check_opset(const std::string& domain, int64_t version, const std::string& where) {
    if (version < 1)
      throw ModelError(where, " imports version ", version, " of domain \"", domain, "\": allowed are positive ones");
    if (domain.empty() && (version < oldest_opset || version > internal_opset)) {
      throw UnsupportedError(where, " imports opset ", version, ": allowed are ", oldest_opset, " to ", internal_opset);
    }
  }

  Size check_graph(const onnx::GraphProto& graph, const Opsets& opsets, int level) {
    check_text(graph.name(), "graph name");
    if (graph.sparse_initializer_size()) {
      throw UnsupportedError("[graph \"", shortened(graph.name()), "\"] has ", graph.sparse_initializer_size(),
                             " sparse initializers: allowed are dense ones");
    }
    for (const auto& value : graph.input()) check_text(value.name(), "value name");
    for (const auto& value : graph.output()) check_text(value.name(), "value name");
    for (const auto& tensor : graph.initializer()) check_text(tensor.name(), "tensor name");
    return check_nodes(graph.node(), opsets, level);
  }

  Size check_nodes(const google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, const Opsets& opsets, int level) {
    Size size;
    for (const auto& node : nodes) {
      Size one = check_node(node, opsets, level);
      size.nodes = std::min(size.nodes + one.nodes, most_nodes + 1);
      size.depth = std::max(size.depth, one.depth);
    }
    return size;
  }

  Size check_node(const onnx::NodeProto& node, const Opsets& opsets, int level) {
    check_text(node.name(), "node name");
    check_text(node.op_type(), "operator");
    check_text(node.domain(), "domain");
    for (const auto& name : node.input()) check_text(name, "value name");
    for (const auto& name : node.output()) check_text(name, "value name");
    std::string where = where_of(node);
    Size size{1, 0};
    std::set<std::string> names;
    for (const auto& attribute : node.attribute()) {
      check_text(attribute.name(), "attribute");
      if (!names.insert(attribute.name()).second)
        throw ModelError(where, " has attribute '", shortened(attribute.name()), "' twice");
      check_attribute(attribute, where);
      if (!attribute.has_g()) continue;
      if (level >= deepest_level) throw too_deep(where);
      Size body = check_graph(attribute.g(), opsets, level + 1);
      size.nodes = std::min(size.nodes + body.nodes, most_nodes + 1);
      size.depth = std::max(size.depth, body.depth + 1);
    }
    if (const auto* function = functions_.find(node)) {
      check_call(node, *function, where);
      Size body = check_function(*function, level + 1);
      return {std::min(size.nodes + body.nodes, most_nodes + 1), std::max(size.depth, body.depth + 1)};
    }
    check_operator(node, opsets, where);
    return size;
  }

  static void check_attribute(const onnx::AttributeProto& attribute, const std::string& where) {
    using Type = onnx::AttributeProto;
    // Each type fills its own field: others would be ignored in silence.
    bool graph_only = attribute.has_g() && attribute.type() != Type::GRAPH;
    bool tensor_only = attribute.has_t() && attribute.type() != Type::TENSOR;
    if (graph_only || tensor_only) {
      throw ModelError(where, " attribute '", shortened(attribute.name()), "' of type ",
                       Type::AttributeType_Name(attribute.type()), " holds a ", graph_only ? "graph" : "tensor");
    }
    switch (attribute.type()) {
      case Type::SPARSE_TENSOR:
      case Type::SPARSE_TENSORS:
      case Type::TENSORS:
      case Type::GRAPHS:
      case Type::TYPE_PROTO:
      case Type::TYPE_PROTOS:
        throw UnsupportedError(where, " attribute '", shortened(attribute.name()), "' has type ",
                               Type::AttributeType_Name(attribute.type()),
                               ": allowed are numbers, strings, tensors and graphs");
      case Type::STRING: return check_text(attribute.s(), "attribute value");
      default: return;
    }
  }

  static void check_call(const onnx::NodeProto& node, const onnx::FunctionProto& function, const std::string& where) {
    if (node.input_size() > function.input_size()) {
      throw ModelError(where, " passes ", node.input_size(), " inputs to a function of ", function.input_size());
    }
    if (node.output_size() > function.output_size()) {
      throw ModelError(where, " takes ", node.output_size(), " outputs of a function of ", function.output_size());
    }
    for (const auto& attribute : node.attribute()) {
      if (attribute.has_g())
        throw UnsupportedError(where, " passes a graph to a function: allowed are numbers, strings and tensors");
    }
  }

  Size check_function(const onnx::FunctionProto& function, int level) {
    std::string where = cat("[function \"", shortened(function.name()), "\"]");
    auto known = sizes_.find(&function);
    if (known != sizes_.end()) {
      if (known->second.nodes < 0) throw ModelError(where, " calls itself");
      if (level + known->second.depth > deepest_level) throw too_deep(where);
      return known->second;
    }
    if (level > deepest_level) throw too_deep(where);
    sizes_[&function] = {-1, 0};
    Opsets opsets = opsets_of(function.opset_import(), where);
    for (const auto& [domain, version] : opsets) check_opset(domain, version, where);
    for (const auto& name : function.input()) check_text(name, "value name");
    for (const auto& name : function.output()) check_text(name, "value name");
    Size size = check_nodes(function.node(), opsets, level);
    sizes_[&function] = size;
    return size;
  }

  static ModelError too_deep(const std::string& where) {
    return ModelError(where, " lies deeper than ", deepest_level, " bodies and function calls inside each other");
  }

  void check_operator(const onnx::NodeProto& node, const Opsets& opsets, const std::string& where) {
    std::string domain = plain_domain(node.domain());
    auto import = opsets.find(domain);
    constexpr int64_t newest = std::numeric_limits<int>::max();
    const auto* schema = import == opsets.end()
                             ? nullptr
                             : onnx::OpSchemaRegistry::Schema(
                                   node.op_type(), static_cast<int>(std::min(import->second, newest)), domain);
    if (import == opsets.end() && onnx::OpSchemaRegistry::Schema(node.op_type(), domain)) {
      throw ModelError(where, " is of domain \"", domain, "\", which is not imported");
    }
    if (!schema) {
      unknown_.push_back(import == opsets.end() ? where : cat(where, " in version ", import->second));
      return;
    }
    // GroupNormalization was deprecated when it came, and came back with the same signature: lifting knows the
    // difference.
    constexpr int returned = 21;
    if (schema->deprecated() && node.op_type() == "GroupNormalization") {
      schema = onnx::OpSchemaRegistry::Schema(node.op_type(), returned, domain);
    }
    try {
      schema->Verify(node);
    } catch (const std::exception& error) {
      throw ModelError(where, ' ', std::string(error.what()).substr(0, 1000));
    }
  }

  [[noreturn]] void report_unknown() const {
    constexpr size_t shown = 50;
    std::string list;
    for (size_t i = 0; i < unknown_.size() && i < shown; ++i) list += "\n  " + unknown_[i];
    if (unknown_.size() > shown) list += cat("\n  and ", unknown_.size() - shown, " more");
    throw UnsupportedError(
        "[model] has ", unknown_.size(), unknown_.size() == 1 ? " node" : " nodes",
        " with an unknown operator or domain: allowed are ONNX's operators and the model's own functions", list);
  }

  const onnx::ModelProto& model_;
  FunctionTable functions_;
  std::unordered_map<const onnx::FunctionProto*, Size> sizes_;  // nodes -1: being walked
  std::vector<std::string> unknown_;
};

std::string function_key(const std::string& domain, const std::string& name, const std::string& overload) {
  return cat(plain_domain(domain), '\0', name, '\0', overload);
}

}  // namespace

FunctionTable::FunctionTable(const onnx::ModelProto& model) {
  for (const auto& function : model.functions()) {
    check_text(function.name(), "function name");
    check_text(function.domain(), "domain");
    if (!functions_.emplace(function_key(function.domain(), function.name(), function.overload()), &function).second) {
      throw ModelError("[function \"", shortened(function.name()), "\"] is defined twice");
    }
  }
}

const onnx::FunctionProto* FunctionTable::find(const onnx::NodeProto& node) const {
  if (functions_.empty()) return nullptr;
  auto found = functions_.find(function_key(node.domain(), node.op_type(), node.overload()));
  return found == functions_.end() ? nullptr : found->second;
}

void check_model(const onnx::ModelProto& model) { Checker(model).run(); }

std::string shortened(const std::string& name) {
  constexpr size_t longest = 120;
  constexpr char digits[] = "0123456789abcdef";
  size_t end = std::min(name.size(), longest);
  while (end > 0 && end < name.size() && static_cast<unsigned char>(name[end]) >> 6 == 2)
    --end;  // not inside a character
  bool readable = is_utf8(name);
  std::string out;
  for (size_t i = 0; i < end; ++i) {
    auto byte = static_cast<unsigned char>(name[i]);
    if (byte >= 0x20 && byte != 0x7f && (byte < 0x7f || readable)) out += name[i];
    else (((out += "\\x") += digits[byte >> 4]) += digits[byte & 15]);
  }
  return end < name.size() ? out + "..." : out;
}

std::string label_of(const onnx::NodeProto& node) {
  if (!node.name().empty()) return shortened(node.name());
  return node.output_size() ? shortened(node.output(0)) : "";
}

std::string where_of(const onnx::NodeProto& node) {
  std::string domain = plain_domain(node.domain());
  return cat('[', domain.empty() ? "" : shortened(domain) + ".", shortened(node.op_type()), " \"", label_of(node),
             "\"]");
}

Opsets opsets_of(const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& imports,
                 const std::string& where) {
  Opsets opsets;
  for (const auto& import : imports) {
    auto [entry, added] = opsets.emplace(plain_domain(import.domain()), import.version());
    if (!added && entry->second != import.version()) {
      throw ModelError(where, " imports versions ", entry->second, " and ", import.version(), " of domain \"",
                       shortened(import.domain()), '"');
    }
  }
  return opsets;
}

}  // namespace graft
