// Files: whole-file reads, read-only mappings, atomic writes of files and directories (temporary in the same folder,
// fsync, rename), a lock file, and the check that a path stays in its folder. Every Error names the path and the
// system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace matvlm {

std::string read_file(const std::string& path);

// The whole file, read-only, for the life of the object. The file must not be shortened meanwhile (reading past a new
// end is SIGBUS); files replaced by rename, as all of ours are, stay valid. An empty file has an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }

 private:
  void unmap();

  std::string path_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// A file that appears under `path` complete or not at all. append() writes to a temporary in the same folder; commit()
// flushes it to the disk and renames it over `path`. Without commit(), or after an error (disk full, say), the
// temporary is removed and an older file under `path` stays as it was.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span<const char>(text.data(), text.size()))); }
  int64_t written() const { return written_; }
  void commit();

 private:
  [[noreturn]] void fail_and_remove(const char* what);

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  int64_t written_ = 0;
};

void write_file_atomic(const std::string& path, std::string_view text);

// A directory that appears under `final_path` complete or not at all: write files under path(), then commit(), which
// flushes every file and folder in it and renames it. A directory that is already there is replaced. Without commit()
// the destructor removes what was written.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(const std::string& final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::string& path() const { return temporary_; }
  std::string file(const std::string& name) const { return temporary_ + "/" + name; }
  void commit();

 private:
  std::string final_path_;
  std::string temporary_;
};

// Removes what killed programs left in `folder`: entries named `*.tmp-*` as the classes above make them. Returns the
// removed paths, sorted. Call it only while holding the folder's FileLock: a temporary of a live program looks the
// same.
std::vector<std::string> remove_stale_temporaries(const std::string& folder);

// Whether `path` lies in `folder` (or is it), with `..` and every symbolic link that exists resolved on both sides.
// A relative `path` is taken relative to the current directory, not to `folder`.
bool is_inside(const std::string& folder, const std::string& path);

// Exclusive lock on a file, held until destruction or the end of the process, however it ends. Error when another
// open lock holds it; `purpose` ("another run in this directory") and the holder's host and process id are in the
// message.
class FileLock {
 public:
  FileLock(const std::string& path, const std::string& purpose);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace matvlm
