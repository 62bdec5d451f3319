#include "runtime/training/loader.h"

#include <algorithm>
#include <system_error>

namespace graft {
namespace {

constexpr size_t largest_reasons = 100;

// One tensor out of the same tensor of each sample: (dims) -> (batch, dims).
Tensor stack_tensors(const std::vector<const Tensor*>& parts, const std::string& what, const Dataset& dataset,
                     const std::vector<int64_t>& indices) {
  const Tensor& first = *parts.front();
  if (!first.defined()) return {};
  Dims dims = first.dims();
  dims.insert(dims.begin(), static_cast<int64_t>(parts.size()));
  Tensor out = Tensor::uninitialized(first.dtype(), dims);
  auto bytes = static_cast<size_t>(first.bytes());
  auto* to = static_cast<std::byte*>(out.raw());
  for (size_t i = 0; i < parts.size(); ++i, to += bytes) {
    if (parts[i]->dims() != first.dims() || parts[i]->dtype() != first.dtype()) {
      throw DataError(dataset.describe(indices[i]), ": ", what, " is ", parts[i]->dtype(), " ", parts[i]->dims(),
                      ", that of ", dataset.describe(indices[0]), " is ", first.dtype(), " ", first.dims(),
                      ": a batch wants equal ones");
    }
    if (bytes) std::memcpy(to, parts[i]->raw(), bytes);
  }
  return out;
}

}  // namespace

Loader::Loader(const Dataset& dataset, std::vector<int64_t> indices, LoaderOptions options)
    : dataset_(dataset), indices_(std::move(indices)), options_(std::move(options)) {
  constexpr int64_t largest = int64_t{1} << 31;
  if (options_.batch_size < 1 || options_.batch_size > largest) {
    throw UsageError("batch size ", options_.batch_size, ", allowed are 1 to ", largest);
  }
  if (indices_.empty()) throw DataError("the data set has no samples");
  for (int64_t index : indices_) {
    if (index < 0 || index >= dataset.size()) throw UsageError("sample ", index, " of ", dataset.size(), " is wanted");
  }
  options_.prefetch = std::clamp<int64_t>(options_.prefetch, 0, 1024);
  options_.threads = std::clamp(options_.threads, 1, 256);
}

Loader::~Loader() { stop(); }

int64_t Loader::batches() const {
  return options_.drop_last ? size() / options_.batch_size : (size() + options_.batch_size - 1) / options_.batch_size;
}

void Loader::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void Loader::start_epoch(int64_t epoch, int64_t position) {
  if (position < 0 || position > size())
    throw UsageError("position ", position, " in an epoch of ", size(), " samples");
  stop();
  order_ = options_.shuffle ? shuffled(indices_, options_.seed, static_cast<uint64_t>(epoch)) : indices_;
  skipped_ = delivered_ = next_ = held_ = 0;
  skip_reasons_.clear();
  done_.clear();
  ready_.clear();
  building_ = {};
  claimed_ = ordered_ = position;
  failed_ = stopping_ = false;
  if (position == size()) ready_[0].end = true;
  auto count = std::min<int64_t>(options_.threads, size() - position);
  try {
    for (int64_t i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    stop();
    throw DeviceError("cannot start a thread that reads samples: ", error.what());
  }
}

Loader::Read Loader::read(int64_t position) const {
  Read result;
  try {
    result.sample = dataset_.read(order_[static_cast<size_t>(position)]);
    if (result.sample.inputs.size() != dataset_.input_names().size()) {
      throw UsageError("a sample has ", result.sample.inputs.size(), " inputs, the data set names ",
                       dataset_.input_names().size());
    }
  } catch (const DataError& error) {
    if (options_.on_bad_sample == OnBadSample::skip) result.bad = error.what();
    else result.error = std::current_exception();
  } catch (...) {
    result.error = std::current_exception();
  }
  return result;
}

void Loader::work() {
  const int64_t window = (options_.prefetch + 1) * options_.batch_size;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || failed_ || claimed_ == size() || held_ < window; });
    if (stopping_ || failed_ || claimed_ == size()) return;
    int64_t position = claimed_++;
    ++held_;
    lock.unlock();
    Read result = read(position);
    lock.lock();
    if (stopping_) return;
    done_.emplace(position, std::move(result));
    auto complete = arrange();
    if (!complete.empty()) {
      lock.unlock();
      for (auto& pending : complete) stack(pending);
      lock.lock();
      for (auto& pending : complete) ready_.emplace(pending.number, std::move(pending));
    }
    changed_.notify_all();
  }
}

Loader::Pending Loader::close(bool end) {
  Pending closed = std::move(building_);
  closed.end = end;
  closed.batch.position = ordered_;
  building_ = {};
  building_.number = closed.number + 1;
  return closed;
}

std::vector<Loader::Pending> Loader::arrange() {
  std::vector<Pending> complete;
  while (!failed_ && !done_.empty() && done_.begin()->first == ordered_) {
    Read result = std::move(done_.begin()->second);
    done_.erase(done_.begin());
    int64_t index = order_[static_cast<size_t>(ordered_++)];
    if (result.error) {
      building_.error = result.error;
      failed_ = true;
      complete.push_back(close(false));
    } else if (!result.bad.empty()) {
      --held_;
      ++building_.skipped;
      if (building_.reasons.size() < largest_reasons) building_.reasons.push_back(std::move(result.bad));
    } else {
      building_.samples.push_back(std::move(result.sample));
      building_.batch.indices.push_back(index);
      if (static_cast<int64_t>(building_.samples.size()) == options_.batch_size) complete.push_back(close(false));
    }
  }
  if (!failed_ && ordered_ == size()) {
    if (!building_.samples.empty() && !options_.drop_last) complete.push_back(close(false));
    building_.samples.clear();
    complete.push_back(close(true));
  }
  return complete;
}

void Loader::stack(Pending& pending) const {
  if (pending.error || pending.end) return;
  Batch& batch = pending.batch;
  batch.count = static_cast<int64_t>(pending.samples.size());
  try {
    std::vector<const Tensor*> parts(pending.samples.size());
    const auto& names = dataset_.input_names();
    for (size_t k = 0; k < names.size(); ++k) {
      for (size_t i = 0; i < parts.size(); ++i) parts[i] = &pending.samples[i].inputs[k];
      batch.inputs[names[k]] = stack_tensors(parts, cat("input \"", names[k], "\""), dataset_, batch.indices);
    }
    if (options_.buckets) options_.buckets->cut(batch.inputs);
    for (size_t i = 0; i < parts.size(); ++i) parts[i] = &pending.samples[i].label;
    batch.labels = stack_tensors(parts, "the label", dataset_, batch.indices);
  } catch (...) {
    pending.error = std::current_exception();
  }
  pending.samples.clear();
}

bool Loader::next(Batch& batch) {
  if (threads_.empty() && ready_.empty()) throw UsageError("a batch is wanted before an epoch was started");
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_.contains(next_); });
  auto found = ready_.find(next_);
  if (found->second.error) std::rethrow_exception(found->second.error);
  Pending& pending = found->second;
  skipped_ += pending.skipped;
  for (auto& reason : pending.reasons) {
    if (skip_reasons_.size() < largest_reasons) skip_reasons_.push_back(std::move(reason));
  }
  pending.skipped = 0;
  pending.reasons.clear();
  if (pending.end) {
    if (delivered_ == 0 && skipped_ == size()) {
      throw DataError("none of the ", size(), " samples can be read; the first: ", skip_reasons_.front());
    }
    return false;  // and again when called again: the mark stays
  }
  batch = std::move(pending.batch);
  ready_.erase(found);
  ++next_;
  delivered_ += batch.count;
  held_ -= batch.count;
  lock.unlock();
  changed_.notify_all();
  return true;
}

}  // namespace graft
