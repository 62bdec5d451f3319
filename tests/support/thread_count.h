// A number of threads for a scope.
#pragma once

#include "runtime/device/device.h"

namespace graft::test {

class ThreadCount {
 public:
  explicit ThreadCount(int threads) { set_thread_count(threads); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;
  ~ThreadCount() { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

}  // namespace graft::test
