// Between our values and oneDNN's. Included by CPU kernels only.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include "graph/graph.h"
#include "runtime/device/device.h"

namespace graft {

const dnnl::engine& cpu_engine();

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
dnnl::memory::desc dnnl_desc(DType dtype, const Dims& dims, const Layout& layout);
inline dnnl::memory::desc dnnl_desc(const Value& value) { return dnnl_desc(value.dtype, value.dims, value.layout); }
// The same with the layout left to the primitive.
dnnl::memory::desc dnnl_any(DType dtype, const Dims& dims);
// The layout that a primitive chose. UnsupportedError for formats that are no blocked layout.
Layout layout_of(const dnnl::memory::desc& desc);

// A memory object on a fixed address.
inline dnnl::memory dnnl_memory(const dnnl::memory::desc& desc, const void* address) {
  return {desc, cpu_engine(), const_cast<void*>(address)};
}

}  // namespace graft
