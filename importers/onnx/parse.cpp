#include "importers/onnx/parse.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <sys/stat.h>

#include <cerrno>
#include <limits>
#include <system_error>

#include "graph/schema.h"
#include "runtime/descriptor.h"

namespace graft {
namespace {

// A node in a body costs three levels of messages. Deeper files would cost stack in every walk over them.
constexpr int deepest_message = 400;

std::string quoted(const std::filesystem::path& path) { return '[' + path.string() + ']'; }

}  // namespace

onnx::ModelProto parse_model(const std::filesystem::path& path) {
  std::string where = quoted(path);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    const int error = errno;
    throw ModelError(where, " cannot be read: ", std::generic_category().message(error),
                     ": allowed is an ONNX model file");
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw ModelError(where, " is no regular file: allowed is an ONNX model file");
  }
  if (status.st_size == 0) throw ModelError(where, " is empty: allowed is an ONNX model file");
  if (status.st_size > std::numeric_limits<int>::max()) {
    throw ModelError(where, " has ", status.st_size,
                     " bytes: allowed are 2147483647, larger weights go into external data");
  }
  onnx::ModelProto model;
  google::protobuf::io::FileInputStream stream(file.get());
  google::protobuf::io::CodedInputStream coded(&stream);
  coded.SetRecursionLimit(deepest_message);
  bool parsed = model.ParseFromCodedStream(&coded) && coded.ConsumedEntireMessage();
  if (stream.GetErrno())
    throw DeviceError(where, " cannot be read: ", std::generic_category().message(stream.GetErrno()));
  if (!parsed) {
    throw ModelError(where, " is no ONNX model: its ", status.st_size,
                     " bytes are truncated, garbage or nested deeper than ", deepest_message, " messages");
  }
  if (!model.has_ir_version() && !model.has_graph() && model.opset_import_size() == 0) {
    throw ModelError(where, " is no ONNX model: it has no IR version, no opset and no graph");
  }
  if (!model.has_graph()) throw ModelError(where, " has no graph");
  if (!model.opset_import_size())
    throw ModelError(where, " imports no opset: allowed are ", oldest_opset, " to ", internal_opset);
  return model;
}

}  // namespace graft
