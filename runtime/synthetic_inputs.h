// Inputs without data, for trying a model out: the same for the same seed and names.
#pragma once

#include "runtime/program.h"
#include "runtime/training/loss.h"

namespace graft {

// Floats from N(0, 1).
Tensor random_normal(DType dtype, const Dims& dims, const std::string& name, uint64_t seed);
// Whole numbers from 0 to `limit` - 1, in any dtype.
Tensor random_integers(DType dtype, const Dims& dims, int64_t limit, const std::string& name, uint64_t seed);

// What an input can hold for the model to run as usual: floats from N(0, 1); integers that pick from a table (Gather
// and the like, straight or behind Cast, Reshape and so on) within that table; ones for all others and for masks.
// `input` is the model's own, as it was before any pass; `dims` are those of the run.
Tensor synthetic_input(const Value& input, const Dims& dims, uint64_t seed);

// Whether an input of these dims is a mask of tokens: (batch, tokens), and called so.
bool is_token_mask(const Value& input, const Dims& dims);
// A mask for samples of `shortest` to all tokens, evenly between, with padding behind them. UsageError where there are
// not so many tokens.
Tensor padding_mask(DType dtype, const Dims& dims, int64_t shortest);

// Labels for `prediction` (see label_dims): classes that it has, 0 and 1 for bce, else N(0, 1).
Tensor synthetic_labels(const Value& prediction, const LossOptions& loss, uint64_t seed);

}  // namespace graft
