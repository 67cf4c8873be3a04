// GGUF: header, metadata, directory of tensors.
#include "core/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/gguf_blocks.h"

namespace matvlm {
namespace {

// Types of metadata in the file.
enum ValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

constexpr int64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxRank = 4;
constexpr uint32_t kBigEndianThree = 0x03000000;

// Bytes of one value, at least.
uint64_t width_of(uint32_t type) {
  constexpr uint64_t kWidths[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < std::size(kWidths) ? kWidths[type] : 0;
}

}  // namespace

// Numbers and texts one after the other, never past the end.
class GgufFile::Reader {
 public:
  explicit Reader(const MappedFile& file) : path_(file.path()), bytes_(file.bytes()) {}

  size_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }
  template <class T>
  T number() {
    need(sizeof(T), "a number");
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::string text() {
    const auto size = number<uint64_t>();
    need(size, "a text");
    std::string out(reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<size_t>(size));
    at_ += static_cast<size_t>(size);
    return out;
  }
  // A count of things of at least `width` bytes each.
  uint64_t count(uint64_t width, const char* what) {
    const auto count = number<uint64_t>();
    check(count <= left() / width, path_, ": byte ", at_, ": found ", count, " ", what, ", expected at most the ",
          left() / width, " that fit in the file");
    return count;
  }
  GgufValue value(const std::string& key) {
    const auto type = number<uint32_t>();
    if (type == ValueType::array) return values(key);
    check(width_of(type) > 0, path_, ": key '", key, "': found the type ", type, ", expected 0 to 12");
    return single(type, key);
  }

 private:
  void need(uint64_t size, const char* what) const {
    check(size <= left(), path_, ": byte ", at_, ": found ", what, " of ", size, " bytes, expected at most the ",
          left(), " that are left of the file");
  }
  static GgufValue of_integer(int64_t value) {
    GgufValue out;
    out.integer = value;
    return out;
  }
  static GgufValue of_number(double value) {
    GgufValue out;
    out.kind = GgufValue::Kind::number;
    out.number = value;
    return out;
  }
  GgufValue single(uint32_t type, const std::string& key) {
    switch (type) {
      case ValueType::u8:
        return of_integer(number<uint8_t>());
      case ValueType::i8:
        return of_integer(number<int8_t>());
      case ValueType::u16:
        return of_integer(number<uint16_t>());
      case ValueType::i16:
        return of_integer(number<int16_t>());
      case ValueType::u32:
        return of_integer(number<uint32_t>());
      case ValueType::i32:
        return of_integer(number<int32_t>());
      case ValueType::i64:
        return of_integer(number<int64_t>());
      case ValueType::f32:
        return of_number(double{number<float>()});
      case ValueType::f64:
        return of_number(number<double>());
      case ValueType::u64: {
        const auto value = number<uint64_t>();
        check(value <= uint64_t{INT64_MAX}, path_, ": key '", key, "': found ", value, ", expected at most ",
              INT64_MAX);
        return of_integer(static_cast<int64_t>(value));
      }
      case ValueType::boolean: {
        const auto value = number<uint8_t>();
        check(value <= 1, path_, ": key '", key, "': found the boolean ", int{value}, ", expected 0 or 1");
        GgufValue out = of_integer(value);
        out.kind = GgufValue::Kind::boolean;
        return out;
      }
      default: {
        GgufValue out;
        out.kind = GgufValue::Kind::text;
        out.text = text();
        return out;
      }
    }
  }
  GgufValue values(const std::string& key) {
    const auto type = number<uint32_t>();
    check(width_of(type) > 0 && type != ValueType::array, path_, ": key '", key, "': found an array of type ", type,
          ", expected one of numbers or texts");
    const uint64_t n = count(width_of(type), "elements of an array");
    GgufValue out;
    const bool texts = type == ValueType::text;
    const bool numbers = type == ValueType::f32 || type == ValueType::f64;
    out.kind = texts ? GgufValue::Kind::texts : numbers ? GgufValue::Kind::numbers : GgufValue::Kind::integers;
    for (uint64_t i = 0; i < n; ++i) {
      GgufValue element = single(type, key);
      if (texts) {
        out.texts.push_back(std::move(element.text));
      } else if (numbers) {
        out.numbers.push_back(element.number);
      } else {
        out.integers.push_back(element.integer);
      }
    }
    return out;
  }

  const std::string& path_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

GgufFile::GgufFile(const std::string& path) : TensorFile(path), file_(path) {
  Reader reader(file_);
  check(file_.size() >= 24 && std::memcmp(file_.bytes().data(), "GGUF", 4) == 0, path,
        ": found no GGUF header, expected 'GGUF' and three numbers");
  reader.number<uint32_t>();
  const auto version = reader.number<uint32_t>();
  check(version != kBigEndianThree, path, ": found a big-endian GGUF file, expected a little-endian one");
  check(version == 2 || version == 3, path, ": found GGUF version ", version, ", expected 2 or 3");
  const uint64_t tensors = reader.count(8 + 4 + 8 + 4 + 8, "tensors");
  const uint64_t values = reader.count(8 + 4 + 1, "keys");
  read_values(reader, values);
  for (uint64_t i = 0; i < tensors; ++i) read_tensor(reader);
  const int64_t alignment = integer("general.alignment", kDefaultAlignment);
  check(alignment > 0 && alignment <= (1 << 20) && std::has_single_bit(static_cast<uint64_t>(alignment)), path,
        ": key 'general.alignment': found ", alignment, ", expected a power of two up to ", 1 << 20);
  check_data((static_cast<int64_t>(reader.at()) + alignment - 1) / alignment * alignment, alignment);
}

void GgufFile::read_values(Reader& reader, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string key = reader.text();
    const auto [place, is_new] = values_.emplace(key, reader.value(key));
    check(is_new, path(), ": key '", key, "': found it more than once, expected once");
    const GgufValue& value = place->second;
    if (value.kind == GgufValue::Kind::text) metadata_[key] = value.text;
    if (value.kind == GgufValue::Kind::integer) metadata_[key] = cat(value.integer);
    if (value.kind == GgufValue::Kind::number) metadata_[key] = cat(value.number);
    if (value.kind == GgufValue::Kind::boolean) metadata_[key] = value.integer != 0 ? "true" : "false";
    const size_t elements = value.texts.size() + value.integers.size() + value.numbers.size();
    if (!metadata_.contains(key)) metadata_[key] = cat("[", elements, " elements]");
  }
}

void GgufFile::read_tensor(Reader& reader) {
  TensorInfo info;
  info.name = reader.text();
  const std::string what = cat(path(), ": tensor '", info.name, "'");
  const auto rank = reader.number<uint32_t>();
  check(rank >= 1 && rank <= kMaxRank, what, ": found ", rank, " dimensions, expected 1 to ", kMaxRank);
  for (uint32_t i = 0; i < rank; ++i) {
    const auto size = reader.number<uint64_t>();
    check(size <= uint64_t{INT64_MAX}, what, ": found a dimension of ", size, ", expected at most ", INT64_MAX);
    info.shape.insert(info.shape.begin(), static_cast<int64_t>(size));  // the file begins with the innermost
    info.numel = multiply_sizes(info.numel, static_cast<int64_t>(size), what);
  }
  const auto id = reader.number<uint32_t>();
  const GgufType* type = find_gguf_type(id);
  if (type == nullptr) {
    fail(what, ": found the type number ", id,
         ", expected F32, F16, BF16, F64, I8 to I64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K or Q6_K");
  }
  info.type = type->name;
  info.dtype = type->dtype;
  info.quantised = type->dequantise != nullptr;
  check(info.shape.back() % type->block == 0, what, ": found rows of ", info.shape.back(), " values of type ",
        type->name, ", expected a multiple of ", type->block);
  const auto offset = reader.number<uint64_t>();
  check(offset <= static_cast<uint64_t>(file_.size()), what, ": found data from byte ", offset,
        " on, expected it in the file of ", file_.size());
  info.begin = static_cast<int64_t>(offset);
  const int64_t bytes = multiply_sizes(info.numel / type->block, type->bytes, what);
  check(bytes <= file_.size(), what, ": found ", bytes, " bytes of data, expected at most the file's ", file_.size());
  info.end = info.begin + bytes;
  add(std::move(info));
}

void GgufFile::check_data(int64_t data_begin, int64_t alignment) {
  data_begin_ = data_begin;
  std::vector<const TensorInfo*> sorted;
  for (const TensorInfo& info : infos()) sorted.push_back(&info);
  std::sort(sorted.begin(), sorted.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t covered = 0;
  for (const TensorInfo* info : sorted) {
    const std::string what = cat(path(), ": tensor '", info->name, "'");
    check(info->begin % alignment == 0, what, ": found data from byte ", info->begin, ", expected a multiple of ",
          alignment);
    check(info->begin >= covered, what, ": found data from byte ", info->begin, ", expected it from ", covered,
          " on (it overlaps another tensor)");
    check(info->end <= file_.size() - data_begin, what, ": found data up to byte ", data_begin + info->end,
          ", expected it within the file's ", file_.size(), " (the file may be truncated)");
    covered = info->end;
  }
}

std::optional<std::span<const std::byte>> GgufFile::mapped(const TensorInfo& info) const {
  return file_.bytes().subspan(info.numel == 0 ? 0 : static_cast<size_t>(data_begin_ + info.begin),
                               static_cast<size_t>(info.end - info.begin));
}

void GgufFile::dequantise(const TensorInfo& info, std::span<float> out) const {
  dequantise_blocks(*find_gguf_type(info.type.c_str()), *mapped(info), out);
}

const GgufValue& GgufFile::value(const std::string& key, GgufValue::Kind kind, const char* expected) const {
  const auto found = values_.find(key);
  if (found == values_.end()) fail(path(), ": key '", key, "': found nothing, expected ", expected);
  check(found->second.kind == kind, path(), ": key '", key, "': found another type, expected ", expected);
  return found->second;
}

int64_t GgufFile::integer(const std::string& key) const {
  return value(key, GgufValue::Kind::integer, "an integer").integer;
}
double GgufFile::number(const std::string& key) const {
  const auto found = values_.find(key);
  if (found != values_.end() && found->second.kind == GgufValue::Kind::integer) {
    return static_cast<double>(found->second.integer);
  }
  return value(key, GgufValue::Kind::number, "a number").number;
}
const std::string& GgufFile::text(const std::string& key) const {
  return value(key, GgufValue::Kind::text, "a text").text;
}
const std::vector<std::string>& GgufFile::texts(const std::string& key) const {
  return value(key, GgufValue::Kind::texts, "an array of texts").texts;
}
const std::vector<int64_t>& GgufFile::integers(const std::string& key) const {
  return value(key, GgufValue::Kind::integers, "an array of integers").integers;
}
int64_t GgufFile::integer(const std::string& key, int64_t otherwise) const {
  return has_value(key) ? integer(key) : otherwise;
}
double GgufFile::number(const std::string& key, double otherwise) const {
  return has_value(key) ? number(key) : otherwise;
}
std::string GgufFile::text(const std::string& key, const std::string& otherwise) const {
  return has_value(key) ? text(key) : otherwise;
}
bool GgufFile::boolean(const std::string& key, bool otherwise) const {
  return has_value(key) ? value(key, GgufValue::Kind::boolean, "true or false").integer != 0 : otherwise;
}

}  // namespace matvlm
