#include "importers/onnx/edit.h"
#include "importers/onnx/edit_graph.h"

namespace graft {
namespace {

struct Embeddings {
  DType dtype = DType::f32;
  int64_t features = 0;
  std::vector<std::string> dim_names;
  Dims dims;
};

Embeddings embeddings_of(const OnnxModel& model, const std::string& output) {
  auto graph = model.graph();
  const Value* value = nullptr;
  for (const Value* each : graph->outputs) {
    if (each->name == output) value = each;
  }
  std::string where = cat("[output \"", shortened(output), "\"]");
  constexpr size_t rank = 3;
  if (!value->ranked || value->dims.size() != rank) {
    throw ModelError(where, " is no token embedding: shape ", value->ranked ? cat(value->dims) : "unknown",
                     ", allowed is (batch, tokens, features)");
  }
  if (value->dims[2] < 1) throw ModelError(where, " has an unknown number of features");
  Embeddings found{is_float(value->dtype) ? value->dtype : DType::f32, value->dims[2], value->dim_names, value->dims};
  found.dim_names.resize(rank);
  return found;
}

// The graph input that masks tokens, "" for none.
std::string mask_input(const OnnxModel& model, const std::string& wanted) {
  auto graph = model.graph();
  std::vector<std::string> names;
  constexpr size_t rank = 2;
  for (const Value* input : graph->inputs) {
    names.push_back(input->name);
    bool fits = input->ranked && input->dims.size() == rank;
    if (wanted.empty() ? fits && input->name.find("mask") != std::string::npos : input->name == wanted) {
      if (!fits) throw UsageError("the mask \"", wanted, "\" has shape ", input->dims, ": allowed is (batch, tokens)");
      return input->name;
    }
  }
  if (wanted.empty()) return "";
  std::string nearest;
  for (const auto& name : nearest_names(wanted, names))
    nearest += cat(nearest.empty() ? "\"" : ", \"", shortened(name), '"');
  throw UsageError("the model has no input \"", wanted, "\": nearest are ", nearest);
}

class PoolingHead {
 public:
  PoolingHead(GraphEdit& edit, Embeddings embeddings) : edit_(edit), embeddings_(std::move(embeddings)) {}

  // The token of index 0.
  std::string first_token(const std::string& x) {
    std::string index = edit_.add_tensor("pooling/index", Tensor::scalar(int64_t{0}));
    std::string result = edit_.add_node("Gather", {x, index}, "pooled");
    set_integer("axis", 1);
    return result;
  }

  std::string mean(const std::string& x) { return reduced("ReduceMean", x, 18, "pooled"); }

  // sum(x * m) / max(sum(m), 1e-9) over the tokens
  std::string masked_mean(const std::string& x, const std::string& mask) {
    std::string m = edit_.add_node("Cast", {mask}, "pooling/mask");
    set_integer("to", onnx_dtype(embeddings_.dtype));
    m = with_axes("Unsqueeze", m, {2}, 13, "pooling/weights");
    std::string products = edit_.add_node("Mul", {x, m}, "pooling/products");
    std::string sum = reduced("ReduceSum", products, 13, "pooling/sum");
    std::string weight = reduced("ReduceSum", m, 13, "pooling/weight");
    return edit_.add_node("Div", {sum, at_least(weight, embeddings_.dtype == DType::f16 ? 1e-4F : 1e-9F)}, "pooled");
  }

  std::string linear(const std::string& x, int64_t classes, uint64_t seed, std::vector<std::string>& parameters) {
    int64_t features = embeddings_.features;
    byte_count(embeddings_.dtype, {classes, features});
    parameters.push_back(edit_.add_tensor(
        "head.weight", fresh_weights(embeddings_.dtype, {classes, features}, features, seed, "head.weight")));
    parameters.push_back(
        edit_.add_tensor("head.bias", fresh_weights(embeddings_.dtype, {classes}, features, seed, "head.bias")));
    std::string result = edit_.add_node("Gemm", {x, parameters[0], parameters[1]}, "logits");
    set_integer("transB", 1);
    return result;
  }

 private:
  void set_integer(const std::string& name, int64_t value) {
    auto* attribute = edit_.last_node().add_attribute();
    attribute->set_name(name);
    attribute->set_type(onnx::AttributeProto::INT);
    attribute->set_i(value);
  }

  // Axes are an attribute before opset `from`, an operand since.
  std::string with_axes(const std::string& type, const std::string& x, const std::vector<int64_t>& axes, int64_t from,
                        const std::string& result) {
    if (edit_.opset() >= from) {
      std::string operand =
          edit_.add_tensor(result + "/axes", Tensor::of<int64_t>({static_cast<int64_t>(axes.size())}, axes));
      return edit_.add_node(type, {x, operand}, result);
    }
    std::string name = edit_.add_node(type, {x}, result);
    auto* attribute = edit_.last_node().add_attribute();
    attribute->set_name("axes");
    attribute->set_type(onnx::AttributeProto::INTS);
    for (int64_t axis : axes) attribute->add_ints(axis);
    return name;
  }

  std::string reduced(const std::string& type, const std::string& x, int64_t from, const std::string& result) {
    std::string name = with_axes(type, x, {1}, from, result);
    set_integer("keepdims", 0);
    return name;
  }

  std::string at_least(const std::string& x, float least) {
    constexpr int64_t limits_are_operands = 11;
    if (edit_.opset() >= limits_are_operands) {
      std::string limit = edit_.add_tensor("pooling/least", Tensor::scalar(least).cast(embeddings_.dtype));
      return edit_.add_node("Clip", {x, limit}, "pooling/divisor");
    }
    std::string name = edit_.add_node("Clip", {x}, "pooling/divisor");
    auto* attribute = edit_.last_node().add_attribute();
    attribute->set_name("min");
    attribute->set_type(onnx::AttributeProto::FLOAT);
    attribute->set_f(least);
    return name;
  }

  GraphEdit& edit_;
  Embeddings embeddings_;
};

void declare(onnx::ValueInfoProto& output, const std::string& name, const Embeddings& embeddings, int64_t width) {
  output.Clear();
  output.set_name(name);
  auto* type = output.mutable_type()->mutable_tensor_type();
  type->set_elem_type(static_cast<int32_t>(onnx_dtype(embeddings.dtype)));
  auto* batch = type->mutable_shape()->add_dim();
  if (embeddings.dims[0] >= 0) batch->set_dim_value(embeddings.dims[0]);
  else if (!embeddings.dim_names[0].empty()) batch->set_dim_param(embeddings.dim_names[0]);
  type->mutable_shape()->add_dim()->set_dim_value(width);
}

}  // namespace

HeadEdit add_pooling_head(OnnxModel& model, Pooling pooling, int64_t classes, uint64_t seed, const std::string& mask,
                          const std::string& output) {
  if (classes < 0) throw UsageError("a new head wants at least 1 output, got ", classes);
  GraphEdit edit(model.contents());
  onnx::ValueInfoProto& declared = edit.output(output);
  std::string x = declared.name();
  Embeddings embeddings = embeddings_of(model, x);
  std::string masked_by = pooling == Pooling::mean ? mask_input(model, mask) : "";
  PoolingHead head(edit, embeddings);
  HeadEdit result;
  std::string y = pooling == Pooling::cls ? head.first_token(x)
                  : masked_by.empty()     ? head.mean(x)
                                          : head.masked_mean(x, masked_by);
  if (classes > 0) y = head.linear(y, classes, seed, result.parameters);
  result.node = edit.last_node().name();
  result.output = y;
  result.classes = classes;
  declare(declared, y, embeddings, classes > 0 ? classes : embeddings.features);
  return result;
}

}  // namespace graft
