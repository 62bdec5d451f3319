// TensorBoard event files: scalars only, records framed as TFRecord has it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace graft {

class EventFile {
 public:
  // Makes a new events.out.tfevents.* file in `folder`, which exists.
  explicit EventFile(const std::string& folder);
  const std::string& path() const { return path_; }
  // DeviceError when it cannot be written.
  void scalar(std::string_view tag, double value, int64_t step);
  void flush();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void record(std::string_view event);
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// CRC-32C, and the masked form that frames carry.
uint32_t crc32c(std::string_view data);
uint32_t masked_crc32c(std::string_view data);

}  // namespace graft
