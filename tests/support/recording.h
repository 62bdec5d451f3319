// What tests/recordings holds of one network (its README.md says what the arrays are), and steps and agreement as the
// tests of training want them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/session.h"

namespace graft::test {

using Tensors = std::map<std::string, Tensor>;

class Recording {
 public:
  explicit Recording(const std::string& network);  // "small_mlp", "small_cnn", "block"

  // The same network as a model file, with the recorded initial parameters.
  const std::string& model() const { return model_; }
  const Tensor& array(const std::string& name) const;
  double number(const std::string& name) const;
  // array(name)[index]: one step of several.
  Tensor row(const std::string& name, int64_t index) const;
  // The arrays below `prefix`, by what follows it.
  std::vector<std::string> names(const std::string& prefix) const;
  Tensors below(const std::string& prefix) const;
  // Whether a parameter has no gradient but rounding errors.
  bool has_noise_for_gradient(const std::string& parameter) const;

 private:
  std::string model_;
  Tensors arrays_;
};

// Rows [begin, end) of the first dim.
Tensor rows(const Tensor& tensor, int64_t begin, int64_t end);

// Runs `step` on a batch, and `apply` where there is one; the mean loss.
double train_step(const TrainingPrograms& programs, const Tensor& x, const Tensor& labels, double lr);

// Expects ||got - want|| <= tolerance * max(||want||, 1e-3 * norm of all that is wanted) for each name: some true
// values are zero.
void expect_agreement(const Tensors& got, const Tensors& wanted, double tolerance, const std::string& what);

// Copies of the states in the store, by name.
Tensors states(const ParameterStore& store);

// Expects the same names and the same bytes.
void expect_same_bits(const Tensors& got, const Tensors& wanted);

}  // namespace graft::test
