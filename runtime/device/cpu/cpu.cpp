#include <omp.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/device/cpu/dnnl.h"
#include "runtime/device/device.h"

namespace graft {

namespace {

thread_local int64_t descriptors = 0;

}  // namespace

void count_descriptor() { ++descriptors; }
int64_t descriptor_count() { return descriptors; }

const dnnl::engine& cpu_engine() {
  count_descriptor();
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

#ifdef GRAFT_CUDA
std::unique_ptr<Stream> make_cuda_stream();  // runtime/device/cuda
#endif

std::unique_ptr<Stream> make_stream(Device device) {
#ifdef GRAFT_CUDA
  if (device == Device::cuda) return make_cuda_stream();
#endif
  if (device != Device::cpu) throw DeviceError("this build has no CUDA: configure it with -DGRAFT_CUDA=ON");
  return std::make_unique<CpuStream>();
}

void set_thread_count(int threads) { omp_set_num_threads(threads > 0 ? threads : omp_get_num_procs()); }
int thread_count() { return omp_get_max_threads(); }

void parallel_for(int64_t count, int64_t cost, const std::function<void(int64_t, int64_t)>& f) {
  constexpr int64_t worth_a_thread = 16384;
  int64_t work = count * std::max<int64_t>(cost, 1);
  auto threads = std::min<int64_t>({thread_count(), count, work / worth_a_thread + 1});
  if (threads <= 1 || omp_in_parallel()) {
    if (count > 0) f(0, count);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    int64_t t = omp_get_thread_num();
    int64_t n = omp_get_num_threads();
    int64_t begin = count * t / n;
    int64_t end = count * (t + 1) / n;
    if (begin < end) f(begin, end);
  }
}

int64_t physical_memory() { return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE); }

}  // namespace graft
