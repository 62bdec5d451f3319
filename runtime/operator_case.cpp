#include "runtime/operator_case.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "ops/op.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

constexpr const char* common_cases = R"(
Conv pads=3,3,3,3 strides=2,2 8x3x224x224 64x3x7x7
Conv pads=1,1,1,1 8x64x56x56 64x64x3x3
Conv pads=1,1,1,1 strides=2,2 8x128x56x56 128x128x3x3
Conv pads=1,1,1,1 8x512x7x7 512x512x3x3
Conv 8x64x56x56 256x64x1x1 256
Conv 8x1024x14x14 256x1024x1x1
Conv pads=1,1,1,1 group=144 8x144x56x56 144x1x3x3
Conv pads=1,1,1,1 strides=2,2 group=96 8x96x112x112 96x1x3x3
ConvTranspose strides=2,2 8x64x28x28 64x32x2x2
Gemm transB=1 32x784 512x784 512
Gemm transB=1 256x512 512x512 512
MatMul 1024x384 384x384
MatMul 1024x384 384x1536
MatMul 1024x1536 1536x384
MatMul 96x128x32 96x32x128
MatMul 96x128x128 96x128x32
BatchNormalization 8x64x112x112 64 64 64 64
BatchNormalization 8x256x56x56 256 256 256 256
LayerNormalization 8x128x384 384 384
GroupNormalization num_groups=32 8x256x28x28 256 256
InstanceNormalization 8x64x56x56 64 64
RMSNormalization 8x128x384 384
Softmax 8x12x128x128
LogSoftmax 256x1000
Relu 8x64x112x112
LeakyRelu 8x64x56x56
Clip 8x96x112x112 {0.0} {6.0}
Gelu 8x128x1536
HardSwish 8x96x56x56
Sigmoid 8x64x56x56
Tanh 8x128x384
Erf 8x128x1536
Exp 8x12x128x128
Sqrt 8x128x384
Add 8x256x56x56 8x256x56x56
Add 8x128x384 384
Mul 8x256x56x56 8x256x1x1
Div 8x12x128x128 {5.656}
Pow 8x128x384 {2.0}
Where bool:8x1x128x128 8x12x128x128 {-10000.0}
MaxPool kernel_shape=3,3 strides=2,2 pads=1,1,1,1 8x64x112x112
AveragePool kernel_shape=2,2 strides=2,2 8x64x56x56
GlobalAveragePool 8x512x7x7
ReduceMean 8x128x384 {-1}
ReduceSum 8x256x56x56 {0,2,3}
ReduceMax 8x12x128x128 {-1}
Gather 30522x384 int64:8x128
Transpose perm=0,2,1,3 8x128x12x32
Concat axis=1 8x64x56x56 8x64x56x56
Slice 8x256x28x28 {0} {128} {1}
Pad 8x64x56x56 {0,0,1,1,0,0,1,1}
Expand 8x1x1x128 {8,12,128,128}
Cast to=6 8x128x384
)";

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

template <class T>
bool parse(const std::string& text, T& number) {
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && stop == text.data() + text.size();
}

template <class T>
bool parse(const std::vector<std::string>& texts, std::vector<T>& numbers) {
  numbers.clear();
  for (const auto& text : texts) {
    if (!parse(text, numbers.emplace_back())) return false;
  }
  return !numbers.empty();
}

Attribute attribute_of(const std::string& text) {
  std::vector<std::string> parts = split(text, ',');
  std::vector<int64_t> integers;
  std::vector<double> reals;
  bool list = text.find(',') != std::string::npos;
  if (parse(parts, integers)) return list ? Attribute(integers) : Attribute(integers[0]);
  if (parse(parts, reals)) return list ? Attribute(reals) : Attribute(reals[0]);
  return text;
}

// Reads one line into a graph.
class CaseReader {
 public:
  explicit CaseReader(const OperatorCase& given) : given_(given), op_(*find_op("", given.type)) {}

  std::unique_ptr<Graph> read() {
    std::vector<Value*> operands;
    Attributes attributes;
    for (const auto& word : words_of(given_.operands)) {
      size_t equals = word.find('=');
      if (equals != std::string::npos) attributes[word.substr(0, equals)] = attribute_of(word.substr(equals + 1));
      else operands.push_back(operand(word, operands));
    }
    size_t outputs = given_.type == "Split" ? split_count(attributes) : 1;
    Node* node = graph_->add_node("", given_.type, operands, outputs, attributes);
    node->name = given_.type;
    try {
      infer(*node);
    } catch (const ModelError& error) {
      fail(error.what());
    }
    for (Value* output : node->outputs) {
      graph_->rename(output, cat("y", graph_->outputs.size()));
      graph_->outputs.push_back(output);
    }
    return std::move(graph_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw DataError(given_.where, ": ", what); }

  static size_t split_count(const Attributes& attributes) {
    constexpr int64_t most = 1024;
    auto found = attributes.find("num_outputs");
    const auto* count = found == attributes.end() ? nullptr : std::get_if<int64_t>(&found->second);
    return static_cast<size_t>(count ? std::clamp<int64_t>(*count, 1, most) : 2);
  }

  Value* operand(const std::string& word, const std::vector<Value*>& before) {
    if (word == "-") return nullptr;
    if (word.front() == '{') return literal(word);
    DType dtype = DType::f32;
    Dims dims;
    size_t colon = word.find(':');
    std::string shape = word.substr(colon == std::string::npos ? 0 : colon + 1);
    if (colon != std::string::npos) dtype = dtype_of_name(word.substr(0, colon));
    bool sound = shape == "scalar" || parse(split(shape, 'x'), dims);
    if (!sound || std::any_of(dims.begin(), dims.end(), [](int64_t dim) { return dim < 0; }))
      fail("\"" + word + "\" is no shape: wanted is 8x64x56x56, int64:8x128, scalar, {0,1} or -");
    take_memory(dtype, dims);
    std::string name = cat("x", before.size());
    if (!is_weight(before.size(), dims, before)) return graph_->add_input(name, dtype, dims);
    bool statistic = contains(op_.statistic_slots, before.size());
    return graph_->add_constant(statistic ? ones(dtype, dims) : random_normal(dtype, dims, name, 0), name);
  }

  // Statistics hold variances, which are positive.
  static Tensor ones(DType dtype, const Dims& dims) {
    Tensor tensor(DType::f32, dims);
    std::fill_n(tensor.data<float>(), tensor.count(), 1.0F);
    return tensor.cast(dtype);
  }

  static bool contains(const std::vector<int>& slots, size_t slot) {
    return std::find(slots.begin(), slots.end(), static_cast<int>(slot)) != slots.end();
  }

  // The first operand is what the operator works on. Products and sums have weights where the operand has fewer axes.
  bool is_weight(size_t slot, const Dims& dims, const std::vector<Value*>& before) const {
    if (slot == 0 || !before[0]) return false;
    if (op_.broadcasts && dims.size() >= before[0]->dims.size()) return false;
    if (given_.type == "MatMul" && dims.size() > 2) return false;
    return contains(op_.parameter_slots, slot) || contains(op_.statistic_slots, slot);
  }

  // {6.0} is a scalar, {0,1} a list of integers, as the operators of ONNX want them.
  Value* literal(const std::string& word) {
    bool closed = word.size() > 2 && word.back() == '}';
    std::vector<std::string> parts = split(closed ? word.substr(1, word.size() - 2) : "", ',');
    std::vector<int64_t> integers;
    std::vector<double> reals;
    if (parse(parts, integers)) return graph_->add_constant(Tensor::of({static_cast<int64_t>(parts.size())}, integers));
    if (!parse(parts, reals)) fail("\"" + word + "\" is no list of values such as {0,1} or {6.0}");
    Dims dims = reals.size() == 1 ? Dims{} : Dims{static_cast<int64_t>(reals.size())};
    return graph_->add_constant(Tensor::of(dims, reals).cast(DType::f32));
  }

  DType dtype_of_name(const std::string& name) const {
    std::vector<std::string> names;
    for (int code = 1; code < static_cast<int>(DType::string); ++code) {
      auto dtype = static_cast<DType>(code);
      if (name_of(dtype) == name) return dtype;
      names.emplace_back(name_of(dtype));
    }
    fail("no element type \"" + name + "\"; nearest: \"" + nearest_names(name, names, 1)[0] + '"');
  }

  void take_memory(DType dtype, const Dims& dims) {
    try {
      bytes_ = checked_add(bytes_, byte_count(dtype, dims));
    } catch (const ModelError&) {
      bytes_ = INT64_MAX;
    }
    if (bytes_ > physical_memory())
      throw DeviceError(given_.where, ": ", given_.type, " has operands of more than the ", physical_memory() >> 20,
                        " MiB of this machine");
  }

  const OperatorCase& given_;
  const Op& op_;
  std::unique_ptr<Graph> graph_ = std::make_unique<Graph>();
  int64_t bytes_ = 0;
};

}  // namespace

std::vector<OperatorCase> read_operator_cases(const std::string& text, const std::string& where) {
  std::vector<OperatorCase> cases;
  std::istringstream in(text);
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    std::vector<std::string> words = words_of(line.substr(0, line.find('#')));
    ++number;
    if (words.empty()) continue;
    OperatorCase found{words[0], "", cat(where, " line ", number)};
    if (!find_op("", found.type)) {
      std::vector<std::string> names;
      for (const Op* op : all_ops()) {
        if (op->domain.empty()) names.push_back(op->type);
      }
      std::string nearest;
      for (const auto& name : nearest_names(found.type, names))
        nearest += (nearest.empty() ? "\"" : ", \"") + name + '"';
      throw DataError(found.where, ": no operator \"", found.type, "\" that Graft has; nearest: ", nearest);
    }
    for (size_t i = 1; i < words.size(); ++i) found.operands += (i > 1 ? " " : "") + words[i];
    cases.push_back(std::move(found));
  }
  if (cases.empty()) throw DataError(where, " names no operator");
  return cases;
}

std::vector<OperatorCase> common_operator_cases() { return read_operator_cases(common_cases, "common cases"); }

std::unique_ptr<Graph> graph_of(const OperatorCase& operator_case) { return CaseReader(operator_case).read(); }

}  // namespace graft
