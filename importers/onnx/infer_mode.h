// Graphs that were exported in training mode, back in the form that inference engines accept.
#pragma once

#include <onnx/onnx_pb.h>

namespace graft {

// BatchNormalization and Dropout nodes, in bodies and functions too, take their inference form in their own opset.
// Results that only training gives become copies of what inference uses, so that no name disappears.
void make_inference(onnx::ModelProto& model);

}  // namespace graft
