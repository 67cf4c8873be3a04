// Host values that a piece of work reads on the device, sent in one copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace matvlm {

class UploadBatch {
 public:
  // Copies the values. send() makes `*tensor` their tensor on the device, [n]; it must be there until then.
  template <class T>
  void add(const std::vector<T>& values, Tensor* tensor);

  // Once. Returns the memory that all the tensors are views of, u8 [bytes].
  Tensor send(Context& ctx);

  // Type and number of the values, in the order of add(): where two batches agree in this, a tensor of the one lies
  // where that of the other does.
  const std::vector<int64_t>& layout() const { return layout_; }

 private:
  struct Item {
    Tensor* tensor;
    int64_t begin;  // bytes
    int64_t numel;
    DType dtype;
  };
  std::vector<std::byte> bytes_;
  std::vector<Item> items_;
  std::vector<int64_t> layout_;
};

}  // namespace matvlm
