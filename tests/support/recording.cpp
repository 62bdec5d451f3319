#include "tests/support/recording.h"

#include <gtest/gtest.h>

#include <cmath>

#include "importers/data/npz.h"
#include "tests/support/paths.h"

namespace graft::test {
namespace {

double norm(const Tensor& tensor) {
  double squares = 0;
  for (double v : tensor.values<double>()) squares += v * v;
  return std::sqrt(squares);
}

}  // namespace

Recording::Recording(const std::string& network)
    : model_(models_dir() + "/" + network + ".onnx"),
      arrays_(read_npz(source_dir() + "/tests/recordings/" + network + ".npz")) {}

const Tensor& Recording::array(const std::string& name) const {
  auto found = arrays_.find(name);
  if (found == arrays_.end()) throw UsageError("the recording has no array \"", name, '"');
  return found->second;
}

double Recording::number(const std::string& name) const { return array(name).data<double>()[0]; }

Tensor Recording::row(const std::string& name, int64_t index) const {
  const Tensor& all = array(name);
  return rows(all, index, index + 1).reshaped({all.dims().begin() + 1, all.dims().end()});
}

std::vector<std::string> Recording::names(const std::string& prefix) const {
  std::vector<std::string> found;
  for (const auto& [name, unused] : arrays_) {
    if (name.starts_with(prefix)) found.push_back(name.substr(prefix.size()));
  }
  return found;
}

Tensors Recording::below(const std::string& prefix) const {
  Tensors found;
  for (const auto& name : names(prefix)) found[name] = array(prefix + name);
  return found;
}

bool Recording::has_noise_for_gradient(const std::string& parameter) const {
  constexpr double rounding = 1e-12;
  auto found = arrays_.find("gradient64/" + parameter);
  return found != arrays_.end() && norm(found->second) < rounding;
}

Tensor rows(const Tensor& tensor, int64_t begin, int64_t end) {
  Dims dims = tensor.dims();
  int64_t row_bytes = tensor.bytes() / dims.at(0);
  dims[0] = end - begin;
  Tensor part = Tensor::uninitialized(tensor.dtype(), dims);
  std::memcpy(part.raw(), static_cast<const std::byte*>(tensor.raw()) + begin * row_bytes,
              static_cast<size_t>(part.bytes()));
  return part;
}

double train_step(const TrainingPrograms& programs, const Tensor& x, const Tensor& labels, double lr) {
  Program& update = programs.apply ? *programs.apply : *programs.step;
  programs.step->set_input("x", x);
  programs.step->set_input("graft.labels", labels);
  update.set_input("graft.lr", Tensor::scalar(lr).cast(x.dtype()));
  programs.step->run();
  if (programs.apply) programs.apply->run();
  return update.scalar("graft.loss_sum") / update.scalar("graft.weight_sum");
}

void expect_agreement(const Tensors& got, const Tensors& wanted, double tolerance, const std::string& what) {
  double squares = 0;
  for (const auto& [name, want] : wanted) squares += std::pow(norm(want.cast(DType::f64)), 2);
  double floor = 1e-3 * std::sqrt(squares);
  for (const auto& [name, want] : wanted) {
    auto found = got.find(name);
    ASSERT_NE(found, got.end()) << what << ": no " << name;
    ASSERT_EQ(found->second.dims(), want.dims()) << what << ": " << name;
    Tensor reference = want.cast(DType::f64);
    Tensor difference = found->second.cast(DType::f64).clone();
    for (int64_t i = 0; i < want.count(); ++i) difference.data<double>()[i] -= reference.data<double>()[i];
    EXPECT_LE(norm(difference), tolerance * std::max(norm(reference), floor)) << what << ": " << name;
  }
}

Tensors states(const ParameterStore& store) {
  Tensors copies;
  for (const auto& [name, unused] : store.entries()) copies[name] = store.read(name);
  return copies;
}

void expect_same_bits(const Tensors& got, const Tensors& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (const auto& [name, want] : wanted) {
    const Tensor& other = got.at(name);
    ASSERT_EQ(other.bytes(), want.bytes()) << name;
    EXPECT_EQ(std::memcmp(other.raw(), want.raw(), static_cast<size_t>(want.bytes())), 0) << name;
  }
}

}  // namespace graft::test
