// The moments of an optimiser's step, which lie in memory or in a file. From a file each thread takes a piece at a
// time into a buffer and writes it back: what the step holds of them does not grow with the parameter.
#pragma once

#include <array>

#include "ops/op.h"

namespace graft {

constexpr size_t first_moment_slot = 5, most_moments = 2;

// Of a node whose moments lie in a file: threads that share its elements, and bytes of a moment that each holds.
struct MomentBuffers {
  int64_t shares = 0;
  int64_t piece_bytes = 0;
};
// Adds them to a node's settlement, where it needs them.
void settle_moments(const Node& node, Settlement& settlement);

class DiskMoments {
 public:
  DiskMoments() = default;
  // `buffers`: as many bytes as settle_moments asks for.
  DiskMoments(const Node& node, const Binding& binding, std::byte* buffers);
  bool empty() const { return files_.empty(); }

  using Bound = std::function<int64_t(int64_t share, int64_t shares)>;
  using Step = std::function<void(int64_t begin, int64_t end, const std::array<std::byte*, most_moments>& moments)>;
  // Calls step(begin, end, moments of these elements) for all elements, from several threads. A share ends where the
  // next one begins, at `bound`. DeviceError where the file cannot be read or written.
  void run(const Bound& bound, const Step& step) const;

 private:
  void run_share(int64_t share, const Bound& bound, const Step& step) const;

  std::vector<DiskBytes> files_;  // one for each moment
  std::byte* buffers_ = nullptr;
  MomentBuffers sizes_;
  int64_t element_bytes_ = 0;
};

// Moments of the elements from `origin` on.
template <class T>
class MomentPiece {
 public:
  MomentPiece(int64_t origin, std::array<const T*, most_moments> in, std::array<T*, most_moments> out)
      : origin_(origin), in_(in), out_(out) {}
  // Addresses of an element; nullptr where the step has no such moment.
  const T* in(size_t moment, int64_t element) const {
    return in_[moment] ? in_[moment] + (element - origin_) : nullptr;
  }
  T* out(size_t moment, int64_t element) const { return out_[moment] ? out_[moment] + (element - origin_) : nullptr; }

 private:
  int64_t origin_;
  std::array<const T*, most_moments> in_;
  std::array<T*, most_moments> out_;
};

template <class T>
class Moments {
 public:
  Moments(const Node& node, const Binding& binding, void* buffers) {
    if (node.outputs.size() > 1 && node.inputs[first_moment_slot]->on_disk) {
      disk_ = DiskMoments(node, binding, static_cast<std::byte*>(buffers));
      return;
    }
    for (size_t i = 0; i + 1 < node.outputs.size(); ++i) {
      in_[i] = binding.in<T>(first_moment_slot + i);
      out_[i] = binding.out<T>(1 + i);
    }
  }

  // Calls step(begin, end, piece) for elements that threads share out by `work`, of which one costs `cost`;
  // `element_at` gives the first element behind some work.
  template <class ElementAt, class Step>
  void run(int64_t work, int64_t cost, const ElementAt& element_at, const Step& step) const {
    if (disk_.empty()) {
      parallel_for(work, cost, [&](int64_t begin, int64_t end) {
        step(element_at(begin), element_at(end), MomentPiece<T>(0, in_, out_));
      });
      return;
    }
    auto bound = [&](int64_t share, int64_t shares) { return element_at(work * share / shares); };
    disk_.run(bound, [&](int64_t begin, int64_t end, const std::array<std::byte*, most_moments>& bytes) {
      std::array<const T*, most_moments> in{};
      std::array<T*, most_moments> out{};
      for (size_t i = 0; i < most_moments; ++i) in[i] = out[i] = reinterpret_cast<T*>(bytes[i]);
      step(begin, end, MomentPiece<T>(begin, in, out));
    });
  }

 private:
  std::array<const T*, most_moments> in_{};
  std::array<T*, most_moments> out_{};
  DiskMoments disk_;
};

}  // namespace graft
