// Files: reads, mappings, atomic writes (also when the disk is full, by a limit on the file size), directories, locks,
// and paths that try to leave their folder.
#include "core/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::contains;
using testing::error_of;

namespace fs = std::filesystem;

std::vector<std::string> list(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Files of this process may not grow beyond `bytes` while it lives: writes then fail half-way, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

TEST(File, ReadsAndMapsTheSameBytes) {
  const testing::TempDir folder;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{300000}}) {
    std::string text(size, '\0');
    for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31 + (i >> 8));
    write_file_atomic(folder.file("f"), text);
    EXPECT_EQ(read_file(folder.file("f")), text);
    const MappedFile mapped(folder.file("f"));
    ASSERT_EQ(mapped.size(), static_cast<int64_t>(size));
    EXPECT_TRUE(std::equal(text.begin(), text.end(), reinterpret_cast<const char*>(mapped.bytes().data())));
  }
  EXPECT_EQ(list(folder.path()), std::vector<std::string>{"f"});
}

TEST(File, ReadsFilesWithoutASize) { EXPECT_TRUE(contains(read_file("/proc/self/status"), "Pid:")); }

TEST(File, MappingSurvivesReplacementAndMoves) {
  const testing::TempDir folder;
  write_file_atomic(folder.file("f"), "old");
  MappedFile first(folder.file("f"));
  write_file_atomic(folder.file("f"), "newer");
  MappedFile second(std::move(first));
  EXPECT_EQ(static_cast<char>(second.bytes()[0]), 'o');
  second = MappedFile(folder.file("f"));
  EXPECT_EQ(second.size(), 5);
}

TEST(File, ErrorsNameThePathAndTheReason) {
  const testing::TempDir folder;
  const std::string none = folder.file("none");
  EXPECT_EQ(error_of([&] { read_file(none); }), none + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { MappedFile mapped(none); }), none + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(folder.path()); }), folder.path() + ": found a directory, expected a file");
  EXPECT_TRUE(contains(error_of([&] { AtomicFile file(folder.file("no/f")); }), "no/f: cannot create"));
}

TEST(File, AnUncommittedFileLeavesNothing) {
  const testing::TempDir folder;
  write_file_atomic(folder.file("f"), "old");
  {
    AtomicFile file(folder.file("f"));
    file.append("new");
    EXPECT_EQ(list(folder.path()).size(), 2U);
  }
  EXPECT_EQ(read_file(folder.file("f")), "old");
  EXPECT_EQ(list(folder.path()), std::vector<std::string>{"f"});
}

TEST(File, AFullDiskLeavesTheOldFile) {
  const testing::TempDir folder;
  write_file_atomic(folder.file("f"), "old");
  std::string message;
  {
    const FileSizeLimit limit(10000);
    message = error_of([&] {
      AtomicFile file(folder.file("f"));
      file.append(std::string(6000, 'a'));
      file.append(std::string(6000, 'b'));  // the first 4000 of them fit: a short write
      file.commit();
    });
  }
  EXPECT_EQ(message,
            folder.file("f") + ": cannot write after 10000 bytes: File too large; the file was left as it was before");
  EXPECT_EQ(read_file(folder.file("f")), "old");
  EXPECT_EQ(list(folder.path()), std::vector<std::string>{"f"});
}

TEST(File, DirectoriesAppearWholeAndReplaceOldOnes) {
  const testing::TempDir folder;
  const std::string final_path = folder.file("checkpoint");
  {
    AtomicDirectory directory(final_path + "/");
    fs::create_directory(directory.file("sub"));
    write_file_atomic(directory.file("sub/a"), "1");
    EXPECT_FALSE(fs::exists(final_path));
    directory.commit();
  }
  EXPECT_EQ(read_file(final_path + "/sub/a"), "1");
  {
    AtomicDirectory directory(final_path);
    write_file_atomic(directory.file("b"), "2");
    directory.commit();
  }
  EXPECT_EQ(list(final_path), std::vector<std::string>{"b"});
  {
    const AtomicDirectory directory(final_path);
    write_file_atomic(directory.file("c"), "3");
  }
  EXPECT_EQ(list(final_path), std::vector<std::string>{"b"});
  EXPECT_EQ(list(folder.path()), std::vector<std::string>{"checkpoint"});
}

TEST(File, ADirectoryDoesNotReplaceAFile) {
  const testing::TempDir folder;
  write_file_atomic(folder.file("f"), "text");
  EXPECT_EQ(error_of([&] { AtomicDirectory(folder.file("f")).commit(); }),
            folder.file("f") + ": found a file, expected a directory or nothing");
  EXPECT_EQ(list(folder.path()), std::vector<std::string>{"f"});
}

TEST(File, StaleTemporariesOfAKilledProcessAreRemoved) {
  const testing::TempDir folder;
  const pid_t child = fork();
  if (child == 0) {
    AtomicDirectory directory(folder.file("checkpoint"));
    write_file_atomic(directory.file("a"), "1");
    AtomicFile file(folder.file("config.yaml"));
    file.append("half");
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  write_file_atomic(folder.file("notes.tmp-old"), "a user's file");
  ASSERT_EQ(list(folder.path()).size(), 3U);
  EXPECT_EQ(remove_stale_temporaries(folder.path()).size(), 2U);
  EXPECT_EQ(list(folder.path()), std::vector<std::string>{"notes.tmp-old"});
  EXPECT_TRUE(contains(error_of([&] { remove_stale_temporaries(folder.file("none")); }), "cannot list the folder"));
}

TEST(File, PathsThatLeaveTheirFolderAreSeen) {
  const testing::TempDir folder;
  const std::string images = folder.file("images");
  fs::create_directories(images + "/sub");
  fs::create_directory(folder.file("images-2"));
  write_file_atomic(folder.file("secret.png"), "x");
  fs::create_symlink(folder.file("secret.png"), images + "/link.png");
  fs::create_symlink(images + "/sub", images + "/inner");
  fs::create_symlink(folder.path(), images + "/up");
  EXPECT_TRUE(is_inside(images, images + "/a.png"));
  EXPECT_TRUE(is_inside(images, images + "/sub/../a.png"));
  EXPECT_TRUE(is_inside(images + "/", images + "/inner/none/a.png"));
  EXPECT_TRUE(is_inside(images, images));
  EXPECT_FALSE(is_inside(images, images + "/../secret.png"));
  EXPECT_FALSE(is_inside(images, images + "/sub/../../secret.png"));
  EXPECT_FALSE(is_inside(images, images + "/link.png"));
  EXPECT_FALSE(is_inside(images, images + "/up/secret.png"));
  EXPECT_FALSE(is_inside(images, folder.file("images-2/a.png")));
  EXPECT_FALSE(is_inside(images, "/etc/passwd"));
  EXPECT_FALSE(is_inside(images, folder.path()));
}

TEST(File, ALockExcludesASecondOneUntilItsHolderEnds) {
  const testing::TempDir folder;
  const std::string path = folder.file("lock");
  {
    const FileLock lock(path, "another run in this directory");
    const std::string message = error_of([&] { FileLock second(path, "another run in this directory"); });
    EXPECT_TRUE(message.starts_with(path + ": found another run in this directory (host ")) << message;
    EXPECT_TRUE(contains(message, cat(" process ", getpid(), "), expected none"))) << message;
  }
  const FileLock again(path, "another run in this directory");
  EXPECT_EQ(error_of([&] { FileLock bad(folder.file("no/lock"), "x"); }),
            folder.file("no/lock") + ": cannot open the lock file: No such file or directory");
}

TEST(File, AKilledHolderReleasesItsLock) {
  const testing::TempDir folder;
  const std::string path = folder.file("lock");
  const pid_t child = fork();
  if (child == 0) {
    const FileLock lock(path, "another run");
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(error_of([&] { FileLock lock(path, "another run"); }), "no error");
}

}  // namespace
}  // namespace matvlm
