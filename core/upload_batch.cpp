#include "core/upload_batch.h"

#include <cstring>

namespace matvlm {
namespace {

constexpr size_t kAlignment = 256;  // as that of a tensor of its own

}  // namespace

template <class T>
void UploadBatch::add(const std::vector<T>& values, Tensor* tensor) {
  const size_t begin = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
  const auto numel = static_cast<int64_t>(values.size());
  bytes_.resize(begin + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes_.data() + begin, values.data(), values.size() * sizeof(T));
  items_.push_back({tensor, static_cast<int64_t>(begin), numel, kDType<T>});
  layout_.push_back(static_cast<int64_t>(kDType<T>));
  layout_.push_back(numel);
}
template void UploadBatch::add<float>(const std::vector<float>&, Tensor*);
template void UploadBatch::add<int32_t>(const std::vector<int32_t>&, Tensor*);
template void UploadBatch::add<int64_t>(const std::vector<int64_t>&, Tensor*);

Tensor UploadBatch::send(Context& ctx) {
  const auto size = static_cast<int64_t>(bytes_.size());
  Tensor memory = Tensor::empty(ctx, {size}, DType::u8);
  ctx.to_device(memory.raw(), bytes_.data(), size);
  for (const Item& item : items_) *item.tensor = memory.view_bytes(item.begin, {item.numel}, item.dtype);
  items_.clear();
  return memory;
}

}  // namespace matvlm
