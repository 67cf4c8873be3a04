// A checkpoint as torch.save writes it since version 1.6: a zip archive with a pickle (data.pkl) that describes
// tensors, and one file of raw elements for each storage (data/KEY).
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor_file.h"
#include "core/torch_pickle.h"
#include "core/zip.h"

namespace matvlm {

class TorchFile : public TensorFile {
 public:
  // Error for damaged archives, pickles that do more than rebuild tensors, and tensors that reach out of their storage,
  // repeat elements of it, or lie in one that is missing.
  explicit TorchFile(const std::string& path);

 protected:
  std::optional<std::span<const std::byte>> mapped(const TensorInfo& info) const override;
  void gather(const TensorInfo& info, std::span<std::byte> out) const override;

 private:
  struct Layout {
    TorchTensor tensor;
    const ZipEntry* storage = nullptr;
    bool contiguous = true;
  };
  TensorInfo read_tensor(const TorchTensor& tensor, const std::string& folder);
  // The content of a deflated storage. The last one is kept: the tensors of one storage usually follow each other.
  std::shared_ptr<const std::vector<std::byte>> inflated(const ZipEntry& storage) const;

  ZipArchive archive_;
  std::map<std::string, Layout> layouts_;
  mutable std::mutex mutex_;
  mutable const ZipEntry* inflated_entry_ = nullptr;
  mutable std::shared_ptr<const std::vector<std::byte>> inflated_;
};

}  // namespace matvlm
