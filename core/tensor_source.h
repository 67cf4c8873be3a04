// The tensors of a checkpoint by name, whatever its layout on the disk: one file or many, safetensors, PyTorch's own
// format or GGUF, the parts of a model together or in folders of their own.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor_file.h"

namespace matvlm {

class TensorSource {
 public:
  // `path`: a .safetensors, PyTorch (.bin, .pt, .pth) or .gguf file, an .index.json file, or a folder with the first of
  // these that it has: model.safetensors, model.safetensors.index.json, pytorch_model.bin,
  // pytorch_model.bin.index.json; the folders language_model/, vision_tower/ and connector/ of TinyLLaVA, each with one
  // of the four, whose names get the part in front; one *.gguf file. Formats of files are told by their first bytes.
  // Error for missing shards, names of the index that their shard lacks, names of a shard that the index lacks.
  static TensorSource open(const std::string& path);
  // Error when two files hold the same name.
  static TensorSource from_files(const std::vector<std::string>& paths);

  const std::string& path() const { return path_; }  // as given, for messages
  std::vector<std::string> names() const;            // sorted
  bool has(const std::string& name) const { return places_.contains(name); }
  const TensorInfo& info(const std::string& name) const;  // Error when absent
  const std::string& file_of(const std::string& name) const;
  std::vector<std::string> files() const;
  const std::map<std::string, std::string>& metadata() const;  // of the first file

  // As TensorFile's functions of these names.
  std::span<const std::byte> bytes(const std::string& name) const;
  std::optional<std::span<const std::byte>> plain_bytes(const std::string& name) const;
  std::vector<std::byte> read_bytes(const std::string& name) const;
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
  struct Place {
    size_t file = 0;
    std::string stored;  // name in the file
    TensorInfo info;     // under the name here
  };
  using Rename = std::function<std::string(const std::string&)>;

  void add_file(std::shared_ptr<const TensorFile> file, const Rename& rename);
  void add_index(const std::string& index, const Rename& rename);
  void add_path(const std::string& path, const Rename& rename);
  void add_parts(const std::string& folder);
  void read_exact(const std::string& name, DType dtype, std::span<std::byte> out) const;
  const Place& place(const std::string& name) const;

  std::string path_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::map<std::string, Place> places_;
};

// The tensors of one file, by its first bytes. Error for unknown formats.
std::shared_ptr<const TensorFile> open_tensor_file(const std::string& path);

// The folders of a model that TinyLLaVA saves part by part: what stands before the names in each.
struct ModelPart {
  const char* folder;
  const char* prefix;
};
inline constexpr ModelPart kModelParts[] = {{"language_model", "language_model."},
                                            {"vision_tower", "vision_tower._vision_tower."},
                                            {"connector", "connector._connector."}};

}  // namespace matvlm
