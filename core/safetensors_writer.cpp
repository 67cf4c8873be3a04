// Writer of the safetensors format.
#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/safetensors.h"

namespace matvlm {
namespace {

constexpr size_t kAlignment = 8;            // of the data's start, as the reference writer pads the header
constexpr size_t kConversionBlock = 65536;  // elements converted at a time

const char* format_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "F64";
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::i16:
      return "I16";
    case DType::i8:
      return "I8";
    case DType::u8:
      return "U8";
    case DType::boolean:
      return "BOOL";
  }
  fail("[safetensors] found an unknown dtype");
}

int64_t byte_size(const std::string& path, const TensorSpec& spec) {
  int64_t size = dtype_size(spec.dtype);
  for (const int64_t dimension : spec.shape) {
    check(dimension >= 0, path, ": tensor '", spec.name, "': found a dimension of ", dimension, ", expected >= 0");
    if (__builtin_mul_overflow(size, dimension, &size))
      fail(path, ": tensor '", spec.name, "': its size overflows 64 bits");
  }
  return size;
}

std::string make_header(const std::string& path, const std::vector<TensorSpec>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json map = Json::object();
    for (const auto& [key, value] : metadata) map.set(key, value);
    header.set("__metadata__", map);
  }
  int64_t offset = 0;
  std::set<std::string> seen;
  for (const TensorSpec& spec : tensors) {
    check(spec.name != "__metadata__", path, ": found the reserved name '__metadata__' for a tensor");
    check(seen.insert(spec.name).second, path, ": tensor '", spec.name, "': found it more than once, expected once");
    const int64_t end = offset + byte_size(path, spec);
    Json shape = Json::array();
    for (const int64_t dimension : spec.shape) shape.push(Json::of(dimension));
    Json entry = Json::object();
    entry.set("dtype", format_name(spec.dtype)).set("shape", shape);
    entry.set("data_offsets", Json::array().push(Json::of(offset)).push(Json::of(end)));
    header.set(spec.name, entry);
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  return text;
}

// Values as `to` of them, appended block by block.
template <class T, class To>
void append_converted(SafetensorsWriter& writer, const std::string& name, std::span<const float> values, const To& to) {
  std::vector<T> block(std::min(kConversionBlock, values.size()));
  for (size_t begin = 0; begin < values.size(); begin += block.size()) {
    block.resize(std::min(block.size(), values.size() - begin));
    std::transform(values.begin() + static_cast<std::ptrdiff_t>(begin),
                   values.begin() + static_cast<std::ptrdiff_t>(begin + block.size()), block.begin(), to);
    writer.append(name, std::as_bytes(std::span<const T>(block)));
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), path_(path), tensors_(std::move(tensors)) {
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const TensorSpec& a, const TensorSpec& b) { return dtype_size(a.dtype) > dtype_size(b.dtype); });
  const std::string header = make_header(path, tensors_, metadata);
  const uint64_t length = header.size();
  file_.append(std::as_bytes(std::span<const uint64_t>(&length, 1)));
  file_.append(header);
  remaining_ = tensors_.empty() ? 0 : byte_size(path_, tensors_.front());
}

void SafetensorsWriter::skip_complete() {
  while (current_ < tensors_.size() && remaining_ == 0) {
    ++current_;
    remaining_ = current_ < tensors_.size() ? byte_size(path_, tensors_[current_]) : 0;
  }
}

void SafetensorsWriter::append(const std::string& name, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  skip_complete();
  check(current_ < tensors_.size(), path_, ": found data for tensor '", name, "', expected the end");
  check(tensors_[current_].name == name, path_, ": found data for tensor '", name, "', expected it for '",
        tensors_[current_].name, "'");
  check(static_cast<int64_t>(bytes.size()) <= remaining_, path_, ": tensor '", name, "': found ", bytes.size(),
        " more bytes, expected ", remaining_);
  file_.append(bytes);
  remaining_ -= static_cast<int64_t>(bytes.size());
}

void SafetensorsWriter::check_dtype(const std::string& name, DType dtype) const {
  for (const TensorSpec& spec : tensors_) {
    if (spec.name == name && spec.dtype != dtype) {
      fail(path_, ": tensor '", name, "': found values of ", dtype_name(dtype), ", expected ", dtype_name(spec.dtype));
    }
  }
}

void SafetensorsWriter::append_floats(const std::string& name, std::span<const float> values) {
  skip_complete();
  if (current_ >= tensors_.size() || values.empty()) return append(name, std::as_bytes(values));
  const DType dtype = tensors_[current_].dtype;
  if (dtype == DType::f32) return append(name, std::as_bytes(values));
  if (dtype == DType::bf16) return append_converted<bf16>(*this, name, values, [](float x) { return bf16(x); });
  if (dtype == DType::f16) return append_converted<uint16_t>(*this, name, values, float_to_half);
  if (dtype == DType::f64) return append_converted<double>(*this, name, values, [](float x) { return double{x}; });
  fail(path_, ": tensor '", name, "': found floats, expected ", dtype_name(dtype));
}

void SafetensorsWriter::commit() {
  skip_complete();
  if (current_ < tensors_.size()) {
    fail(path_, ": tensor '", tensors_[current_].name, "': found ", remaining_, " bytes too few at the end");
  }
  file_.commit();
}

}  // namespace matvlm
