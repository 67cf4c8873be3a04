// GGUF files (versions 2 and 3) as they are: typed metadata, and tensors that may be quantised in blocks. Names and
// order of rows are those of the file; core/gguf_model.h gives the view of a model.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/tensor_file.h"

namespace matvlm {

// A value of the metadata; which member holds it says `kind`. Booleans are integers, arrays hold one kind.
struct GgufValue {
  enum class Kind { integer, number, boolean, text, integers, numbers, texts };
  Kind kind = Kind::integer;
  int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<int64_t> integers;
  std::vector<double> numbers;
  std::vector<std::string> texts;
};

class GgufFile : public TensorFile {
 public:
  // Error for other versions, big-endian files, counts, lengths and offsets that the file cannot hold, types of tensors
  // that are not read (F32, F16, BF16, F64, I8 to I64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K and Q6_K are), data on top of
  // other data, names that occur twice.
  explicit GgufFile(const std::string& path);

  const std::map<std::string, GgufValue>& values() const { return values_; }
  bool has_value(const std::string& key) const { return values_.contains(key); }
  // Error when missing or of another kind. number() takes integers too.
  int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  const std::vector<std::string>& texts(const std::string& key) const;
  const std::vector<int64_t>& integers(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t otherwise) const;
  double number(const std::string& key, double otherwise) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;

 protected:
  std::optional<std::span<const std::byte>> mapped(const TensorInfo& info) const override;
  void dequantise(const TensorInfo& info, std::span<float> out) const override;

 private:
  class Reader;
  void read_values(Reader& reader, uint64_t count);
  void read_tensor(Reader& reader);
  void check_data(int64_t data_begin, int64_t alignment);
  const GgufValue& value(const std::string& key, GgufValue::Kind kind, const char* expected) const;

  MappedFile file_;
  int64_t data_begin_ = 0;
  std::map<std::string, GgufValue> values_;
};

}  // namespace matvlm
