// The safetensors format: a file of named tensors behind a JSON header. The reader refuses whatever the format's
// reference reader refuses (header length, unknown dtypes, overflow, overlaps, holes, uncovered bytes, duplicate keys)
// with one line that names file, tensor, found and expected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"

namespace matvlm {

struct SafetensorsInfo {
  std::string name;
  std::string type;            // as the file writes it: "F32", "BF16", "F8_E4M3", ...
  std::optional<DType> dtype;  // none for types of the format that this program does not compute with
  std::vector<int64_t> shape;
  int64_t numel = 1;
  int64_t begin = 0;  // bytes, from the end of the header
  int64_t end = 0;
};

// One mapped and validated file. Spans returned by it live as long as it.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::vector<std::string> names() const;  // in the header's order
  const std::vector<SafetensorsInfo>& infos() const { return infos_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return positions_.contains(name); }
  const SafetensorsInfo& info(const std::string& name) const;  // Error when absent
  std::span<const std::byte> bytes(const std::string& name) const;

 private:
  MappedFile file_;
  int64_t data_begin_ = 0;
  std::vector<SafetensorsInfo> infos_;
  std::map<std::string, size_t> positions_;
  std::map<std::string, std::string> metadata_;
};

// The tensors of a checkpoint, whatever its files: one file, a folder with `model.safetensors`, a sharded folder with
// `model.safetensors.index.json`, or a list of files.
class TensorSource {
 public:
  // `path`: a .safetensors file, an .index.json file, or a folder. Error for missing shards, names of the index that
  // their shard lacks, names of a shard that the index lacks.
  static TensorSource open(const std::string& path);
  // Error when two files hold the same name.
  static TensorSource from_files(const std::vector<std::string>& paths);

  const std::string& path() const { return path_; }  // as given, for messages
  std::vector<std::string> names() const;            // sorted
  bool has(const std::string& name) const { return place_.contains(name); }
  const SafetensorsInfo& info(const std::string& name) const;  // Error when absent
  std::span<const std::byte> bytes(const std::string& name) const;
  const std::string& file_of(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const;  // of the first file

  // Values of an F32, BF16, F16 or F64 tensor as float; Error for other types, or when `out` has another size.
  void read_floats(const std::string& name, std::span<float> out) const;
  std::vector<float> read_floats(const std::string& name) const;
  // Values of a tensor whose dtype is exactly T's, or an Error.
  template <class T>
  std::vector<T> read(const std::string& name) const {
    std::vector<T> values(static_cast<size_t>(info(name).numel));
    read_exact(name, kDType<T>, std::as_writable_bytes(std::span<T>(values)));
    return values;
  }

 private:
  void read_exact(const std::string& name, DType dtype, std::span<std::byte> out) const;
  const SafetensorsFile& file_with(const std::string& name) const;

  std::string path_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, size_t> place_;  // name -> index of its file
};

// Elements of `dtype` (f32, bf16, f16, f64) in `bytes`, of any alignment, as float. Error for other dtypes or sizes;
// `what` heads the message.
void convert_to_floats(const std::string& what, DType dtype, std::span<const std::byte> bytes, std::span<float> out);

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

// Writes a file in one pass: the header comes first, from the declared tensors, then the data in file order. The file
// appears under its name with commit() only (see AtomicFile).
class SafetensorsWriter {
 public:
  // Error for duplicate or reserved names, negative sizes, overflow.
  SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // File order: wide dtypes before narrow ones, so that every tensor is aligned; otherwise as declared. Data must be
  // appended in this order.
  const std::vector<TensorSpec>& order() const { return tensors_; }

  // The next bytes of tensor `name`; one call or several for one tensor.
  void append(const std::string& name, std::span<const std::byte> bytes);
  // Values converted to the declared dtype: f32, bf16 (rounded to nearest even) or f64.
  void append_floats(const std::string& name, std::span<const float> values);
  template <class T>
  void append_values(const std::string& name, std::span<const T> values) {
    check_dtype(name, kDType<T>);
    append(name, std::as_bytes(values));
  }
  void commit();  // Error when a tensor is incomplete

 private:
  void check_dtype(const std::string& name, DType dtype) const;
  void skip_complete();

  AtomicFile file_;
  std::string path_;
  std::vector<TensorSpec> tensors_;
  size_t current_ = 0;
  int64_t remaining_ = 0;  // bytes of the current tensor
};

}  // namespace matvlm
