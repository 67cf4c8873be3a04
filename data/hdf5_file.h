// HDF5 files, as far as packs need them: one-dimensional arrays of bytes and integers and attributes of the root group.
// Every Error is one line with the file, the array or attribute, and HDF5's own reason. Calls are serialised, because
// the library is not safe for threads in every build.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace matvlm {

// Of the arrays of a file; reading needs no telling.
enum class Hdf5Compression { none, deflate };
// Error for other names.
Hdf5Compression parse_hdf5_compression(const std::string& name);

class Hdf5File {
 public:
  // Writes to a temporary beside `path`; commit() puts it there. Without commit() nothing is left.
  static Hdf5File create(const std::string& path, Hdf5Compression compression = Hdf5Compression::none);
  // Read-only; any number of processes may open the same file.
  static Hdf5File open(const std::string& path);
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();

  const std::string& path() const;

  void write_attribute(const std::string& name, int64_t value);
  void write_attribute(const std::string& name, const std::string& value);
  // Adds to the end of an array, which is made by the first call; append nothing to make an empty one. Names may hold
  // '/': the groups are made. Little-endian in the file, in chunks of 64 KiB with a checksum each; chunks that
  // deflating would not make smaller (packed pictures) stay as they are.
  void append(const std::string& name, std::span<const uint8_t> values);
  void append(const std::string& name, std::span<const int32_t> values);
  void append(const std::string& name, std::span<const int64_t> values);
  // Flushes to the disk and renames to the final path. The object cannot be used afterwards.
  void commit();
  // As commit(), to another path on the same file system.
  void commit(const std::string& path);

  bool has_attribute(const std::string& name) const;
  int64_t int_attribute(const std::string& name) const;
  std::string string_attribute(const std::string& name) const;
  // Number of elements. Error when the array is missing or not one-dimensional.
  int64_t length(const std::string& name) const;
  // Fills `out` with the elements from `begin` on. Error when the element type differs or the range is outside.
  void read(const std::string& name, int64_t begin, std::span<uint8_t> out) const;
  void read(const std::string& name, int64_t begin, std::span<int32_t> out) const;
  void read(const std::string& name, int64_t begin, std::span<int64_t> out) const;

 private:
  struct Impl;
  explicit Hdf5File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace matvlm
