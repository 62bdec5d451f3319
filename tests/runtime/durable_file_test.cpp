#include "runtime/durable_file.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <csignal>
#include <filesystem>

#include "graph/error.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

size_t files_in(const std::string& folder) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

TEST(DurableFile, appears_on_commit_only) {
  TemporaryFolder folder;
  std::string path = folder.write("a.txt", "old");
  {
    DurableFile file(path);
    file.write("new");
    file.write(std::string(3 << 20, 'x'));
    EXPECT_EQ(read_text(path), "old");
    EXPECT_EQ(file.size(), 3 + (3 << 20));
    file.commit();
    EXPECT_THROW(file.write("more"), UsageError);
  }
  EXPECT_EQ(read_text(path), "new" + std::string(3 << 20, 'x'));
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(DurableFile, leaves_nothing_behind_when_dropped) {
  TemporaryFolder folder;
  std::string path = folder.write("a.txt", "old");
  {
    DurableFile file(path);
    file.write("half of it");
  }
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(DurableFile, a_disk_without_room_is_a_device_error) {
  TemporaryFolder folder;
  std::string path = folder.write("a.txt", "old");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small{1 << 16, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(write_durable_file(path, std::string(1 << 17, 'x')), DeviceError);
  EXPECT_THROW(write_durable_file(path, std::string(1 << 22, 'x')), DeviceError);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(DurableFile, refuses_what_is_no_file) {
  TemporaryFolder folder;
  EXPECT_THROW(DurableFile("/dev/null"), UsageError);
  EXPECT_THROW(DurableFile(folder.path()), UsageError);
  EXPECT_THROW(DurableFile(""), UsageError);
  EXPECT_THROW(DurableFile(folder.path() + "/no/such/folder.txt"), DeviceError);
}

TEST(DurableFile, follows_a_symbolic_link) {
  TemporaryFolder folder;
  std::string target = folder.write("target.txt", "old");
  std::filesystem::create_symlink(target, folder / "link.txt");
  write_durable_file(folder / "link.txt", "new");
  EXPECT_EQ(read_text(target), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link.txt"));
}

}  // namespace
}  // namespace graft
