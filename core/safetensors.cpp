// Reader of the safetensors format: header validation.
#include "core/safetensors.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/json.h"

namespace matvlm {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the reference reader's limit

struct FormatType {
  const char* name;
  int64_t size;
  std::optional<DType> dtype;
};

constexpr FormatType kFormatTypes[] = {
    {"F64", 8, DType::f64},   {"F32", 4, DType::f32},       {"F16", 2, DType::f16},       {"BF16", 2, DType::bf16},
    {"I64", 8, DType::i64},   {"I32", 4, DType::i32},       {"I16", 2, DType::i16},       {"I8", 1, DType::i8},
    {"U8", 1, DType::u8},     {"BOOL", 1, DType::boolean},  {"U16", 2, std::nullopt},     {"U32", 4, std::nullopt},
    {"U64", 8, std::nullopt}, {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
};

const FormatType& format_type(const Json& json) {
  const std::string name = json.as_string();
  std::string known;
  for (const FormatType& type : kFormatTypes) {
    if (name == type.name) return type;
    known += cat(known.empty() ? "" : ", ", type.name);
  }
  fail(json.where(), ": found dtype '", name, "', expected one of ", known);
}

TensorInfo read_entry(const std::string& name, const Json& entry) {
  TensorInfo info;
  info.name = name;
  const FormatType& type = format_type(entry.at("dtype"));
  info.type = type.name;
  info.dtype = type.dtype;
  const Json shape = entry.at("shape");
  if (!shape.is_array()) fail(shape.where(), ": found no array, expected the sizes of the dimensions");
  bool empty = false;
  for (int64_t i = 0; i < shape.size(); ++i) {
    const int64_t size = shape.at(i).as_int();
    check(size >= 0, shape.at(i).where(), ": found ", size, ", expected a size >= 0");
    info.shape.push_back(size);
    empty = empty || size == 0;
    info.numel = multiply_sizes(info.numel, std::max<int64_t>(size, 1), shape.where());
  }
  // An overflow counts even when another dimension is 0, as in the reference reader up to the order of the dimensions.
  const int64_t bytes = empty ? 0 : multiply_sizes(info.numel, type.size, shape.where());
  if (empty) info.numel = 0;
  const Json offsets = entry.at("data_offsets");
  check(offsets.is_array() && offsets.size() == 2, offsets.where(), ": found no pair, expected [begin, end]");
  info.begin = offsets.at(0).as_int();
  info.end = offsets.at(1).as_int();
  check(info.begin >= 0 && info.begin <= info.end, offsets.where(), ": found [", info.begin, ", ", info.end,
        "], expected 0 <= begin <= end");
  check(info.end - info.begin == bytes, offsets.where(), ": found ", info.end - info.begin, " bytes, expected ", bytes,
        " for dtype ", info.type, " and ", info.numel, " elements");
  return info;
}

// The tensors must tile [0, data_size) without overlaps and holes.
void check_coverage(const std::string& path, const std::vector<TensorInfo>& infos, int64_t data_size) {
  std::vector<const TensorInfo*> sorted;
  for (const TensorInfo& info : infos) sorted.push_back(&info);
  std::sort(sorted.begin(), sorted.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t covered = 0;
  for (const TensorInfo* info : sorted) {
    check(info->begin == covered, path, ": tensor '", info->name, "': found data from byte ", info->begin,
          ", expected ", covered,
          info->begin < covered ? " (it overlaps another tensor)" : " (there is a hole before it)");
    covered = info->end;
  }
  check(covered == data_size, path, ": found ", data_size, " bytes of data, expected ", covered,
        covered > data_size ? " (the file is truncated)" : " (bytes at the end belong to no tensor)");
}

// The header's text; `data_begin` becomes the offset of the data.
std::string_view header_text(const MappedFile& file, int64_t& data_begin) {
  const std::string& path = file.path();
  check(file.size() >= kLengthBytes, path, ": found ", file.size(), " bytes, expected a safetensors file of at least ",
        kLengthBytes);
  uint64_t length = 0;
  std::memcpy(&length, file.bytes().data(), sizeof(length));  // little-endian in the format, as on our machines
  check(length <= kMaxHeader, path, ": found a header of ", length, " bytes, expected at most ", kMaxHeader);
  const int64_t available = file.size() - kLengthBytes;
  check(static_cast<int64_t>(length) <= available, path, ": found a header of ", length,
        " bytes, expected at most the ", available, " that follow in the file");
  data_begin = kLengthBytes + static_cast<int64_t>(length);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()) + kLengthBytes,
                              static_cast<size_t>(length));
  check(text.starts_with('{'), path, ": found a header that does not begin with '{', expected a JSON object");
  return text;
}

std::map<std::string, std::string> read_metadata(const Json& json) {
  std::map<std::string, std::string> metadata;
  if (json.is_null()) return metadata;
  for (const std::string& key : json.keys()) metadata[key] = json.at(key).as_string();
  return metadata;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : TensorFile(path), file_(path) {
  const Json header = Json::parse(header_text(file_, data_begin_), path);
  for (const std::string& name : header.keys()) {
    if (name == "__metadata__") {
      metadata_ = read_metadata(header.at(name));
      continue;
    }
    add(read_entry(name, header.at(name)));
  }
  check_coverage(path, infos(), file_.size() - data_begin_);
}

std::optional<std::span<const std::byte>> SafetensorsFile::mapped(const TensorInfo& info) const {
  return file_.bytes().subspan(static_cast<size_t>(data_begin_ + info.begin),
                               static_cast<size_t>(info.end - info.begin));
}

}  // namespace matvlm
