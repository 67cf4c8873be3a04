// One file of named tensors, whatever its format: what the readers of safetensors, PyTorch and GGUF files have in
// common. A file is mapped, not read: values are converted on their way to the caller, tensor by tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"

namespace matvlm {

struct TensorInfo {
  std::string name;
  std::string type;            // as the file writes it: "F32", "BF16", "F8_E4M3", "Q4_1", ...
  std::optional<DType> dtype;  // none for types that this program does not compute with, and for quantised ones
  std::vector<int64_t> shape;
  int64_t numel = 1;
  int64_t begin = 0;  // bytes of the stored form, from where the format counts
  int64_t end = 0;
  bool quantised = false;  // blocks of GGUF, which read_floats() dequantises

  // Whether read_floats() gives the values: F32, BF16, F16, F64 or quantised.
  bool holds_floats() const;
};

// A mapped and validated file. What it returns lives as long as it.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  const std::string& path() const { return path_; }
  std::vector<std::string> names() const;  // in the file's order
  const std::vector<TensorInfo>& infos() const { return infos_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return positions_.contains(name); }
  const TensorInfo& info(const std::string& name) const;  // Error when absent

  // The elements, row by row, where the file holds them like that; Error where it does not (deflated, strided,
  // quantised).
  std::span<const std::byte> bytes(const std::string& name) const;
  // The same, or none where there is an Error.
  std::optional<std::span<const std::byte>> plain_bytes(const std::string& name) const { return mapped(info(name)); }
  // The elements as info().dtype, row by row. Error without a dtype or when `out` has another size.
  void read_bytes(const std::string& name, std::span<std::byte> out) const;
  // The values as float; Error unless info().holds_floats(), or when `out` has another size.
  void read_floats(const std::string& name, std::span<float> out) const;

 protected:
  explicit TensorFile(std::string path) : path_(std::move(path)) {}

  // Appends a tensor; Error when the name is there already.
  void add(TensorInfo info);
  // The mapped elements, or none where they must be gathered or decoded first.
  virtual std::optional<std::span<const std::byte>> mapped(const TensorInfo& info) const = 0;
  // Elements that are not mapped() as they are; `out` has their size.
  virtual void gather(const TensorInfo& info, std::span<std::byte> out) const;
  // Values of a quantised tensor.
  virtual void dequantise(const TensorInfo& info, std::span<float> out) const;

  std::map<std::string, std::string> metadata_;

 private:
  std::string path_;
  std::vector<TensorInfo> infos_;
  std::map<std::string, size_t> positions_;
};

// Elements of `dtype` (f32, bf16, f16, f64) in `bytes`, of any alignment, as float. Error for other dtypes or sizes;
// `what` heads the message.
void convert_to_floats(const std::string& what, DType dtype, std::span<const std::byte> bytes, std::span<float> out);

// Index of the first NaN or infinity among elements of `dtype` (f32, bf16, f16, f64) of any alignment; -1 for none.
int64_t first_not_finite(DType dtype, std::span<const std::byte> bytes);

// IEEE binary16 to float, and back with rounding to nearest even (beyond its range: infinity; NaN stays NaN).
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);

// size * factor where both are >= 0, or an Error that begins with `where`.
int64_t multiply_sizes(int64_t size, int64_t factor, const std::string& where);

}  // namespace matvlm
