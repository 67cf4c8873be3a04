// The pickle inside of a PyTorch checkpoint, read as data. A pickle is a program that may call any Python function;
// this reader knows the few opcodes and names with which tensors are rebuilt and refuses everything else by name, so a
// hostile file can do nothing but be refused. Memory is bounded by the pickle's length, and nothing in it recurses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace matvlm {

// A view of a storage, as torch._utils._rebuild_tensor_v2 gets it. Sizes and strides are those of the file, unchecked
// but for being integers: core/torch_file.cpp holds them against the storage.
struct TorchTensor {
  std::string name;
  DType dtype = DType::f32;
  std::string key;           // of the storage: the file data/KEY of the archive
  int64_t storage_size = 0;  // elements
  int64_t offset = 0;        // elements
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // elements
};

// The tensors of a state dict (or of the `state_dict` in a training checkpoint), in its order. Error, headed by
// `source`, for opcodes and globals that are not allowed (with name and byte), for malformed data, for entries that are
// no tensors, and for names that occur twice.
std::vector<TorchTensor> read_torch_pickle(std::span<const std::byte> bytes, const std::string& source);

}  // namespace matvlm
