#include "runtime/machine.h"

#include <algorithm>

#include "graph/tensor.h"
#include "runtime/clock.h"
#include "runtime/device/cpu/peak_loops.h"
#include "runtime/device/cpu/system.h"
#include "runtime/device/device.h"

namespace graft {
namespace {

// Large enough for parallel_for to use every thread.
constexpr int64_t much_work = int64_t{1} << 30;

// The best rate of several rounds of `work`, which returns how much it did; no new round begins after `budget` seconds.
template <class F>
double best_rate(int rounds, double budget, F&& work) {
  double best = 0;
  double begin = seconds_now();
  for (int round = 0; round < rounds && (round == 0 || seconds_now() - begin < budget); ++round) {
    double start = seconds_now();
    double done = work();
    best = std::max(best, done / std::max(seconds_now() - start, 1e-9));
  }
  return best;
}

// So many rounds of the loop take a millisecond or two: other programs leave such gaps.
double multiply_add_rate(double (*loop)(int64_t), int64_t loops = int64_t{1} << 19) {
  constexpr int rounds = 32;
  constexpr double budget = 0.06;
  int threads = thread_count();
  return best_rate(rounds, budget, [&] {
    std::vector<double> done(static_cast<size_t>(threads));
    parallel_for(threads, much_work, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) done[static_cast<size_t>(i)] = loop(loops);
    });
    double sum = 0;
    for (double flops : done) sum += flops;
    return sum;
  });
}

// Three arrays that every thread has its own piece of.
class Triad {
 public:
  explicit Triad(int64_t bytes) {
    constexpr int64_t granule = 64;  // elements: pieces stay aligned
    constexpr int64_t arrays = 3;
    int64_t threads = thread_count();
    piece_ = std::max<int64_t>(bytes / (arrays * threads * static_cast<int64_t>(sizeof(float))) / granule, 1) * granule;
    for (auto& array : arrays_) array = Tensor::uninitialized(DType::f32, {piece_ * threads});
    parallel_for(threads, much_work, [&](int64_t begin, int64_t end) {
      for (auto& array : arrays_)
        std::fill(array.data<float>() + begin * piece_, array.data<float>() + end * piece_, 1.0F);
    });
  }

  // Bytes a second, as STREAM counts them: what a write-back cache reads before it writes does not count.
  double rate(int rounds, double budget, int64_t passes, bool streaming) {
    return best_rate(rounds, budget, [&] {
      parallel_for(thread_count(), much_work, [&](int64_t begin, int64_t end) {
        for (int64_t pass = 0; pass < passes; ++pass) {
          for (int64_t i = begin; i < end; ++i) {
            int64_t at = i * piece_;
            triad(arrays_[0].data<float>() + at, arrays_[1].data<float>() + at, arrays_[2].data<float>() + at, piece_,
                  streaming);
          }
        }
      });
      double bytes = 0;
      for (const auto& array : arrays_) bytes += static_cast<double>(array.bytes());
      return static_cast<double>(passes) * bytes;
    });
  }

 private:
  Tensor arrays_[3];
  int64_t piece_ = 0;
};

}  // namespace

MachineLimits measure_machine() {
  constexpr int64_t mib = int64_t{1} << 20;
  constexpr int rounds = 10;
  constexpr double budget = 0.08;
  MachineLimits limits;
  limits.threads = thread_count();
  limits.cache_bytes = last_level_cache_bytes();
  limits.flops_f32 = multiply_add_rate(multiply_add_f32);
  limits.flops_f64 = multiply_add_rate(multiply_add_f64);
  if (has_matrix_tiles()) {
    constexpr int64_t products = int64_t{1} << 16, parts = 6;
    limits.flops_bf16 = multiply_add_rate(multiply_add_tiles, products);
    limits.flops_tiles = limits.flops_bf16 / parts;
  } else {
    limits.flops_bf16 = has_bfloat16() ? best_rate(rounds, budget, bfloat16_product()) : limits.flops_f32;
  }
  {
    constexpr int64_t passes = 8;
    Triad cached(std::clamp(limits.cache_bytes / 2, mib, 64 * mib));
    limits.cache_bandwidth = cached.rate(rounds, budget, passes, false);
  }
  // Large machines have caches of hundreds of MiB: the rest of the arrays than is beyond them still tells.
  int64_t bytes = std::min(std::clamp(4 * limits.cache_bytes, 64 * mib, 1024 * mib), physical_memory() / 8);
  Triad far(bytes);
  for (bool streaming : {false, true})
    limits.memory_bandwidth = std::max(limits.memory_bandwidth, far.rate(rounds, budget, 1, streaming));
  // Streaming writes may beat a small or slow cache; what lies in it is never slower to reach than memory.
  limits.cache_bandwidth = std::max(limits.cache_bandwidth, limits.memory_bandwidth);
  return limits;
}

}  // namespace graft
