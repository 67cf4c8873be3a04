// PyTorch archives: the tensors' views of their storages.
#include "core/torch_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace matvlm {
namespace {

constexpr const char* kPickleName = "data.pkl";
// Some hundred bytes a tensor are usual; each byte of a hostile one can ask for a hundred bytes of memory.
constexpr int64_t kMaxPickle = int64_t{1} << 24;

// As safetensors names them, so that `inspect` shows one spelling.
std::string type_name(DType dtype) {
  if (dtype == DType::boolean) return "BOOL";
  std::string name(dtype_name(dtype));
  for (char& c : name) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return name;
}

// "NAME/" of the archive's one folder, where the pickle lies; "" when it lies at the top.
std::string folder_of_pickle(const ZipArchive& archive) {
  std::vector<std::string> folders;
  for (const ZipEntry& entry : archive.entries()) {
    if (entry.name == kPickleName || entry.name.ends_with(std::string("/") + kPickleName)) {
      folders.push_back(entry.name.substr(0, entry.name.size() - std::string(kPickleName).size()));
    }
  }
  check(folders.size() == 1, archive.path(), ": found ", folders.size(), " files ", kPickleName,
        " in the archive, expected one, as torch.save writes it");
  return folders.front();
}

// Whether the elements lie row by row without gaps.
bool is_contiguous(const TorchTensor& tensor, int64_t numel) {
  if (numel == 0) return true;
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// Copies the elements at `from` (the tensor's first) in row order. `size`: bytes of one element.
void gather_strided(const TorchTensor& tensor, const std::byte* from, int64_t size, std::span<std::byte> out) {
  const size_t rank = tensor.shape.size();
  std::vector<int64_t> index(rank, 0);
  int64_t at = 0;  // of the element in the storage, from the first one
  for (std::byte* to = out.data(); to != out.data() + out.size(); to += size) {
    std::memcpy(to, from + at * size, static_cast<size_t>(size));
    for (size_t d = rank; d-- > 0;) {
      if (tensor.shape[d] == 1) continue;  // its stride says nothing
      at += tensor.strides[d];
      if (++index[d] < tensor.shape[d]) break;
      at -= tensor.strides[d] * tensor.shape[d];
      index[d] = 0;
    }
  }
}

}  // namespace

TorchFile::TorchFile(const std::string& path) : TensorFile(path), archive_(path) {
  const std::string folder = folder_of_pickle(archive_);
  if (const ZipEntry* order = archive_.find(folder + "byteorder")) {
    check(order->size <= 80, path, ": found ", order->size, " bytes in '", order->name, "', expected 'little'");
    const std::vector<std::byte> text = archive_.read(*order);
    const std::string_view found(reinterpret_cast<const char*>(text.data()), text.size());
    check(found == "little", path, ": found the byte order '", found, "', expected 'little'");
  }
  const ZipEntry* entry = archive_.find(folder + kPickleName);
  check(entry->size <= kMaxPickle, path, ": found a pickle of ", entry->size, " bytes, expected at most ", kMaxPickle);
  const std::vector<std::byte> pickle = archive_.read(*entry);
  for (const TorchTensor& tensor : read_torch_pickle(pickle, path + ": " + entry->name)) {
    add(read_tensor(tensor, folder));
  }
}

TensorInfo TorchFile::read_tensor(const TorchTensor& tensor, const std::string& folder) {
  const std::string what = cat(path(), ": tensor '", tensor.name, "'");
  const int64_t element = dtype_size(tensor.dtype);
  TensorInfo info;
  info.name = tensor.name;
  info.type = type_name(tensor.dtype);
  info.dtype = tensor.dtype;
  info.shape = tensor.shape;
  check(tensor.shape.size() == tensor.strides.size(), what, ": found ", tensor.shape.size(), " sizes and ",
        tensor.strides.size(), " strides, expected as many");
  int64_t last = tensor.offset;  // element of the storage that is read last
  check(tensor.offset >= 0, what, ": found the offset ", tensor.offset, ", expected at least 0");
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    check(tensor.shape[i] >= 0 && tensor.strides[i] >= 0, what, ": found the size ", tensor.shape[i], " with stride ",
          tensor.strides[i], ", expected both to be at least 0");
    info.numel = multiply_sizes(info.numel, tensor.shape[i], what);
    const int64_t reach = multiply_sizes(std::max<int64_t>(tensor.shape[i] - 1, 0), tensor.strides[i], what);
    if (__builtin_add_overflow(last, reach, &last)) fail(what, ": found strides that overflow 64 bits, expected less");
  }
  const ZipEntry* storage = archive_.find(folder + "data/" + tensor.key);
  if (storage == nullptr) fail(what, ": found no file '", folder, "data/", tensor.key, "' in the archive, expected it");
  const int64_t available = storage->size / element;
  check(info.numel == 0 || last < available, what, ": found elements up to number ", last,
        " of a storage, expected fewer than its ", available);
  // Elements of an expanded view are one and the same; a file can ask for more of them than there is memory.
  check(info.numel <= available, what, ": found ", info.numel, " elements in a storage of ", available,
        " (an expanded view), expected each element once");
  info.end = info.numel * element;
  layouts_[tensor.name] = {tensor, storage, is_contiguous(tensor, info.numel)};
  return info;
}

std::optional<std::span<const std::byte>> TorchFile::mapped(const TensorInfo& info) const {
  const Layout& layout = layouts_.at(info.name);
  if (layout.storage->deflated || !layout.contiguous) return std::nullopt;
  return archive_.stored_bytes(*layout.storage)
      .subspan(info.numel == 0 ? 0 : static_cast<size_t>(layout.tensor.offset * dtype_size(*info.dtype)),
               static_cast<size_t>(info.end));
}

std::shared_ptr<const std::vector<std::byte>> TorchFile::inflated(const ZipEntry& storage) const {
  const std::scoped_lock lock(mutex_);
  if (inflated_entry_ != &storage) {
    inflated_ = nullptr;  // before the next one takes its memory
    inflated_ = std::make_shared<const std::vector<std::byte>>(archive_.read(storage));
    inflated_entry_ = &storage;
  }
  return inflated_;
}

void TorchFile::gather(const TensorInfo& info, std::span<std::byte> out) const {
  const Layout& layout = layouts_.at(info.name);
  const int64_t size = dtype_size(*info.dtype);
  std::shared_ptr<const std::vector<std::byte>> content;
  std::span<const std::byte> storage = archive_.stored_bytes(*layout.storage);
  if (layout.storage->deflated) {
    content = inflated(*layout.storage);
    storage = *content;
  }
  const std::byte* first = storage.data() + layout.tensor.offset * size;
  if (layout.contiguous) {
    std::memcpy(out.data(), first, out.size());
  } else {
    gather_strided(layout.tensor, first, size, out);
  }
}

}  // namespace matvlm
