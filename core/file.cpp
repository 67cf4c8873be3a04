// Files over POSIX calls. Writes handle short writes and EINTR; what must survive a crash is flushed with fsync, the
// folder included, because a rename is only on the disk once its folder is.
#include "core/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryMark = ".tmp-";

std::string reason(int error) { return std::generic_category().message(error); }

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

struct stat status_of_regular_file(int descriptor, const std::string& path) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail(path, ": cannot stat: ", reason(errno));
  if (S_ISDIR(status.st_mode)) fail(path, ": found a directory, expected a file");
  return status;
}

std::string folder_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// Unique in the folder among live processes and threads: process id and a counter; leftovers of a dead process with the
// same id are excluded by O_EXCL and mkdir, which fail on them, and the counter moves on.
std::string temporary_name(const std::string& path) {
  static std::atomic<int64_t> counter{0};
  std::string base = path;
  while (base.size() > 1 && base.back() == '/') base.pop_back();
  return cat(base, kTemporaryMark, ::getpid(), "-", counter.fetch_add(1));
}

void fsync_path(const std::string& path, bool is_folder) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | (is_folder ? O_DIRECTORY : 0)));
  if (descriptor.get() < 0) fail(path, ": cannot open to flush: ", reason(errno));
  // Some network and user-space file systems have no fsync of folders and say EINVAL.
  if (::fsync(descriptor.get()) != 0 && !(is_folder && errno == EINVAL)) {
    fail(path, ": cannot flush to the disk: ", reason(errno));
  }
}

void fsync_tree(const std::string& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory()) {
      fsync_tree(entry.path().string());
    } else if (entry.is_regular_file()) {
      fsync_path(entry.path().string(), false);
    }
  }
  fsync_path(folder, true);
}

void rename_path(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(to, ": cannot rename ", from, " to it: ", reason(errno));
}

// After it `to` is what `from` was, and what `to` was lies under the name `from`. Atomic where the file system can
// exchange two names; elsewhere there is a moment in which `to` is absent.
void exchange_directories(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail(to, ": cannot exchange it with ", from, ": ", reason(errno));
  const std::string old = temporary_name(to);
  rename_path(to, old);
  rename_path(from, to);
  rename_path(old, from);
}

}  // namespace

std::string read_file(const std::string& path) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (descriptor.get() < 0) fail(path, ": cannot open: ", reason(errno));
  const struct stat status = status_of_regular_file(descriptor.get(), path);
  // Files of /proc and pipes say size 0, so the size is only a first guess.
  std::string text(std::max<size_t>(static_cast<size_t>(status.st_size) + 1, 4096), '\0');
  size_t used = 0;
  while (true) {
    const ssize_t got = ::read(descriptor.get(), text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, ": cannot read: ", reason(errno));
    if (got == 0) break;
    used += static_cast<size_t>(got);
    if (used == text.size()) text.resize(2 * text.size());
  }
  text.resize(used);
  return text;
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (descriptor.get() < 0) fail(path, ": cannot open: ", reason(errno));
  size_ = status_of_regular_file(descriptor.get(), path).st_size;
  if (size_ == 0) return;  // mmap of nothing is an error
  void* address = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_SHARED, descriptor.get(), 0);
  if (address == MAP_FAILED) fail(path, ": cannot map ", size_, " bytes: ", reason(errno));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() { unmap(); }

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void MappedFile::unmap() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
  data_ = nullptr;
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  do {
    temporary_ = temporary_name(path);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) fail(path, ": cannot create ", temporary_, ": ", reason(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::fail_and_remove(const char* what) {
  const int error = errno;
  ::close(std::exchange(descriptor_, -1));
  ::unlink(temporary_.c_str());
  fail(path_, ": ", what, " after ", written_, " bytes: ", reason(error), "; the file was left as it was before");
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  check(descriptor_ >= 0, path_, ": append after commit or after an error");
  while (!bytes.empty()) {
    // The kernel takes at most 2 GiB at a time anyway.
    const ssize_t done = ::write(descriptor_, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_and_remove("cannot write");
    written_ += done;
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::commit() {
  check(descriptor_ >= 0, path_, ": commit twice or after an error");
  if (::fsync(descriptor_) != 0) fail_and_remove("cannot flush to the disk");
  // Network file systems report a full disk only when the file is closed.
  if (::close(std::exchange(descriptor_, -1)) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail(path_, ": cannot move ", temporary_, " to it: ", reason(error));
  }
  fsync_path(folder_of(path_), true);
}

void write_file_atomic(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.append(text);
  file.commit();
}

AtomicDirectory::AtomicDirectory(const std::string& final_path) : final_path_(final_path) {
  while (final_path_.size() > 1 && final_path_.back() == '/') final_path_.pop_back();
  int made = -1;
  do {
    temporary_ = temporary_name(final_path_);
    made = ::mkdir(temporary_.c_str(), 0777);
  } while (made != 0 && errno == EEXIST);
  if (made != 0) {
    const int error = errno;
    fail(final_path_, ": cannot create the folder ", std::exchange(temporary_, ""), ": ", reason(error));
  }
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  check(!temporary_.empty(), final_path_, ": commit twice");
  fsync_tree(temporary_);
  struct stat status {};
  const bool exists = ::lstat(final_path_.c_str(), &status) == 0;
  check(!exists || S_ISDIR(status.st_mode), final_path_, ": found a file, expected a directory or nothing");
  if (exists) {
    exchange_directories(temporary_, final_path_);
  } else {
    rename_path(temporary_, final_path_);
  }
  fsync_path(folder_of(final_path_), true);
  const std::string old = std::exchange(temporary_, "");
  std::error_code ignored;  // the new directory is in place; a remainder of the old one is a stale temporary
  if (exists) fs::remove_all(old, ignored);
}

std::vector<std::string> remove_stale_temporaries(const std::string& folder) {
  std::vector<std::string> removed;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const size_t mark = name.rfind(kTemporaryMark);
    if (mark == std::string::npos || mark == 0) continue;
    const std::string rest = name.substr(mark + kTemporaryMark.size());
    const bool ours = !rest.empty() && rest.find_first_not_of("0123456789-") == std::string::npos;
    if (ours) removed.push_back(entry.path().string());
  }
  check(!error, folder, ": cannot list the folder: ", error.message());
  for (const std::string& path : removed) {
    fs::remove_all(path, error);
    check(!error, path, ": cannot remove this left-over: ", error.message());
  }
  std::sort(removed.begin(), removed.end());
  return removed;
}

bool is_inside(const std::string& folder, const std::string& path) {
  std::error_code error;
  const fs::path outer = fs::weakly_canonical(fs::absolute(folder), error);
  check(!error, folder, ": cannot resolve the path: ", error.message());
  const fs::path inner = fs::weakly_canonical(fs::absolute(path), error);
  check(!error, path, ": cannot resolve the path: ", error.message());
  const fs::path relative = inner.lexically_relative(outer);
  return !relative.empty() && *relative.begin() != "..";
}

FileLock::FileLock(const std::string& path, const std::string& purpose) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(path, ": cannot open the lock file: ", reason(errno));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(std::exchange(descriptor_, -1));
    if (error != EWOULDBLOCK) fail(path, ": cannot lock: ", reason(error));
    std::string holder = read_file(path);
    holder = holder.substr(0, holder.find('\n'));
    fail(path, ": found ", purpose, " (", holder.empty() ? "holder unknown" : holder, "), expected none");
  }
  char host[256] = "unknown host";
  ::gethostname(host, sizeof(host) - 1);
  const std::string text = cat("host ", host, " process ", ::getpid(), "\n");
  // Only the message of another run depends on it, so a failed write is no reason to stop.
  if (::ftruncate(descriptor_, 0) != 0 || ::pwrite(descriptor_, text.data(), text.size(), 0) < 0) return;
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace matvlm
