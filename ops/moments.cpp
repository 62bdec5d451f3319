#include "ops/moments.h"

#include <algorithm>
#include <exception>
#include <mutex>

#include "ops/part.h"
#include "runtime/device/cpu/scratch_file.h"

namespace graft {
namespace {

// Of one moment. A core's second cache holds such a piece of each while the step works on it; larger and smaller ones
// are slower.
constexpr int64_t piece_bytes = int64_t{128} << 10;

}  // namespace

void settle_moments(const Node& node, Settlement& settlement) {
  const auto moments = static_cast<int64_t>(node.outputs.size()) - 1;
  if (moments < 1 || !node.inputs[first_moment_slot]->on_disk) return;
  constexpr int64_t line = 64;
  const int64_t bytes = (storage_bytes(*node.inputs[first_moment_slot]) + line - 1) / line * line;
  const int64_t pieces = (bytes + piece_bytes - 1) / piece_bytes;
  const MomentBuffers buffers{std::clamp<int64_t>(pieces, 1, thread_count()), std::min(bytes, piece_bytes)};
  settlement.scratch_bytes += buffers.shares * moments * buffers.piece_bytes;
  settlement.descriptor = buffers;
}

DiskMoments::DiskMoments(const Node& node, const Binding& binding, std::byte* buffers)
    : buffers_(buffers),
      sizes_(std::any_cast<const MomentBuffers&>(binding.settlement->descriptor)),
      element_bytes_(static_cast<int64_t>(size_of(node.inputs[first_moment_slot]->dtype))) {
  for (size_t i = 0; i + 1 < node.outputs.size(); ++i) files_.push_back(binding.disk.at(first_moment_slot + i));
}

void DiskMoments::run(const Bound& bound, const Step& step) const {
  std::exception_ptr failure;
  std::mutex mutex;
  constexpr int64_t worth_a_thread = 1 << 20;
  parallel_for(sizes_.shares, worth_a_thread, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      try {
        run_share(share, bound, step);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    }
  });
  if (failure) std::rethrow_exception(failure);
}

void DiskMoments::run_share(int64_t share, const Bound& bound, const Step& step) const {
  std::array<std::byte*, most_moments> moments{};
  for (size_t i = 0; i < files_.size(); ++i)
    moments[i] =
        buffers_ + (share * static_cast<int64_t>(files_.size()) + static_cast<int64_t>(i)) * sizes_.piece_bytes;
  const int64_t last = bound(share + 1, sizes_.shares), most = sizes_.piece_bytes / element_bytes_;
  for (int64_t begin = bound(share, sizes_.shares); begin < last; begin += most) {
    const int64_t end = std::min(begin + most, last), bytes = (end - begin) * element_bytes_;
    auto offset = [&](const DiskBytes& at) { return at.offset + begin * element_bytes_; };
    for (size_t i = 0; i < files_.size(); ++i) files_[i].file->read(offset(files_[i]), moments[i], bytes);
    step(begin, end, moments);
    for (size_t i = 0; i < files_.size(); ++i) files_[i].file->write(offset(files_[i]), moments[i], bytes);
  }
}

}  // namespace graft
