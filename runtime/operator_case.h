// Single operators to be timed, one a line of text:
//
//   Conv pads=1,1,1,1 8x64x56x56 64x64x3x3 64      operator, attributes, operands
//   MatMul 1024x384 384x1536
//   Gather 30522x384 int64:8x128                   an operand of another type than float
//   ReduceMean 8x128x384 {-1}                      a constant operand: its values
//   Clip 8x64x56x56 - {6.0}                        an absent operand
//   Relu 8x64x112x112                              # after '#' comes a comment
//
// An attribute's value is an integer, a number with a point, a list with commas (one element: "3,"), or a text.
// Operands that are weights by their place in the operator become parameters, all others inputs of the graph; a scalar
// is "scalar".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace graft {

struct OperatorCase {
  std::string type;      // of the operator
  std::string operands;  // the rest of the line
  std::string where;     // for messages: file and line
};

// DataError that names the line for an operator that Graft lacks (with the nearest), or none at all.
std::vector<OperatorCase> read_operator_cases(const std::string& text, const std::string& where);
// Convolutions, products, normalisations, element-wise operators, pooling, reductions and moves as they stand in common
// networks at small batches.
std::vector<OperatorCase> common_operator_cases();

// The graph of one case. DataError for what cannot be read and for operands that do not fit the operator, DeviceError
// for operands larger than the machine's memory.
std::unique_ptr<Graph> graph_of(const OperatorCase& operator_case);

}  // namespace graft
