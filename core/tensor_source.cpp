// Which files make up a checkpoint, and under which names their tensors are known.
#include "core/tensor_source.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "core/error.h"
#include "core/gguf_model.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/torch_file.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 4> kFolderFiles = {"model.safetensors", "model.safetensors.index.json",
                                                     "pytorch_model.bin", "pytorch_model.bin.index.json"};

std::string join(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += cat(text.empty() ? "" : ", ", item);
  return text;
}

std::string same_name(const std::string& name) { return name; }

// name -> shard of an index file.
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

// The shards' paths in alphabetical order.
std::vector<std::string> shards_of(const std::string& index, const std::map<std::string, std::string>& shard_of) {
  const std::string folder = fs::path(index).parent_path().string();
  std::vector<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.push_back(folder.empty() ? shard : folder + "/" + shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  std::vector<std::string> missing;
  std::copy_if(shards.begin(), shards.end(), std::back_inserter(missing),
               [](const auto& file) { return !fs::exists(file); });
  check(missing.empty(), index, ": found no file for the shards ", join(missing), ", expected all of them");
  return shards;
}

void check_against_index(const std::string& index, const std::map<std::string, std::string>& shard_of,
                         const std::vector<std::shared_ptr<const TensorFile>>& files) {
  std::map<std::string, std::string> found;  // name -> path of its file
  for (const auto& file : files) {
    for (const TensorInfo& info : file->infos()) found.emplace(info.name, file->path());
  }
  std::vector<std::string> absent;
  std::vector<std::string> misplaced;
  std::vector<std::string> unlisted;
  for (const auto& [name, shard] : shard_of) {
    const auto place = found.find(name);
    if (place == found.end()) {
      absent.push_back(cat("'", name, "' (", shard, ")"));
    } else if (fs::path(place->second).filename() != shard) {
      misplaced.push_back(cat("'", name, "' (", shard, ")"));
    }
  }
  for (const auto& [name, path] : found) {
    if (!shard_of.contains(name)) unlisted.push_back(cat("'", name, "' (", path, ")"));
  }
  check(absent.empty(), index, ": found tensors that no shard holds, expected none: ", join(absent));
  check(misplaced.empty(), index, ": found tensors that lie in another shard, expected none: ", join(misplaced));
  check(unlisted.empty(), index, ": found tensors in the shards that are not listed, expected none: ", join(unlisted));
}

// The folder's checkpoint as one file or one index, as the common loaders choose it: the single file wins.
std::optional<std::string> file_of_folder(const std::string& folder) {
  for (const char* name : kFolderFiles) {
    if (fs::exists(folder + "/" + name)) return folder + "/" + name;
  }
  return std::nullopt;
}

bool has_parts(const std::string& folder) {
  return std::any_of(std::begin(kModelParts), std::end(kModelParts),
                     [&](const ModelPart& part) { return fs::is_directory(folder + "/" + part.folder); });
}

// The name in the whole model of `name` in the file of a part. Files are seen with and without what the part's own
// class puts in front (`_connector.`), and with the whole prefix.
std::string name_in_whole(const ModelPart& part, const std::string& name) {
  const std::string prefix = part.prefix;
  const std::string first = prefix.substr(0, prefix.find('.') + 1);  // "connector."
  const std::string rest = prefix.substr(first.size());              // "_connector."
  if (name.starts_with(first)) return name;
  if (!rest.empty() && name.starts_with(rest)) return first + name;
  return prefix + name;
}

}  // namespace

std::shared_ptr<const TensorFile> open_tensor_file(const std::string& path) {
  check(!fs::is_directory(path), path, ": found a directory, expected a file");
  std::ifstream file(path, std::ios::binary);
  std::array<char, 9> start{};
  file.read(start.data(), start.size());
  const std::string_view first(start.data(), static_cast<size_t>(file.gcount()));
  // Safetensors begin with a length, which may look like anything, and then their header.
  if (first.size() == start.size() && first[8] == '{') return std::make_shared<const SafetensorsFile>(path);
  const std::string_view magic = first.substr(0, 4);
  if (magic == "GGUF") return open_gguf_model(path);
  if (magic == std::string_view("PK\3\4", 4)) return std::make_shared<const TorchFile>(path);
  // A pickle's PROTO opcode: the format that torch.save wrote before it took up zip.
  check(!(magic.size() >= 2 && magic[0] == '\x80' && magic[1] <= '\5'), path,
        ": found a bare pickle (PyTorch before 1.6), expected a zip archive as newer versions write");
  return std::make_shared<const SafetensorsFile>(path);
}

TensorSource TensorSource::open(const std::string& path) {
  TensorSource source;
  source.path_ = path;
  source.add_path(path, same_name);
  return source;
}

TensorSource TensorSource::from_files(const std::vector<std::string>& paths) {
  check(!paths.empty(), "[safetensors] found an empty list of files, expected at least one");
  TensorSource source;
  source.path_ = join(paths);
  for (const std::string& path : paths) source.add_file(open_tensor_file(path), same_name);
  return source;
}

void TensorSource::add_path(const std::string& path, const Rename& rename) {
  if (!fs::is_directory(path)) {
    if (path.ends_with(".json")) return add_index(path, rename);
    return add_file(open_tensor_file(path), rename);
  }
  if (const auto file = file_of_folder(path)) return add_path(*file, rename);
  if (has_parts(path)) return add_parts(path);
  if (const std::string file = gguf_file_of(path); !file.empty()) return add_path(file, rename);
  fail(path, ": found neither ", kFolderFiles[0], " nor ", kFolderFiles[1], ", ", kFolderFiles[2], ", ",
       kFolderFiles[3], ", the folders of a model's parts or a GGUF file, expected one of them");
}

void TensorSource::add_parts(const std::string& folder) {
  for (const ModelPart& part : kModelParts) {
    const std::string inside = folder + "/" + part.folder;
    if (!fs::is_directory(inside)) continue;  // the tensors that it should have held are reported by name later
    const auto file = file_of_folder(inside);
    check(file.has_value(), inside, ": found none of ", kFolderFiles[0], ", ", kFolderFiles[1], ", ", kFolderFiles[2],
          " and ", kFolderFiles[3], ", expected the part's tensors");
    add_path(*file, [&part](const std::string& name) { return name_in_whole(part, name); });
  }
}

void TensorSource::add_index(const std::string& index, const Rename& rename) {
  const std::map<std::string, std::string> shard_of = read_index(index);
  std::vector<std::shared_ptr<const TensorFile>> shards;
  for (const std::string& shard : shards_of(index, shard_of)) shards.push_back(open_tensor_file(shard));
  check_against_index(index, shard_of, shards);
  for (auto& shard : shards) add_file(std::move(shard), rename);
}

void TensorSource::add_file(std::shared_ptr<const TensorFile> file, const Rename& rename) {
  for (const TensorInfo& info : file->infos()) {
    Place place{files_.size(), info.name, info};
    place.info.name = rename(info.name);
    const auto [known, is_new] = places_.emplace(place.info.name, place);
    check(is_new, file->path(), ": tensor '", place.info.name, "': found it also in another file, expected it once: ",
          is_new || known->second.file == files_.size() ? file->path() : files_[known->second.file]->path());
  }
  files_.push_back(std::move(file));
}

std::vector<std::string> TensorSource::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

std::vector<std::string> TensorSource::files() const {
  std::vector<std::string> paths;
  for (const auto& file : files_) paths.push_back(file->path());
  return paths;
}

const TensorSource::Place& TensorSource::place(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) fail(path_, ": found no tensor '", name, "', expected it");
  return found->second;
}

const TensorInfo& TensorSource::info(const std::string& name) const { return place(name).info; }
const std::string& TensorSource::file_of(const std::string& name) const { return files_[place(name).file]->path(); }
const std::map<std::string, std::string>& TensorSource::metadata() const { return files_.front()->metadata(); }

std::span<const std::byte> TensorSource::bytes(const std::string& name) const {
  const Place& at = place(name);
  return files_[at.file]->bytes(at.stored);
}

std::optional<std::span<const std::byte>> TensorSource::plain_bytes(const std::string& name) const {
  const Place& at = place(name);
  return files_[at.file]->plain_bytes(at.stored);
}

std::vector<std::byte> TensorSource::read_bytes(const std::string& name) const {
  const Place& at = place(name);
  std::vector<std::byte> out(static_cast<size_t>(at.info.numel * (at.info.dtype ? dtype_size(*at.info.dtype) : 0)));
  files_[at.file]->read_bytes(at.stored, out);
  return out;
}

void TensorSource::read_floats(const std::string& name, std::span<float> out) const {
  const Place& at = place(name);
  files_[at.file]->read_floats(at.stored, out);
}

std::vector<float> TensorSource::read_floats(const std::string& name) const {
  const Place& at = place(name);
  std::vector<float> values(at.info.holds_floats() ? static_cast<size_t>(at.info.numel) : 0);
  files_[at.file]->read_floats(at.stored, values);
  return values;
}

void TensorSource::read_exact(const std::string& name, DType dtype, std::span<std::byte> out) const {
  const Place& at = place(name);
  if (at.info.dtype != dtype) {
    fail(file_of(name), ": tensor '", name, "': found dtype ", at.info.type, ", expected ", dtype_name(dtype));
  }
  files_[at.file]->read_bytes(at.stored, out);
}

}  // namespace matvlm
