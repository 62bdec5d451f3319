// What a kernel sees of a device: a stream to run on. Memory and threads are behind runtime/device/<device>.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "graph/graph.h"

namespace graft {

// Order of execution on one device. CPU streams run at once; CUDA streams enqueue.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void synchronize() = 0;
};

std::unique_ptr<Stream> make_stream(Device device);

// Threads that work inside a CPU kernel; process-wide, as OpenMP has it. 0: all cores.
void set_thread_count(int threads);
int thread_count();

// Whether the CPU has instructions that multiply bfloat16 (AVX-512 BF16, AMX), and oneDNN uses them.
bool has_bfloat16();
// Whether matrix tiles (AMX) may be used: the CPU has them, the system lets us, and oneDNN uses them.
bool has_matrix_tiles();

// Splits [0, count) into contiguous ranges, one a thread, when there is enough work: `cost` is the rough number of
// elementary operations of one item. f(begin, end) must not throw.
void parallel_for(int64_t count, int64_t cost, const std::function<void(int64_t begin, int64_t end)>& f);

// How often this thread has made descriptors, primitives or memory objects of a library of kernels (oneDNN): steady
// steps must not.
int64_t descriptor_count();

// Peak of the machine's main memory, bytes; used to refuse plans that cannot fit.
int64_t physical_memory();

}  // namespace graft
