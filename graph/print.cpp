#include <algorithm>
#include <unordered_map>

#include "graph/graph.h"

namespace graft {
namespace {

// Names as the text carries them: the value's own, or %id where it has none.
std::string label(const Value* value) {
  if (!value) return "\"\"";
  if (value->name.empty()) return cat("_", value->id);
  bool plain =
      std::all_of(value->name.begin(), value->name.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
  if (plain && !std::isdigit(static_cast<unsigned char>(value->name[0]))) return value->name;
  std::string quoted = "\"";
  for (char c : value->name) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

std::string type_text(const Value& value) {
  if (value.opaque) return cat("opaque<", value.opaque_bytes, ">");
  std::ostringstream out;
  out << value.dtype;
  if (!value.ranked) return out.str() + "[...]";
  out << '[';
  for (size_t i = 0; i < value.dims.size(); ++i) {
    out << (i ? "," : "");
    if (value.dims[i] >= 0) out << value.dims[i];
    else out << (i < value.dim_names.size() && !value.dim_names[i].empty() ? value.dim_names[i] : "?");
  }
  out << ']';
  return out.str();
}

template <class T>
std::string list_text(const std::vector<T>& values) {
  constexpr size_t longest = 16;
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < values.size() && i < longest; ++i) {
    if constexpr (std::is_same_v<T, std::string>) out << (i ? ", " : "") << '"' << values[i] << '"';
    else out << (i ? ", " : "") << values[i];
  }
  if (values.size() > longest) out << ", ...";
  out << ']';
  return out.str();
}

std::string tensor_text(const Tensor& tensor) {
  constexpr int64_t longest = 8;
  std::ostringstream out;
  out << tensor.dtype() << '[';
  for (size_t i = 0; i < tensor.dims().size(); ++i) out << (i ? "," : "") << tensor.dims()[i];
  out << "] {";
  visit_dtype(tensor.dtype(), [&](auto zero) {
    auto values = tensor.values<decltype(zero)>();
    for (int64_t i = 0; i < tensor.count() && i < longest; ++i)
      out << (i ? ", " : "") << +values[static_cast<size_t>(i)];
  });
  if (tensor.count() > longest) out << ", ...";
  out << '}';
  return out.str();
}

std::string attribute_text(const Attribute& attribute) {
  struct Printer {
    std::string operator()(int64_t v) const { return cat(v); }
    std::string operator()(double v) const { return cat(v); }
    std::string operator()(const std::string& v) const { return cat('"', v, '"'); }
    std::string operator()(const std::vector<int64_t>& v) const { return list_text(v); }
    std::string operator()(const std::vector<double>& v) const { return list_text(v); }
    std::string operator()(const std::vector<std::string>& v) const { return list_text(v); }
    std::string operator()(const Tensor& v) const { return tensor_text(v); }
    std::string operator()(const std::shared_ptr<Graph>& v) const { return to_text(*v); }
  };
  return std::visit(Printer{}, attribute);
}

void print_node(std::ostream& out, const Node& node) {
  out << "   ";
  for (size_t i = 0; i < node.outputs.size(); ++i) out << (i ? ", " : "") << label(node.outputs[i]);
  out << " = " << (node.domain.empty() ? "" : node.domain + ".") << node.type;
  if (!node.attributes.empty()) {
    out << " <";
    bool first = true;
    for (const auto& [name, attribute] : node.attributes) {
      out << (first ? "" : ", ") << name << " = " << attribute_text(attribute);
      first = false;
    }
    out << '>';
  }
  out << " (";
  for (size_t i = 0; i < node.inputs.size(); ++i) out << (i ? ", " : "") << label(node.inputs[i]);
  out << ")  #";
  for (const Value* output : node.outputs) {
    if (output) out << ' ' << type_text(*output);
  }
  constexpr const char* directions[] = {"", " backward of", " optimiser of"};
  if (node.provenance.direction != Direction::forward) {
    out << directions[static_cast<int>(node.provenance.direction)] << ' ' << node.provenance.source;
  }
  if (node.stage == Stage::prologue) out << " prologue";
  if (!node.kernel.empty()) out << " by " << node.kernel;
  out << '\n';
}

}  // namespace

std::string to_text(const Graph& graph) {
  std::ostringstream out;
  auto list = [&](const std::vector<Value*>& values) {
    for (size_t i = 0; i < values.size(); ++i)
      out << (i ? ", " : "") << type_text(*values[i]) << ' ' << label(values[i]);
  };
  out << (graph.name.empty() ? "graph" : graph.name) << " (";
  list(graph.inputs);
  out << ") => (";
  list(graph.outputs);
  out << ")\n";
  constexpr const char* kinds[] = {"parameter", "statistic", "moment", "counter", "accumulator"};
  for (const auto& state : graph.states) {
    out << "# state " << kinds[static_cast<int>(state.in->kind)] << ' ' << type_text(*state.in) << ' '
        << label(state.in);
    if (state.out) out << " -> " << label(state.out);
    out << '\n';
  }
  out << "{\n";
  for (const auto& value : graph.values()) {
    if (value->is_constant()) {
      out << "   " << label(value.get()) << " = Constant <value = " << tensor_text(value->data) << "> ()\n";
    }
  }
  for (const auto& node : graph.nodes()) print_node(out, *node);
  out << "}\n";
  return out.str();
}

}  // namespace graft
