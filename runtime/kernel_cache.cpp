#include "runtime/kernel_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "graph/error.h"
#include "graph/philox.h"
#include "graph/version.h"
#include "runtime/descriptor.h"
#include "runtime/device/cpu/system.h"
#include "runtime/device/device.h"
#include "runtime/durable_file.h"

namespace graft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Cases = std::map<std::string, ChosenKernel>;

constexpr int64_t format = 1;
constexpr size_t most_bytes = size_t{16} << 20, most_cases = 20000, longest_case = 2000, longest_name = 64,
                 most_kernels = 16;
constexpr double micro = 1e-6;

// Which a file of another machine with the same name would not have; the same in every build.
uint64_t hash_of(const std::map<std::string, std::string>& environment) {
  std::string text;
  for (const auto& [key, value] : environment) text += cat(key, '=', value, '\n');
  return fnv1a(text);
}

std::string environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// nullopt where there is no such file. DataError for what is none of ours.
std::optional<std::string> read_small_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));  // a pipe must not hold up the run
  if (!file.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    throw DataError(std::generic_category().message(errno));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) throw DataError("it is no regular file");
  if (static_cast<uint64_t>(status.st_size) > most_bytes) throw DataError("it has more than ", most_bytes, " bytes");
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw DataError("it cannot be read");
    done += static_cast<size_t>(got);
  }
  return text;
}

[[noreturn]] void damaged(const char* what) { throw DataError("it is damaged: ", what); }

std::string text_of(const Json& object, const char* key, size_t longest) {
  auto found = object.find(key);
  if (found == object.end() || !found->is_string()) damaged("a text is missing");
  const auto& text = found->get_ref<const std::string&>();
  if (text.empty() || text.size() > longest) damaged("a text is too long");
  return text;
}

std::pair<std::string, ChosenKernel> case_of(const Json& entry) {
  if (!entry.is_object()) damaged("a case is no object");
  std::string name = text_of(entry, "case", longest_case);
  if (!KernelCache::takes(name)) damaged("the name of a case");
  ChosenKernel chosen{text_of(entry, "kernel", longest_name), {}};
  auto times = entry.find("microseconds");
  if (times == entry.end() || !times->is_object() || times->size() > most_kernels) damaged("the times of a case");
  for (const auto& [kernel, time] : times->items()) {
    if (!time.is_number() || kernel.size() > longest_name) damaged("a time");
    const double seconds = time.get<double>() * micro;
    if (!std::isfinite(seconds) || seconds <= 0) damaged("a time");
    chosen.seconds[kernel] = seconds;
  }
  if (!chosen.seconds.contains(chosen.kernel)) damaged("a kernel without a time");
  return {std::move(name), std::move(chosen)};
}

Cases cases_of(const std::string& text, const std::map<std::string, std::string>& environment) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) damaged("it is no JSON");
  if (!json.is_object()) damaged("it is no object");
  auto version = json.find("format");
  if (version == json.end() || *version != format) throw DataError("it is of another format");
  auto machine = json.find("machine");
  if (machine == json.end() || *machine != Json(environment)) throw DataError("it is another machine's or version's");
  auto entries = json.find("cases");
  if (entries == json.end() || !entries->is_array() || entries->size() > most_cases) damaged("its cases");
  Cases cases;
  for (const Json& entry : *entries) cases.insert(case_of(entry));
  return cases;
}

bool same_kernels(const ChosenKernel& a, const ChosenKernel& b) {
  return std::equal(a.seconds.begin(), a.seconds.end(), b.seconds.begin(), b.seconds.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first; });
}

std::string text_of(const Cases& cases, const std::map<std::string, std::string>& environment) {
  Json entries = Json::array();
  for (const auto& [name, chosen] : cases) {
    Json times = Json::object();
    for (const auto& [kernel, seconds] : chosen.seconds) times[kernel] = seconds / micro;
    entries.push_back({{"case", name}, {"kernel", chosen.kernel}, {"microseconds", times}});
  }
  Json json{{"format", format}, {"machine", environment}, {"cases", entries}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace

std::map<std::string, std::string> kernel_environment() {
  std::map<std::string, std::string> environment{{"graft", version()},
                                                 {"oneDNN", dnnl_version_text()},
                                                 {"processor", processor_name()},
                                                 {"instructions", instruction_sets()},
                                                 {"threads", std::to_string(thread_count())}};
  for (auto& [key, value] : environment) {
    std::erase_if(value, [](char c) { return c < ' ' || c > '~'; });
  }
  return environment;
}

std::string default_cache_folder() {
  if (std::string cache = environment_variable("XDG_CACHE_HOME"); cache.starts_with('/')) return cache + "/graft";
  if (std::string home = environment_variable("HOME"); home.starts_with('/')) return home + "/.cache/graft";
  return "";
}

bool KernelCache::takes(const std::string& name) {
  return !name.empty() && name.size() <= longest_case &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

KernelCache::KernelCache(const std::string& folder, Warn warn)
    : environment_(kernel_environment()), warn_(std::move(warn)) {
  const std::string place = folder.empty() ? default_cache_folder() : folder;
  if (place.empty()) return;
  std::ostringstream name;
  name << "kernels-" << std::hex << hash_of(environment_) << ".json";
  file_ = (fs::path(place) / name.str()).string();
  try {
    chosen_ = read();
  } catch (const Error& error) {
    warn_(cat("the kernel choices in \"", file_, "\" are left aside and measured again: ", error.what()));
  }
}

const ChosenKernel* KernelCache::find(const std::string& name) const {
  auto found = chosen_.find(name);
  return found == chosen_.end() ? nullptr : &found->second;
}

std::map<std::string, ChosenKernel> KernelCache::read() const {
  std::optional<std::string> text = read_small_file(file_);
  return text ? cases_of(*text, environment_) : Cases{};
}

void KernelCache::add(const std::map<std::string, ChosenKernel>& measured) {
  for (const auto& [name, chosen] : measured) chosen_[name] = chosen;
  if (!writable_) return;
  try {
    write();
  } catch (const Error& error) {
    writable_ = false;
    warn_(cat(error.what(),
              "; the kernel choices hold for this run only: let XDG_CACHE_HOME name a folder that can be ", "written"));
  }
}

void KernelCache::write() {
  if (file_.empty()) throw DeviceError("neither XDG_CACHE_HOME nor HOME names a folder for the kernel choices");
  std::error_code error;
  fs::create_directories(fs::path(file_).parent_path(), error);
  if (error) throw DeviceError("cannot make the folder of \"", file_, "\": ", error.message());
  // Without the lock, where a file system has none, what another process adds at the same moment may be lost.
  const Descriptor lock(::open((file_ + ".lock").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  if (lock.valid()) ::flock(lock.get(), LOCK_EX);
  Cases there;
  try {
    there = read();
  } catch (const DataError&) {
    there.clear();  // said when it was read first, or broken since: it is replaced
  }
  for (auto& [name, chosen] : there) {
    auto [known, fresh] = chosen_.emplace(name, chosen);
    if (!fresh && same_kernels(known->second, chosen)) known->second = std::move(chosen);
  }
  if (chosen_.size() > most_cases) throw DeviceError("\"", file_, "\" would have more than ", most_cases, " cases");
  const std::string text = text_of(chosen_, environment_);
  if (text.size() > most_bytes) throw DeviceError("\"", file_, "\" would have more than ", most_bytes, " bytes");
  write_durable_file(file_, text);
}

}  // namespace graft
