// Numbers of the zip format; all are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace graft {

inline constexpr uint32_t local_signature = 0x04034b50;
inline constexpr uint32_t entry_signature = 0x02014b50;
inline constexpr uint32_t end_signature = 0x06054b50;
inline constexpr uint32_t end64_signature = 0x06064b50;
inline constexpr uint32_t locator64_signature = 0x07064b50;
inline constexpr int64_t local_bytes = 30;
inline constexpr int64_t entry_bytes = 46;
inline constexpr int64_t end_bytes = 22;
inline constexpr int64_t end64_bytes = 56;
inline constexpr int64_t locator64_bytes = 20;
inline constexpr uint16_t extra64 = 1;
inline constexpr uint32_t full32 = 0xffffffff;
inline constexpr uint16_t full16 = 0xffff;

template <class T>
T load_little(const uint8_t* bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(bytes[i]) << (8 * i)));
  return value;
}

template <class T>
void store_little(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

}  // namespace graft
