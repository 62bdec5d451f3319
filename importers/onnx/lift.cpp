#include "importers/onnx/lift.h"

#include <algorithm>

namespace graft {
namespace {

// One node on its way to the internal opset. What an old form lacks is said by the rows below.
struct Lifting {
  Graph& graph;
  Node* node;
  int64_t opset;

  int64_t rank(size_t i) const {
    const Value* value = node->input(i);
    return value && value->ranked ? static_cast<int64_t>(value->dims.size()) : -1;
  }
  DType float_type(size_t i) const {
    const Value* value = node->input(i);
    return value && is_float(value->dtype) ? value->dtype : DType::f32;
  }
  Value* integers(const std::vector<int64_t>& values) const {
    return graph.add_constant(Tensor::of<int64_t>({static_cast<int64_t>(values.size())}, values));
  }
  Value* real(double value, DType dtype) const { return graph.add_constant(Tensor::scalar(value).cast(dtype)); }
  // New nodes go before the lifted one.
  Value* before(const std::string& type, std::vector<Value*> inputs, Attributes attributes = {}) const {
    graph.insert_before(node);
    Value* result = graph.add_node("", type, std::move(inputs), 1, std::move(attributes))->outputs[0];
    graph.insert_before(nullptr);
    return result;
  }
  Value* after(const std::string& type, std::vector<Value*> inputs, Attributes attributes = {}) const {
    return graph.add_node("", type, std::move(inputs), 1, std::move(attributes))->outputs[0];
  }
  // `value` stands for a result of the node from now on, under its name.
  void replace_result(size_t i, Value* value) const {
    Value* old = node->output(i);
    if (!old) return;
    std::string name = old->name;
    graph.rename(old, "");
    graph.rename(value, name);
  }
  std::vector<int64_t> take_integers(const std::string& attribute) const {
    auto values = node->integers(attribute);
    node->attributes.erase(attribute);
    return values;
  }
};

void set_input(const Lifting& l, size_t index, Value* value) { l.graph.set_input(l.node, index, value); }

void axes_to_input(const Lifting& l) {
  if (!l.node->has("axes")) return;
  set_input(l, 1, l.integers(l.take_integers("axes")));
}

// Until opset 12 the input was seen as a matrix, rows up to `axis`, and each row was one distribution.
void softmax_of_matrix(const Lifting& l) {
  int64_t axis = l.node->integer("axis", 1);
  int64_t rank = l.rank(0);
  bool last = axis == -1 || (rank >= 0 && axis == rank - 1);
  if (rank > 0 && !last) {
    const Dims& dims = l.node->inputs[0]->dims;
    int64_t from = axis < 0 ? axis + rank : axis;
    if (from < 0 || from > rank) {
      throw ModelError(l.node->where(), " axis ", axis, " out of range: allowed ", -rank, " to ", rank);
    }
    // Dims of one behind the axis change nothing.
    last = from < rank && std::all_of(dims.begin() + from + 1, dims.end(), [](int64_t d) { return d == 1; });
  }
  if (last) {
    l.node->attributes["axis"] = axis;
    return;
  }
  Value* x = l.node->inputs[0];
  Value* shape = l.before("Shape", {x});
  set_input(l, 0, l.before("Flatten", {x}, {{"axis", axis}}));
  l.node->attributes["axis"] = int64_t{-1};
  l.replace_result(0, l.after("Reshape", {l.node->outputs[0], shape}));
}

void clip_limits_to_inputs(const Lifting& l) {
  size_t index = 1;
  for (const char* limit : {"min", "max"}) {
    if (l.node->has(limit)) set_input(l, index, l.real(l.node->real(limit, 0), l.float_type(0)));
    l.node->attributes.erase(limit);
    ++index;
  }
}

void pads_to_inputs(const Lifting& l) {
  std::string attribute = l.node->has("pads") ? "pads" : "paddings";
  set_input(l, 1, l.integers(l.take_integers(attribute)));
  double value = l.node->real("value", 0);
  l.node->attributes.erase("value");
  if (value != 0) set_input(l, 2, l.real(value, l.float_type(0)));
}

void slice_to_inputs(const Lifting& l) {
  set_input(l, 1, l.integers(l.take_integers("starts")));
  set_input(l, 2, l.integers(l.take_integers("ends")));
  if (l.node->has("axes")) set_input(l, 3, l.integers(l.take_integers("axes")));
}

void dropout_ratio_to_input(const Lifting& l) {
  set_input(l, 1, l.real(l.node->real("ratio", 0.5), DType::f32));
  l.node->attributes.erase("ratio");
  // Until opset 9 the mask had the input's type.
  const Value* mask = l.node->output(1);
  if (l.opset < 10 && mask) {
    l.replace_result(1, l.after("Cast", {l.node->outputs[1]}, {{"to", onnx_dtype(l.float_type(0))}}));
  }
}

// Until opset 8 statistics might differ along all axes but the batch: plain arithmetic, in inference form only.
void batch_norm_by_position(const Lifting& l) {
  bool spatial = l.node->integer("spatial", 1) != 0;
  l.node->attributes.erase("spatial");
  if (spatial) return;
  bool training = false;
  for (size_t i = 1; i < l.node->outputs.size(); ++i) training |= l.node->outputs[i] != nullptr;
  if (training) throw UnsupportedError(l.node->where(), " in training form has spatial 0: allowed is 1");
  auto& in = l.node->inputs;
  Value* epsilon = l.real(l.node->real("epsilon", 1e-5), l.float_type(0));
  Value* deviation = l.before("Sqrt", {l.before("Add", {in[4], epsilon})});
  Value* scaled = l.before("Mul", {l.before("Div", {l.before("Sub", {in[0], in[3]}), deviation}), in[1]});
  Value* bias = in[2];
  l.node->type = "Add";
  l.node->attributes.clear();
  for (size_t i = in.size(); i-- > 2;) l.graph.set_input(l.node, i, nullptr);
  in.resize(2);
  set_input(l, 0, scaled);
  set_input(l, 1, bias);
}

// Until opset 13 further results meant training: running mean and variance, then the batch's own.
void batch_norm_by_outputs(const Lifting& l) {
  auto& outputs = l.node->outputs;
  bool training = false;
  for (size_t i = 1; i < outputs.size(); ++i) training |= outputs[i] != nullptr;
  if (!training) return;
  l.node->attributes["training_mode"] = int64_t{1};
  bool saved = l.node->output(3) || l.node->output(4);
  if (saved) {
    int64_t rank = l.rank(0);
    if (rank < 2) throw UnsupportedError(l.node->where(), " gives its batch statistics for an input of unknown rank");
    std::vector<int64_t> axes{0};
    for (int64_t i = 2; i < rank; ++i) axes.push_back(i);
    Value* x = l.node->inputs[0];
    Value* mean = l.after("ReduceMean", {x, l.integers(axes)});
    Value* centred = l.after("Sub", {x, mean});
    l.replace_result(3, l.after("ReduceMean", {x, l.integers(axes)}, {{"keepdims", int64_t{0}}}));
    if (l.node->output(4)) {
      Value* squares = l.after("Mul", {centred, centred});
      l.replace_result(4, l.after("ReduceMean", {squares, l.integers(axes)}, {{"keepdims", int64_t{0}}}));
    }
  }
  for (size_t i = 3; i < outputs.size(); ++i) {
    if (outputs[i]) outputs[i]->producer = nullptr;
  }
  outputs.resize(std::min<size_t>(outputs.size(), 3));
}

// The old Resize and Upsample: asymmetric coordinates; nearest rounds up along axes that shrink, down along others.
void resize_asymmetric(const Lifting& l, Value* scales) {
  Value* x = l.node->inputs[0];
  std::string mode = l.node->text("mode", "nearest");
  l.node->type = "Resize";
  l.node->attributes = {{"mode", mode}, {"coordinate_transformation_mode", std::string("asymmetric")}};
  l.graph.set_input(l.node, 1, nullptr);
  l.graph.set_input(l.node, 2, scales);
  if (mode != "nearest") return;
  l.node->attributes["nearest_mode"] = std::string("floor");
  if (!scales->is_constant() || scales->data.dtype() != DType::f32) return;
  std::vector<float> grow, shrink;
  for (float s : scales->data.values<float>()) {
    grow.push_back(s < 1 ? 1 : s);
    shrink.push_back(s < 1 ? s : 1);
  }
  auto one = [](float s) { return s == 1; };
  if (std::all_of(shrink.begin(), shrink.end(), one)) return;
  if (std::all_of(grow.begin(), grow.end(), one)) {
    l.node->attributes["nearest_mode"] = std::string("ceil");
    return;
  }
  Attributes down = l.node->attributes;
  down["nearest_mode"] = std::string("ceil");
  auto count = static_cast<int64_t>(grow.size());
  Value* smaller = l.before("Resize", {x, nullptr, l.graph.add_constant(Tensor::of<float>({count}, shrink))}, down);
  l.graph.set_input(l.node, 0, smaller);
  l.graph.set_input(l.node, 2, l.graph.add_constant(Tensor::of<float>({count}, grow)));
}

void upsample_scales(const Lifting& l) {
  if (l.node->input(1)) return resize_asymmetric(l, l.node->inputs[1]);
  auto reals = l.node->reals("scales");
  Tensor scales = Tensor::of<float>({static_cast<int64_t>(reals.size())}, {reals.begin(), reals.end()});
  resize_asymmetric(l, l.graph.add_constant(scales));
}

void resize_10(const Lifting& l) { resize_asymmetric(l, l.node->inputs[1]); }

// floor((x + 0.5) / scale) is half_pixel, rounded with halves up.
void resize_half_pixel_for_nearest(const Lifting& l) {
  if (l.node->text("coordinate_transformation_mode", "half_pixel") != "tf_half_pixel_for_nn") return;
  std::string rounding = l.node->text("nearest_mode", "round_prefer_floor");
  if (l.node->text("mode", "nearest") != "nearest" || rounding != "floor") {
    throw UnsupportedError(l.node->where(), " has tf_half_pixel_for_nn with mode ", l.node->text("mode", "nearest"),
                           " and ", rounding, ": allowed are nearest and floor");
  }
  l.node->attributes["coordinate_transformation_mode"] = std::string("half_pixel");
  l.node->attributes["nearest_mode"] = std::string("round_prefer_ceil");
}

void split_to_input(const Lifting& l) {
  if (l.node->has("split")) set_input(l, 1, l.integers(l.take_integers("split")));
}

void split_count(const Lifting& l) {
  if (!l.node->input(1)) l.node->attributes["num_outputs"] = static_cast<int64_t>(l.node->outputs.size());
}

void top_k_to_input(const Lifting& l) {
  set_input(l, 1, l.integers({l.node->integer("k", 0)}));
  l.node->attributes.erase("k");
}

void scatter_elements(const Lifting& l) { l.node->type = "ScatterElements"; }

void dft_axis_to_input(const Lifting& l) {
  set_input(l, 2, l.graph.add_constant(Tensor::scalar(l.node->integer("axis", 1))));
  l.node->attributes.erase("axis");
}

void grid_sample_modes(const Lifting& l) {
  std::string mode = l.node->text("mode", "bilinear");
  l.node->attributes["mode"] = mode == "bilinear"  ? std::string("linear")
                               : mode == "bicubic" ? std::string("cubic")
                                                   : mode;
}

// Until opset 20 scale and bias had one entry a group: repeat it for the group's channels.
void group_norm_by_channel(const Lifting& l) {
  int64_t groups = l.node->integer("num_groups", 1);
  if (groups < 1) throw ModelError(l.node->where(), " num_groups is ", groups, ": allowed are positive numbers");
  Value* channels = l.before("Shape", {l.node->inputs[0]}, {{"start", int64_t{1}}, {"end", int64_t{2}}});
  Value* each = l.before("Div", {channels, l.integers({groups})});
  Value* shape = l.before("Concat", {l.integers({groups}), each}, {{"axis", int64_t{0}}});
  for (size_t i : {size_t{1}, size_t{2}}) {
    Value* column = l.before("Unsqueeze", {l.node->inputs[i], l.integers({1})});
    set_input(l, i, l.before("Reshape", {l.before("Expand", {column, shape}), l.integers({-1})}));
  }
}

void roi_align_corners(const Lifting& l) {
  l.node->attributes["coordinate_transformation_mode"] = std::string("output_half_pixel");
}

void scan_batched(const Lifting& l) {
  throw UnsupportedError(l.node->where(), " has the batched form of opset 8: allowed is that of opset 9 and newer");
}

// A node of `type` written for an opset below `until` needs `rewrite`; rows of one type go by rising opset.
// Operators that are absent here only took more element types since opset 7, or got attributes whose default is the
// old meaning.
struct Row {
  const char* type;
  int64_t until;
  void (*rewrite)(const Lifting&);
};

constexpr Row rows[] = {
    {"BatchNormalization", 9, batch_norm_by_position},
    {"BatchNormalization", 14, batch_norm_by_outputs},
    {"Clip", 11, clip_limits_to_inputs},
    {"DFT", 20, dft_axis_to_input},
    {"Dropout", 12, dropout_ratio_to_input},
    {"GridSample", 20, grid_sample_modes},
    {"GroupNormalization", 21, group_norm_by_channel},
    {"Hardmax", 13, softmax_of_matrix},
    {"LogSoftmax", 13, softmax_of_matrix},
    {"Pad", 11, pads_to_inputs},
    {"ReduceL1", 18, axes_to_input},
    {"ReduceL2", 18, axes_to_input},
    {"ReduceLogSum", 18, axes_to_input},
    {"ReduceLogSumExp", 18, axes_to_input},
    {"ReduceMax", 18, axes_to_input},
    {"ReduceMean", 18, axes_to_input},
    {"ReduceMin", 18, axes_to_input},
    {"ReduceProd", 18, axes_to_input},
    {"ReduceSum", 13, axes_to_input},
    {"ReduceSumSquare", 18, axes_to_input},
    {"Resize", 11, resize_10},
    {"Resize", 13, resize_half_pixel_for_nearest},
    {"RoiAlign", 16, roi_align_corners},
    {"Scan", 9, scan_batched},
    {"Scatter", 11, scatter_elements},
    {"Slice", 10, slice_to_inputs},
    {"Softmax", 13, softmax_of_matrix},
    {"Split", 13, split_to_input},
    {"Split", 18, split_count},
    {"Squeeze", 13, axes_to_input},
    {"TopK", 10, top_k_to_input},
    {"Unsqueeze", 13, axes_to_input},
    {"Upsample", 10, upsample_scales},
};

}  // namespace

void lift(Graph& graph, Node* node, int64_t opset) {
  if (!node->domain.empty()) return;
  std::string type = node->type;  // rows may change it
  for (const Row& row : rows) {
    if (type == row.type && opset < row.until) row.rewrite({graph, node, opset});
  }
}

}  // namespace graft
