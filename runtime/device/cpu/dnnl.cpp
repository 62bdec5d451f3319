#include "runtime/device/cpu/dnnl.h"

#include <hwy/targets.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include "runtime/device/cpu/system.h"

namespace graft {

using dnnl::memory;

memory::data_type dnnl_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return memory::data_type::f32;
    case DType::bf16: return memory::data_type::bf16;
    case DType::f16: return memory::data_type::f16;
    case DType::i32: return memory::data_type::s32;
    case DType::i8: return memory::data_type::s8;
    case DType::u8: return memory::data_type::u8;
    default: throw UnsupportedError("oneDNN has no element type ", dtype);
  }
}

bool has_bfloat16() {
  static const bool has = [] {
    switch (dnnl::get_effective_cpu_isa()) {
      case dnnl::cpu_isa::avx512_core_bf16:
      case dnnl::cpu_isa::avx512_core_fp16:
      case dnnl::cpu_isa::avx512_core_amx:
      case dnnl::cpu_isa::avx512_core_amx_fp16: return true;
      default: return false;
    }
  }();
  return has;
}

// Asking oneDNN for the instruction set is also what asks Linux for the tiles' state.
bool has_matrix_tiles() {
  static const bool has = [] {
    switch (dnnl::get_effective_cpu_isa()) {
      case dnnl::cpu_isa::avx512_core_amx:
      case dnnl::cpu_isa::avx512_core_amx_fp16: return true;
      default: return false;
    }
  }();
  return has;
}

std::string instruction_sets() {
  std::ostringstream out;
  out << "oneDNN " << std::hex << static_cast<int>(dnnl::get_effective_cpu_isa()) << ", Highway "
      << hwy::SupportedTargets();
  return out.str();
}

std::string dnnl_version_text() {
  const dnnl_version_t& version = *dnnl_version();
  return cat(version.major, '.', version.minor, '.', version.patch, ' ', version.hash);
}

bool dnnl_counts(const Dims& dims) {
  return std::all_of(dims.begin(), dims.end(), [](int64_t n) { return n <= std::numeric_limits<int>::max(); });
}

Dims dnnl_dims(const Dims& dims) {
  if (dnnl_counts(dims)) return dims;
  throw UnsupportedError("oneDNN has no kernels for sides of more than 2^31 - 1 elements: ", dims);
}

memory::desc dnnl_desc(DType dtype, const Dims& dims, const Layout& layout) {
  if (dims.empty()) return {{1}, dnnl_dtype(dtype), memory::dims{1}};
  if (layout.blocks.empty()) return {dnnl_dims(dims), dnnl_dtype(dtype), layout.strides};
  // oneDNN 3 builds blocked descriptors from format tags only: take the tag of these blocks whose strides agree.
  std::string blocks;
  for (const auto& block : layout.blocks) blocks += cat(block.size, static_cast<char>('a' + block.dim));
  for (int t = 1; t < static_cast<int>(dnnl_format_tag_last); ++t) {
    std::string_view tag = dnnl_fmt_tag2str(static_cast<dnnl_format_tag_t>(t));
    if (tag.size() != dims.size() + blocks.size() || !tag.ends_with(blocks)) continue;
    memory::desc desc(dnnl_dims(dims), dnnl_dtype(dtype), static_cast<memory::format_tag>(t), true);
    if (desc && layout_of(desc) == layout) return desc;
  }
  throw UnsupportedError("oneDNN has no format tag for ", layout);
}

memory::desc dnnl_any(DType dtype, const Dims& dims) {
  return {dnnl_dims(dims), dnnl_dtype(dtype), memory::format_tag::any};
}

Layout layout_of(const memory::desc& desc) {
  if (desc.get_format_kind() != memory::format_kind::blocked)
    throw UnsupportedError("oneDNN chose a format that is not blocked");
  Layout layout;
  layout.padded = desc.get_padded_dims();
  layout.strides = desc.get_strides();
  auto sizes = desc.get_inner_blks();
  auto dims = desc.get_inner_idxs();
  for (size_t i = 0; i < sizes.size(); ++i) layout.blocks.push_back({static_cast<int>(dims[i]), sizes[i]});
  return layout;
}

BoundPrimitive::BoundPrimitive(const dnnl::primitive_desc_base& descriptor, const Operands& operands) {
  count_descriptor();
  dnnl_primitive_t handle = nullptr;
  dnnl::error::wrap_c_api(dnnl_primitive_create(&handle, descriptor.get()), "could not create a primitive");
  primitive_.reset(handle);
  for (const auto& [argument, memory] : operands) {
    memories_.push_back(memory);
    arguments_.push_back({argument, memory.get()});
  }
}

void BoundPrimitive::operator()(Stream& stream) const {
  auto status = dnnl_primitive_execute(primitive_.get(), dnnl_stream(stream).get(), static_cast<int>(arguments_.size()),
                                       arguments_.data());
  if (status != dnnl_success) throw DeviceError("oneDNN could not execute a primitive: status ", status);
}

dnnl::primitive_attr scratch_attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

}  // namespace graft
