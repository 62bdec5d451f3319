#include "importers/onnx/build_graph.h"

#include <onnx/defs/schema.h>

#include <list>

#include "graph/proto.h"
#include "graph/schema.h"
#include "importers/onnx/lift.h"
#include "importers/onnx/parse.h"
#include "importers/onnx/scope.h"
#include "importers/onnx/tensors.h"

namespace graft {
namespace {

// The declared type; a dim that is negative or has no value is unknown.
void take_declared(Value& value, const onnx::ValueInfoProto& info) {
  std::string where = cat("[value \"", shortened(info.name()), "\"]");
  if (!info.has_type()) return;
  if (!info.type().has_tensor_type()) {
    throw UnsupportedError(where, " is no tensor: sequences, maps, optionals and sparse tensors are not supported");
  }
  const auto& type = info.type().tensor_type();
  if (type.elem_type() != 0) {
    onnx::TensorProto typed;
    typed.set_data_type(type.elem_type());
    value.dtype = checked_dtype(typed, where);
  }
  if (!type.has_shape()) return;
  value.ranked = true;
  value.dims.clear();
  value.dim_names.clear();
  for (const auto& dim : type.shape().dim()) {
    value.dims.push_back(dim.has_dim_value() && dim.dim_value() >= 0 ? dim.dim_value() : -1);
    value.dim_names.push_back(dim.dim_param());
  }
}

class Builder {
 public:
  Builder(const OnnxModel::Contents* model, const FunctionTable& functions) : model_(model), functions_(functions) {}

  std::unique_ptr<Graph> build_main() {
    reserve_names(model_->proto.graph());
    for (const auto& place : model_->places) used_names_.insert(place.name);
    Opsets opsets = opsets_of(model_->proto.opset_import(), "[model]");
    auto graph = std::make_unique<Graph>();
    Scope scope;
    scope.graph = graph.get();
    scope.opsets = &opsets;
    fill(model_->proto.graph(), scope);
    if (graph->outputs.empty()) throw ModelError("[graph] has no output");
    std::unordered_set<std::string> outputs;
    for (const Value* value : graph->outputs) {
      if (!outputs.insert(value->name).second)
        throw ModelError("[graph] has the output \"", shortened(value->name), "\" twice");
    }
    verify(*graph);
    return graph;
  }

  std::shared_ptr<Graph> build_body_of(const onnx::FunctionProto& function, const Node& call,
                                       const Bindings& attributes) {
    Opsets opsets = opsets_of(function.opset_import(), call.where());
    auto graph = std::make_shared<Graph>();
    graph->name = function.name();
    graph->set_provenance(call.provenance);
    Scope scope;
    scope.graph = graph.get();
    scope.opsets = &opsets;
    scope.attributes = &attributes;
    for (int i = 0; i < function.input_size(); ++i) {
      const Value* operand = call.input(static_cast<size_t>(i));
      Value* input = graph->add_input(function.input(i), operand ? operand->dtype : DType::undefined, {});
      input->ranked = operand && operand->ranked;
      if (operand) input->dims = operand->dims;
      scope.declare(function.input(i), call.where());
      scope.values[function.input(i)] = operand ? input : nullptr;
    }
    build_nodes(function.node(), scope);
    for (int i = 0; i < function.output_size() && i < static_cast<int>(call.outputs.size()); ++i) {
      // Bodies leave out what the call does not want; the first result holds its place.
      bool wanted = call.outputs[static_cast<size_t>(i)] != nullptr || graph->outputs.empty();
      graph->outputs.push_back(wanted ? scope.read(function.output(i), call.where()) : graph->outputs[0]);
      if (!graph->outputs.back()) throw ModelError(call.where(), " has a function body without a result ", i);
    }
    return graph;
  }

 private:
  void reserve_names(const onnx::GraphProto& graph) {
    for (const auto& value : graph.input()) used_names_.insert(value.name());
    for (const auto& tensor : graph.initializer()) used_names_.insert(tensor.name());
    for (const auto& node : graph.node()) {
      used_names_.insert(node.output().begin(), node.output().end());
      for (const auto& attribute : node.attribute()) {
        if (attribute.has_g()) reserve_names(attribute.g());
      }
    }
  }

  // Inputs, initializers, nodes and outputs of a main graph or a body.
  void fill(const onnx::GraphProto& proto, Scope& scope) {
    Graph& graph = *scope.graph;
    graph.name = proto.name();
    std::string where = cat("[graph \"", shortened(proto.name()), "\"]");
    std::unordered_map<std::string, const onnx::TensorProto*> initializers;
    for (const auto& tensor : proto.initializer()) {
      if (tensor.name().empty()) throw ModelError(where, " has an initializer without a name");
      scope.declare(tensor.name(), where);
      scope.values[tensor.name()] = constant(tensor, &tensor, scope, tensor.name());
      initializers[tensor.name()] = &tensor;
    }
    std::unordered_set<std::string> inputs;
    for (const auto& info : proto.input()) add_input(info, scope, where, initializers.count(info.name()) != 0, inputs);
    build_nodes(proto.node(), scope);
    for (const auto& info : proto.output()) {
      Value* value = scope.read(info.name(), where);
      if (!value) throw ModelError(where, " has an output without a value");
      if (value->role == Role::result && !value->shaped()) declare_output(*value, info);
      graph.outputs.push_back(value);
    }
  }

  static void add_input(const onnx::ValueInfoProto& info, Scope& scope, const std::string& where, bool initialised,
                        std::unordered_set<std::string>& seen) {
    if (info.name().empty()) throw ModelError(where, " has an input without a name");
    if (!seen.insert(info.name()).second)
      throw ModelError(where, " has the input \"", shortened(info.name()), "\" twice");
    // Up to IR 3 every initializer is declared as an input too; later it gives an input's default. Both are weights.
    if (initialised && !scope.outer) return;
    scope.declare(info.name(), where);
    Value* value = scope.graph->add_input(info.name(), DType::undefined, {});
    value->ranked = false;
    take_declared(*value, info);
    bool main = !scope.outer && !scope.attributes;
    if (main && value->dtype == DType::undefined)
      throw ModelError(where, " input \"", shortened(info.name()), "\" has no type");
    scope.values[info.name()] = value;
  }

  // What the file says of an output helps where inference knows less.
  static void declare_output(Value& value, const onnx::ValueInfoProto& info) {
    Value declared;
    take_declared(declared, info);
    if (value.dtype == DType::undefined) value.dtype = declared.dtype;
    if (!declared.ranked || (value.ranked && value.dims.size() != declared.dims.size())) return;
    if (!value.ranked) value.dims = Dims(declared.dims.size(), -1);
    value.ranked = true;
    value.dim_names = declared.dim_names;
  }

  void build_nodes(const Nodes& nodes, Scope& scope) {
    for (const auto* node : ordered_nodes(nodes, scope)) build_node(*node, scope);
  }

  std::string fresh(const std::string& wanted) {
    std::string name = wanted;
    for (int i = 2; !used_names_.insert(name).second; ++i) name = cat(wanted, '#', i);
    return name;
  }

  // What the result `name` of a node is called in the Graph.
  std::string result_name(const std::string& name, Scope& scope) {
    if (!scope.naming) return name;
    auto found = scope.naming->results.find(name);
    return found != scope.naming->results.end() ? found->second : fresh(scope.naming->prefix + name);
  }

  // One Value a tensor of the file: a function that is called twice shares its weights.
  Value* constant(const google::protobuf::Message& key, const onnx::TensorProto* tensor, Scope& scope,
                  const std::string& name) {
    auto& shared = constants_[{scope.graph, &key}];
    if (shared) return shared;
    const Place* place = model_ ? model_->find(&key) : nullptr;
    Tensor data;
    if (place) data = model_->tensor(*place);
    else if (tensor) data = read_tensor(*tensor, cat("[tensor \"", shortened(name), "\"]"));
    std::string called = !scope.naming                              ? name
                         : place && !scope.graph->find(place->name) ? place->name
                                                                    : fresh(scope.naming->prefix + name);
    Value* value = scope.graph->add_constant(std::move(data), called);
    // Within one function the same attribute may be read by several Constant nodes, elsewhere each has its own.
    if (scope.naming) shared = value;
    return value;
  }

  void build_node(const onnx::NodeProto& node, Scope& scope) {
    const auto* function = functions_.find(node);
    if (function) return build_call(node, *function, scope);
    if (node.op_type() == "Constant" && plain_domain(node.domain()).empty() && build_constant(node, scope)) return;
    std::string where = where_of(node);
    Graph& graph = *scope.graph;
    std::vector<Value*> operands;
    for (const auto& name : node.input()) operands.push_back(scope.read(name, where));
    while (!operands.empty() && !operands.back()) operands.pop_back();
    Attributes attributes;
    for (const auto& attribute : node.attribute()) {
      const auto* actual = resolve(attribute, scope, where);
      if (actual) attributes[attribute.name()] = convert(*actual, scope, where);
    }
    std::string prefix = scope.naming ? scope.naming->prefix : "";
    graph.set_provenance({prefix + (node.name().empty() && node.output_size() ? node.output(0) : node.name())});
    check_bodies(node, attributes, where);
    Node* before = graph.nodes().empty() ? nullptr : graph.nodes().back().get();
    Node* added =
        graph.add_node(plain_domain(node.domain()), node.op_type(), std::move(operands), 0, std::move(attributes));
    if (!node.name().empty()) added->name = prefix + node.name();
    std::vector<std::string> names = add_results(node, *added, scope);
    auto opset = scope.opsets->find(added->domain);
    if (opset == scope.opsets->end()) throw ModelError(where, " is of a domain that is not imported");
    lift(graph, added, opset->second);
    infer_after(graph, before);
    for (size_t i = 0; i < names.size(); ++i) {
      if (!names[i].empty()) scope.values[node.output(static_cast<int>(i))] = graph.find(names[i]);
    }
  }

  // Bodies take and give what their node's operands and results say.
  static void check_bodies(const onnx::NodeProto& node, const Attributes& attributes, const std::string& where) {
    int64_t operands = node.input_size(), results = node.output_size();
    for (const auto& [name, attribute] : attributes) {
      const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute);
      if (!body) continue;
      auto inputs = static_cast<int64_t>((*body)->inputs.size()),
           outputs = static_cast<int64_t>((*body)->outputs.size());
      int64_t wanted_inputs = inputs, wanted_outputs = outputs;
      if (node.op_type() == "If") wanted_inputs = 0, wanted_outputs = results;
      if (node.op_type() == "Loop") wanted_inputs = std::max<int64_t>(operands, 2), wanted_outputs = results + 1;
      if (node.op_type() == "Scan") wanted_inputs = operands, wanted_outputs = results;
      if (inputs != wanted_inputs || outputs < wanted_outputs) {
        throw ModelError(where, " body '", name, "' has ", inputs, " inputs and ", outputs, " outputs: allowed are ",
                         wanted_inputs, " and ", wanted_outputs);
      }
    }
  }

  std::vector<std::string> add_results(const onnx::NodeProto& node, Node& added, Scope& scope) {
    std::vector<std::string> names;
    int wanted = node.output_size();
    while (wanted > 0 && node.output(wanted - 1).empty()) --wanted;
    for (int i = 0; i < wanted; ++i) {
      if (node.output(i).empty()) {
        added.outputs.push_back(nullptr);
        names.emplace_back();
      } else {
        names.push_back(result_name(node.output(i), scope));
        scope.graph->rename(scope.graph->add_output(&added), names.back());
      }
    }
    return names;
  }

  // Shapes as far as they are known: lifts ask for ranks. What is wrong here comes out when shapes are bound.
  static void infer_after(Graph& graph, const Node* last) {
    auto at = last ? std::next(last->position) : graph.nodes().begin();
    for (; at != graph.nodes().end(); ++at) {
      Node& node = **at;
      bool bodies = std::any_of(node.attributes.begin(), node.attributes.end(), [](const auto& entry) {
        return std::holds_alternative<std::shared_ptr<Graph>>(entry.second);
      });
      if (bodies || !schema::known(node.domain, node.type)) continue;
      try {
        schema::infer(node);
      } catch (const Error&) {
        for (Value* output : node.outputs) {
          if (output) output->ranked = false, output->dims.clear();
        }
      }
    }
  }

  bool build_constant(const onnx::NodeProto& node, Scope& scope) {
    std::string where = where_of(node);
    if (node.output_size() != 1 || node.output(0).empty()) return false;
    for (const auto& attribute : node.attribute()) {
      const auto* actual = resolve(attribute, scope, where);
      if (!actual) continue;
      Value* value = constant_value(*actual, scope, node.output(0), where);
      if (!value) continue;
      scope.values[node.output(0)] = value;
      return true;
    }
    throw ModelError(where, " has no value: allowed are value, value_float(s), value_int(s) and value_string(s)");
  }

  Value* constant_value(const onnx::AttributeProto& attribute, Scope& scope, const std::string& name,
                        const std::string& where) {
    using Type = onnx::AttributeProto;
    switch (attribute.type()) {
      case Type::TENSOR: return constant(attribute.t(), &attribute.t(), scope, name);
      case Type::STRING:
      case Type::STRINGS: {
        Dims dims = attribute.type() == Type::STRINGS ? Dims{attribute.strings_size()} : Dims{};
        return scope.graph->add_constant(Tensor::uninitialized(DType::string, dims), result_name(name, scope));
      }
      case Type::FLOAT:
      case Type::FLOATS:
      case Type::INT:
      case Type::INTS: {
        if (model_ && model_->find(&attribute)) return constant(attribute, nullptr, scope, name);
        Attribute value = convert(attribute, scope, where);
        Tensor tensor;
        if (auto* i = std::get_if<int64_t>(&value)) tensor = Tensor::scalar(*i);
        if (auto* d = std::get_if<double>(&value)) tensor = Tensor::scalar(static_cast<float>(*d));
        if (auto* list = std::get_if<std::vector<int64_t>>(&value))
          tensor = Tensor::of({static_cast<int64_t>(list->size())}, *list);
        if (auto* list = std::get_if<std::vector<double>>(&value)) {
          tensor = Tensor::of<float>({static_cast<int64_t>(list->size())}, {list->begin(), list->end()});
        }
        return scope.graph->add_constant(tensor, result_name(name, scope));
      }
      default: return nullptr;
    }
  }

  // An attribute of a function's node may stand for one of the call; nullptr where the call lacks it.
  static const onnx::AttributeProto* resolve(const onnx::AttributeProto& attribute, const Scope& scope,
                                             const std::string& where) {
    if (attribute.ref_attr_name().empty()) return &attribute;
    if (!scope.attributes)
      throw ModelError(where, " attribute '", shortened(attribute.name()), "' refers to a function's outside of one");
    auto found = scope.attributes->find(attribute.ref_attr_name());
    if (found == scope.attributes->end() || !found->second) return nullptr;
    if (found->second->type() != attribute.type()) {
      throw ModelError(where, " attribute '", shortened(attribute.name()), "' refers to one of another type");
    }
    return found->second;
  }

  Attribute convert(const onnx::AttributeProto& attribute, Scope& scope, const std::string& where) {
    using Type = onnx::AttributeProto;
    switch (attribute.type()) {
      case Type::INT: return int64_t{attribute.i()};
      case Type::FLOAT: return static_cast<double>(attribute.f());
      case Type::STRING: return attribute.s();
      case Type::INTS: return std::vector<int64_t>(attribute.ints().begin(), attribute.ints().end());
      case Type::FLOATS: return std::vector<double>(attribute.floats().begin(), attribute.floats().end());
      case Type::STRINGS: return std::vector<std::string>(attribute.strings().begin(), attribute.strings().end());
      case Type::TENSOR: {
        const Place* place = model_ ? model_->find(&attribute.t()) : nullptr;
        return place ? model_->tensor(*place) : read_tensor(attribute.t(), where);
      }
      case Type::GRAPH: return build_body(attribute.g(), scope);
      default:
        throw UnsupportedError(where, " attribute '", shortened(attribute.name()), "' has type ",
                               Type::AttributeType_Name(attribute.type()),
                               ": allowed are numbers, strings, tensors and graphs");
    }
  }

  std::shared_ptr<Graph> build_body(const onnx::GraphProto& proto, const Scope& around) {
    auto graph = std::make_shared<Graph>();
    Scope scope;
    scope.graph = graph.get();
    scope.outer = &around;
    scope.opsets = around.opsets;
    scope.attributes = around.attributes;
    fill(proto, scope);
    return graph;
  }

  void build_call(const onnx::NodeProto& node, const onnx::FunctionProto& function, Scope& caller) {
    std::string where = where_of(node);
    Graph& graph = *caller.graph;
    Opsets opsets = opsets_of(function.opset_import(), where);
    Bindings attributes = bind(node, function, caller, where);
    Naming naming;
    constexpr size_t longest_prefix = 400;
    naming.prefix = (caller.naming ? caller.naming->prefix : "") + label_of(node) + "/";
    if (naming.prefix.size() > longest_prefix)
      naming.prefix = "..." + naming.prefix.substr(naming.prefix.size() - longest_prefix);
    Scope scope;
    scope.graph = &graph;
    scope.opsets = &opsets;
    scope.attributes = &attributes;
    scope.naming = &naming;
    for (int i = 0; i < function.input_size(); ++i) {
      scope.declare(function.input(i), where);
      scope.values[function.input(i)] = i < node.input_size() ? caller.read(node.input(i), where) : nullptr;
    }
    std::vector<std::string> names;
    for (int i = 0; i < node.output_size(); ++i) {
      names.push_back(node.output(i).empty() ? "" : result_name(node.output(i), caller));
      if (!names.back().empty()) naming.results.emplace(function.output(i), names.back());
    }
    build_nodes(function.node(), scope);
    graph.set_provenance({naming.prefix});
    for (int i = 0; i < node.output_size(); ++i) {
      const std::string& name = names[static_cast<size_t>(i)];
      if (name.empty()) continue;
      caller.values[node.output(i)] = result_of_call(scope.read(function.output(i), where), name, scope, where);
    }
  }

  // A result that is an operand, a constant or returned twice needs a node to carry the caller's name.
  static Value* result_of_call(Value* value, const std::string& name, Scope& scope, const std::string& where) {
    if (!value)
      throw ModelError(where, " wants the result \"", shortened(name),
                       "\", which the function takes from an absent operand");
    if (value->name == name) return value;
    Node* before = scope.graph->nodes().empty() ? nullptr : scope.graph->nodes().back().get();
    Node* copy = scope.graph->add_node("", "Identity", {value}, 1);
    scope.graph->rename(copy->outputs[0], name);
    infer_after(*scope.graph, before);
    return copy->outputs[0];
  }

  static Bindings bind(const onnx::NodeProto& node, const onnx::FunctionProto& function, const Scope& caller,
                       const std::string& where) {
    Bindings bindings;
    for (const auto& attribute : function.attribute_proto()) bindings[attribute.name()] = &attribute;
    for (const auto& attribute : node.attribute()) {
      const auto* actual = resolve(attribute, caller, where);
      if (actual) bindings[attribute.name()] = actual;
    }
    return bindings;
  }

  const OnnxModel::Contents* model_;
  const FunctionTable& functions_;
  std::unordered_set<std::string> used_names_;
  std::map<std::pair<const Graph*, const google::protobuf::Message*>, Value*> constants_;
};

}  // namespace

std::unique_ptr<Graph> build_graph(const OnnxModel::Contents& model) {
  FunctionTable functions(model.proto);
  return Builder(&model, functions).build_main();
}

std::shared_ptr<Graph> build_function(const onnx::FunctionProto& function, const Node& call) {
  // The standard's bodies leave the defaults of attributes to the operator's schema.
  std::list<onnx::AttributeProto> given;
  Bindings attributes;
  const auto* schema = onnx::OpSchemaRegistry::Schema(call.type, internal_opset, call.domain);
  for (const auto& [name, attribute] : call.attributes)
    attributes[name] = &given.emplace_back(to_proto(name, attribute));
  if (schema) {
    for (const auto& [name, declared] : schema->attributes()) {
      if (declared.default_value.has_type()) attributes.emplace(name, &declared.default_value);
    }
  }
  onnx::ModelProto none;
  FunctionTable functions(none);
  return Builder(nullptr, functions).build_body_of(function, call, attributes);
}

}  // namespace graft
