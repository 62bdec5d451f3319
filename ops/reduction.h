// What the scattering operators do where an element is written: their attribute `reduction`.
#pragma once

#include <type_traits>

#include "ops/element_size.h"

namespace graft {

// Calls f with an element of the type to work in and a function (T& to, T from). Replacing needs the size alone.
template <class F>
auto with_reduction(const Node& node, DType dtype, F&& f) -> decltype(f(uint8_t{}, [](uint8_t&, uint8_t) {})) {
  const std::string reduction = node.text("reduction", "none");
  if (reduction == "none") {
    return with_element_size(node, dtype, [&]<class T>(T) { return f(T{}, [](T& to, T from) { to = from; }); });
  }
  decltype(f(uint8_t{}, [](uint8_t&, uint8_t) {})) result{};
  bool known = reduction == "add" || reduction == "mul" || reduction == "max" || reduction == "min";
  if (!known) {
    throw ModelError(node.where(), " has reduction \"", reduction, "\": allowed are none, add, mul, max and min");
  }
  bool found = visit_dtype(dtype, [&]<class T>(T) {
    if constexpr (!std::is_same_v<T, bool>) {
      if (reduction == "add") result = f(T{}, [](T& to, T from) { to = static_cast<T>(to + from); });
      else if (reduction == "mul") result = f(T{}, [](T& to, T from) { to = static_cast<T>(to * from); });
      else if (reduction == "max") result = f(T{}, [](T& to, T from) { to = from > to ? from : to; });
      else result = f(T{}, [](T& to, T from) { to = from < to ? from : to; });
    }
  });
  if (!found || dtype == DType::boolean)
    throw UnsupportedError(node.where(), " has no kernel for reduction \"", reduction, "\" of ", dtype);
  return result;
}

}  // namespace graft
