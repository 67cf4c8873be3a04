// Reader of the safetensors format: header validation and the checkpoint of one or many files.
#include "core/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/json.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kFileName = "model.safetensors";

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

// size * factor, or an Error that names the tensor.
int64_t multiply(int64_t size, int64_t factor, const Json& where) {
  int64_t product = 0;
  if (__builtin_mul_overflow(size, factor, &product)) {
    fail(where.where(), ": found a shape whose size overflows 64 bits, expected less");
  }
  return product;
}

SafetensorsInfo read_entry(const std::string& name, const Json& entry) {
  SafetensorsInfo info;
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
    info.numel = multiply(info.numel, std::max<int64_t>(size, 1), shape);
  }
  // An overflow counts even when another dimension is 0, as in the reference reader up to the order of the dimensions.
  const int64_t bytes = empty ? 0 : multiply(info.numel, type.size, shape);
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
void check_coverage(const std::string& path, const std::vector<SafetensorsInfo>& infos, int64_t data_size) {
  std::vector<const SafetensorsInfo*> sorted;
  for (const SafetensorsInfo& info : infos) sorted.push_back(&info);
  std::sort(sorted.begin(), sorted.end(), [](const SafetensorsInfo* a, const SafetensorsInfo* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t covered = 0;
  for (const SafetensorsInfo* info : sorted) {
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

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const Json header = Json::parse(header_text(file_, data_begin_), path);
  for (const std::string& name : header.keys()) {
    if (name == "__metadata__") {
      metadata_ = read_metadata(header.at(name));
      continue;
    }
    positions_[name] = infos_.size();
    infos_.push_back(read_entry(name, header.at(name)));
  }
  check_coverage(path, infos_, file_.size() - data_begin_);
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const SafetensorsInfo& info : infos_) names.push_back(info.name);
  return names;
}

const SafetensorsInfo& SafetensorsFile::info(const std::string& name) const {
  const auto place = positions_.find(name);
  if (place == positions_.end()) fail(path(), ": found no tensor '", name, "', expected it");
  return infos_[place->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const SafetensorsInfo& entry = info(name);
  return file_.bytes().subspan(static_cast<size_t>(data_begin_ + entry.begin),
                               static_cast<size_t>(entry.end - entry.begin));
}

namespace {

std::string join(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += cat(text.empty() ? "" : ", ", item);
  return text;
}

// name -> shard of an index file, and the shards in alphabetical order.
std::map<std::string, std::string> read_index(const std::string& path) {
  const Json map = Json::read_file(path).at("weight_map");
  std::map<std::string, std::string> shard_of;
  for (const std::string& name : map.keys()) {
    const std::string shard = map.at(name).as_string();
    // A shard is a file beside the index, whatever it links to; a path could read any file of the machine.
    check(!shard.empty() && shard.find('/') == std::string::npos && shard != "." && shard != "..", map.at(name).where(),
          ": found '", shard, "', expected the name of a file in the same folder");
    shard_of[name] = shard;
  }
  check(!shard_of.empty(), path, ": found no tensors in 'weight_map', expected at least one");
  return shard_of;
}

std::vector<std::string> shards_of(const std::string& index, const std::map<std::string, std::string>& shard_of) {
  const std::string folder = fs::path(index).parent_path().string();
  std::vector<std::string> shards;
  for (const auto& [name, shard] : shard_of) {
    const std::string file = folder.empty() ? shard : folder + "/" + shard;
    if (std::find(shards.begin(), shards.end(), file) == shards.end()) shards.push_back(file);
  }
  std::sort(shards.begin(), shards.end());
  std::vector<std::string> missing;
  std::copy_if(shards.begin(), shards.end(), std::back_inserter(missing),
               [](const auto& file) { return !fs::exists(file); });
  check(missing.empty(), index, ": found no file for the shards ", join(missing), ", expected all of them");
  return shards;
}

void check_against_index(const std::string& index, const std::map<std::string, std::string>& shard_of,
                         const TensorSource& source) {
  std::vector<std::string> absent;
  std::vector<std::string> misplaced;
  std::vector<std::string> unlisted;
  for (const auto& [name, shard] : shard_of) {
    if (!source.has(name)) {
      absent.push_back(cat("'", name, "' (", shard, ")"));
    } else if (fs::path(source.file_of(name)).filename() != shard) {
      misplaced.push_back(cat("'", name, "' (", shard, ")"));
    }
  }
  for (const std::string& name : source.names()) {
    if (!shard_of.contains(name)) unlisted.push_back(cat("'", name, "' (", source.file_of(name), ")"));
  }
  check(absent.empty(), index, ": found tensors that no shard holds, expected none: ", join(absent));
  check(misplaced.empty(), index, ": found tensors that lie in another shard, expected none: ", join(misplaced));
  check(unlisted.empty(), index, ": found tensors in the shards that are not listed, expected none: ", join(unlisted));
}

std::string index_or_file_of_folder(const std::string& folder) {
  const std::string index = folder + "/" + kIndexName;
  const std::string file = folder + "/" + kFileName;
  const bool has_index = fs::exists(index);
  const bool has_file = fs::exists(file);
  check(has_index || has_file, folder, ": found neither ", kFileName, " nor ", kIndexName, ", expected one of them");
  // As the common loaders do: the single file wins.
  return has_file ? file : index;
}

}  // namespace

TensorSource TensorSource::open(const std::string& path) {
  const std::string file = fs::is_directory(path) ? index_or_file_of_folder(path) : path;
  if (!file.ends_with(".json")) {
    TensorSource source = from_files({file});
    source.path_ = path;
    return source;
  }
  const std::map<std::string, std::string> shard_of = read_index(file);
  TensorSource source = from_files(shards_of(file, shard_of));
  check_against_index(file, shard_of, source);
  source.path_ = path;
  return source;
}

TensorSource TensorSource::from_files(const std::vector<std::string>& paths) {
  check(!paths.empty(), "[safetensors] found an empty list of files, expected at least one");
  TensorSource source;
  source.path_ = join(paths);
  for (const std::string& path : paths) {
    auto file = std::make_shared<const SafetensorsFile>(path);
    for (const SafetensorsInfo& info : file->infos()) {
      const auto [place, is_new] = source.place_.emplace(info.name, source.files_.size());
      check(is_new, path, ": tensor '", info.name, "': found it also in another file, expected it once: ",
            is_new ? path : source.files_[place->second]->path());
    }
    source.files_.push_back(std::move(file));
  }
  return source;
}

std::vector<std::string> TensorSource::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : place_) names.push_back(name);
  return names;
}

const SafetensorsFile& TensorSource::file_with(const std::string& name) const {
  const auto place = place_.find(name);
  if (place == place_.end()) fail(path_, ": found no tensor '", name, "', expected it");
  return *files_[place->second];
}

const SafetensorsInfo& TensorSource::info(const std::string& name) const { return file_with(name).info(name); }
std::span<const std::byte> TensorSource::bytes(const std::string& name) const { return file_with(name).bytes(name); }
const std::string& TensorSource::file_of(const std::string& name) const { return file_with(name).path(); }
const std::map<std::string, std::string>& TensorSource::metadata() const { return files_.front()->metadata(); }

void TensorSource::read_floats(const std::string& name, std::span<float> out) const {
  const SafetensorsInfo& entry = info(name);
  const std::string what = cat(file_of(name), ": tensor '", name, "'");
  if (!entry.dtype) fail(what, ": found dtype ", entry.type, ", expected F32, BF16, F16 or F64");
  convert_to_floats(what, *entry.dtype, bytes(name), out);
}

std::vector<float> TensorSource::read_floats(const std::string& name) const {
  std::vector<float> values(static_cast<size_t>(info(name).numel));
  read_floats(name, values);
  return values;
}

void TensorSource::read_exact(const std::string& name, DType dtype, std::span<std::byte> out) const {
  const SafetensorsInfo& entry = info(name);
  if (entry.dtype != dtype) {
    fail(file_of(name), ": tensor '", name, "': found dtype ", entry.type, ", expected ", dtype_name(dtype));
  }
  const std::span<const std::byte> data = bytes(name);
  if (!data.empty()) std::memcpy(out.data(), data.data(), data.size());
}

}  // namespace matvlm
