#include "tests/support/reference.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/support/paths.h"
#include "tests/support/text_graph.h"

extern char** environ;

namespace graft::test {
namespace {

// A child process behind two pipes; it ends when they close.
class Process {
 public:
  Process() {
    std::signal(SIGPIPE, SIG_IGN);
    int request[2], answer[2];
    if (pipe2(request, O_CLOEXEC) != 0 || pipe2(answer, O_CLOEXEC) != 0)
      throw DeviceError("no pipe to the reference process");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, request[0], 0);
    posix_spawn_file_actions_adddup2(&actions, answer[1], 1);
    std::string python = test::python();
    std::string script = test::source_dir() + "/tests/support/reference.py";
    char* arguments[] = {python.data(), script.data(), nullptr};
    int failed = posix_spawn(&child_, python.c_str(), &actions, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(request[0]);
    close(answer[1]);
    to_ = request[1];
    from_ = answer[0];
    if (failed) throw DeviceError("cannot start ", python, ": run scripts/setup");
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    close(to_);
    close(from_);
    waitpid(child_, nullptr, 0);
  }

  void write_number(uint64_t value) { write_bytes(&value, sizeof value); }
  void write_blob(const std::string& blob) {
    write_number(blob.size());
    write_bytes(blob.data(), blob.size());
  }
  uint64_t read_number() {
    uint64_t value = 0;
    read_bytes(&value, sizeof value);
    return value;
  }
  std::string read_blob() {
    std::string blob(read_number(), '\0');
    read_bytes(blob.data(), blob.size());
    return blob;
  }

 private:
  void write_bytes(const void* data, size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    while (size > 0) {
      ssize_t n = write(to_, bytes, size);
      if (n <= 0) throw DeviceError("the reference process has ended");
      bytes += n;
      size -= static_cast<size_t>(n);
    }
  }
  void read_bytes(void* data, size_t size) {
    auto* bytes = static_cast<char*>(data);
    while (size > 0) {
      ssize_t n = read(from_, bytes, size);
      if (n <= 0) throw DeviceError("the reference process has ended");
      bytes += n;
      size -= static_cast<size_t>(n);
    }
  }

  pid_t child_ = 0;
  int to_ = -1;
  int from_ = -1;
};

}  // namespace

std::vector<Tensor> reference_outputs(const std::string& model, const std::map<std::string, Tensor>& inputs,
                                      Oracle oracle) {
  static Process process;
  process.write_number(oracle == Oracle::onnxruntime ? 1 : 0);
  process.write_blob(model);
  process.write_number(inputs.size());
  for (const auto& [name, tensor] : inputs) process.write_blob(tensor_to_bytes(tensor, name));
  uint64_t status = process.read_number();
  std::vector<std::string> blobs(process.read_number());
  for (auto& blob : blobs) blob = process.read_blob();
  if (status != 0) throw UsageError(blobs.at(0));
  std::vector<Tensor> outputs;
  for (const auto& blob : blobs) outputs.push_back(tensor_from_bytes(blob));
  return outputs;
}

}  // namespace graft::test
