// What BatchNormalization and the operators that it is a part of share: the arithmetic of one channel, and the
// activation behind it.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "graph/graph.h"
#include "ops/normalization_loops.h"

namespace graft {

// A result, if it is wanted, of the type and shape of another value.
inline void infer_like(Value* result, const Value& like) {
  if (!result) return;
  result->dtype = like.dtype;
  result->ranked = true;
  result->dims = like.dims;
}

struct Activation {
  Epilogue epilogue = Epilogue::none;
  double low = 0, high = 0;

  bool is_relu() const { return epilogue == Epilogue::clamp && low == 0 && (std::isnan(high) || std::isinf(high)); }
};

// From the attributes "activation", "min" and "max", with `prefix` in front. ModelError where they make no sense.
Activation activation_of(const Node& node, const std::string& prefix = "");
// How backward finds the slope of an activation when it has x.
Slope slope_from_x(Epilogue epilogue);

// Population statistics of a channel; the double mean is mean + rest.
template <class T>
struct LiveStatistics {
  double batch_mean = 0, batch_var = 0;
  T mean = 0, inverse = 0, rest = 0;  // inverse = 1 / sqrt(batch_var + epsilon)
};

// From sum(x - shift) and sum((x - shift)^2) over `count` values.
template <class T>
LiveStatistics<T> live_statistics(double shift, double sum, double sum_of_squares, double count, double epsilon) {
  double offset = sum / count;
  LiveStatistics<T> s{.batch_mean = shift + offset,
                      .batch_var = std::max(sum_of_squares / count - offset * offset, 0.0)};
  s.mean = static_cast<T>(s.batch_mean);
  s.inverse = static_cast<T>(1 / std::sqrt(s.batch_var + epsilon));
  s.rest = static_cast<T>(s.batch_mean - static_cast<double>(s.mean));
  return s;
}

template <class T>
T running_statistic(T old, double batch, double momentum) {
  return static_cast<T>(static_cast<double>(old) * momentum + batch * (1 - momentum));
}

// Both directions must find the same t: the activation has a kink.
template <class T>
T live_factor(T scale, T inverse) {
  return static_cast<T>(static_cast<double>(scale) * static_cast<double>(inverse));
}

// dx = dt slope + (x - mean) slope_x + offset, from sum dt and sum dt (x - mean).
template <class T>
struct GradFactors {
  T slope, slope_x, offset;
};
template <class T>
GradFactors<T> grad_factors(T scale, double inverse, double rest, double sum, double sum_x, double count) {
  double by_dt = static_cast<double>(scale) * inverse;
  GradFactors<T> f{.slope = static_cast<T>(by_dt),
                   .slope_x = static_cast<T>(-by_dt * sum_x * inverse * inverse / count)};
  // dx sums to zero, with the factors as they are rounded: the bias before has no gradient.
  f.offset = static_cast<T>(-static_cast<double>(f.slope) * sum / count - static_cast<double>(f.slope_x) * rest);
  return f;
}

}  // namespace graft
