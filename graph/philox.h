// Counter-based random numbers: Philox 4x32 with ten rounds. The same key and counter give the same numbers everywhere.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace graft {

// The 64-bit hash of Fowler, Noll and Vo, form 1a: the same in every build.
inline uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

class Philox {
 public:
  explicit Philox(uint64_t key) : key_(key) {}
  // A key for one named tensor (FNV-1a of the name, mixed with the seed).
  Philox(uint64_t seed, std::string_view name) : key_((seed * 0x9e3779b97f4a7c15ULL) ^ fnv1a(name)) {}

  std::array<uint32_t, 4> operator()(uint64_t counter, uint64_t stream = 0) const {
    std::array<uint32_t, 4> x{low(counter), high(counter), low(stream), high(stream)};
    uint32_t k0 = low(key_), k1 = high(key_);
    for (int round = 0; round < 10; ++round) {
      uint64_t a = uint64_t{0xd2511f53} * x[0];
      uint64_t b = uint64_t{0xcd9e8d57} * x[2];
      x = {high(b) ^ x[1] ^ k0, low(b), high(a) ^ x[3] ^ k1, low(a)};
      k0 += 0x9e3779b9;
      k1 += 0xbb67ae85;
    }
    return x;
  }

  // Uniform in [0, 1), 24 bits, for the element `index` of a tensor.
  float uniform(uint64_t index) const {
    return static_cast<float>((*this)(index / 4)[index % 4] >> 8) * (1.0F / 16777216.0F);
  }

 private:
  static uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
  static uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }
  uint64_t key_;
};

}  // namespace graft
