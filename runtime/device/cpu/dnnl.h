// Between our values and oneDNN's. Included by CPU kernels only.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include "graph/graph.h"
#include "runtime/device/device.h"

namespace graft {

// For what wants an engine while it is made: descriptors, memory objects, streams. Each call counts as one of them, see
// descriptor_count.
const dnnl::engine& cpu_engine();
// Counts one that was made without the engine.
void count_descriptor();

class CpuStream : public Stream {
 public:
  void synchronize() override { stream_.wait(); }
  dnnl::stream& dnnl() { return stream_; }

 private:
  dnnl::stream stream_{cpu_engine()};
};

inline dnnl::stream& dnnl_stream(Stream& stream) { return static_cast<CpuStream&>(stream).dnnl(); }

dnnl::memory::data_type dnnl_dtype(DType dtype);
// The descriptor of a tensor that lies as `layout` says. Scalars become shape (1).
// UnsupportedError for layouts that oneDNN has no name for, and for sides that it does not count.
dnnl::memory::desc dnnl_desc(DType dtype, const Dims& dims, const Layout& layout);
inline dnnl::memory::desc dnnl_desc(const Value& value) { return dnnl_desc(value.dtype, value.dims, value.layout); }
// Whether oneDNN's 32 bits hold each extent: it divides by zero, or does not end, on what is left of others.
bool dnnl_counts(const Dims& dims);
// The dims where they do, else UnsupportedError.
Dims dnnl_dims(const Dims& dims);
// The same with the layout left to the primitive.
dnnl::memory::desc dnnl_any(DType dtype, const Dims& dims);
// The layout that a primitive chose. UnsupportedError for formats that are no blocked layout.
Layout layout_of(const dnnl::memory::desc& desc);

// A memory object on a fixed address.
inline dnnl::memory dnnl_memory(const dnnl::memory::desc& desc, const void* address) {
  return {desc, cpu_engine(), const_cast<void*>(address)};
}

// A primitive with every operand bound: run only executes. Copies share the primitive.
class BoundPrimitive {
 public:
  using Operands = std::vector<std::pair<int, dnnl::memory>>;  // DNNL_ARG_..., memory

  BoundPrimitive(const dnnl::primitive_desc_base& descriptor, const Operands& operands);
  void operator()(Stream& stream) const;

 private:
  dnnl::primitive primitive_;
  std::vector<dnnl::memory> memories_;  // keep the handles in `arguments_` alive
  std::vector<dnnl_exec_arg_t> arguments_;
};

// Primitives work in scratch memory that the arena gives them.
dnnl::primitive_attr scratch_attributes();

// Calls f, which makes oneDNN descriptors for `node`; oneDNN's errors become ours.
template <class F>
auto with_dnnl_errors(const Node& node, F&& f) {
  try {
    return f();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw DeviceError(node.where(), " oneDNN: ", error.what());
    throw UnsupportedError(node.where(), " oneDNN: ", error.what());
  }
}

}  // namespace graft
