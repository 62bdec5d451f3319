#include "runtime/training/event_file.h"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>

#include "graph/error.h"

namespace graft {
namespace {

template <class T>
void store(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

void varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

// Protobuf's wire types.
enum class Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
void key(std::string& out, uint32_t field, Wire wire) { varint(out, field << 3 | static_cast<uint32_t>(wire)); }
void bytes(std::string& out, uint32_t field, std::string_view value) {
  key(out, field, Wire::bytes);
  varint(out, value.size());
  out += value;
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
std::string begin_event(int64_t step) {
  std::string event;
  key(event, 1, Wire::fixed64);
  store(event, std::bit_cast<uint64_t>(now()));
  if (step != 0) {
    key(event, 2, Wire::varint);
    varint(event, static_cast<uint64_t>(step));
  }
  return event;
}

}  // namespace

uint32_t crc32c(std::string_view data) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = (t[i] >> 1) ^ ((t[i] & 1) ? 0x82f63b78U : 0U);
    }
    return t;
  }();
  uint32_t crc = ~0U;
  for (char c : data) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view data) { return std::rotr(crc32c(data), 15) + 0xa282ead8U; }

EventFile::EventFile(const std::string& folder) {
  auto seconds = static_cast<int64_t>(now());
  constexpr int largest_number = 1000;
  for (int number = 0; number < largest_number && !file_; ++number) {
    path_ = (std::filesystem::path(folder) / cat("events.out.tfevents.", seconds, ".graft.", number)).string();
    file_.reset(std::fopen(path_.c_str(), "wxe"));  // never into the file of another run
    if (!file_ && errno != EEXIST) break;
  }
  if (!file_) throw DeviceError("cannot create \"", path_, "\": ", std::generic_category().message(errno));
  std::string event = begin_event(0);
  bytes(event, 3, "brain.Event:2");
  record(event);
  flush();
}

// length u64, masked CRC of the length, data, masked CRC of the data
void EventFile::record(std::string_view event) {
  std::string frame;
  store<uint64_t>(frame, event.size());
  store(frame, masked_crc32c(frame));
  frame += event;
  store(frame, masked_crc32c(event));
  if (std::fwrite(frame.data(), 1, frame.size(), file_.get()) != frame.size()) {
    throw DeviceError("cannot write \"", path_, "\": ", std::generic_category().message(errno));
  }
}

void EventFile::scalar(std::string_view tag, double value, int64_t step) {
  // Summary { repeated Value value = 1; }  Value { string tag = 1; float simple_value = 2; }
  std::string entry;
  bytes(entry, 1, tag);
  key(entry, 2, Wire::fixed32);
  store(entry, std::bit_cast<uint32_t>(static_cast<float>(value)));
  std::string summary;
  bytes(summary, 1, entry);
  std::string event = begin_event(step);
  bytes(event, 5, summary);
  record(event);
}

void EventFile::flush() {
  if (std::fflush(file_.get()) != 0) {
    throw DeviceError("cannot write \"", path_, "\": ", std::generic_category().message(errno));
  }
}

}  // namespace graft
