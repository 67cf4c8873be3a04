// The safetensors format: a file of named tensors behind a JSON header. The reader refuses whatever the format's
// reference reader refuses (header length, unknown dtypes, overflow, overlaps, holes, uncovered bytes, duplicate keys)
// with one line that names file, tensor, found and expected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"
#include "core/tensor_file.h"

namespace matvlm {

// One mapped and validated file. Spans returned by it live as long as it.
class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(const std::string& path);

 protected:
  std::optional<std::span<const std::byte>> mapped(const TensorInfo& info) const override;

 private:
  MappedFile file_;
  int64_t data_begin_ = 0;
};

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
  // Values converted to the declared dtype: f32, bf16 or f16 (rounded to nearest even), or f64.
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
