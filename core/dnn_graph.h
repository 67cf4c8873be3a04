// A graph of operations for cuDNN's fused engines: tensors by number, operations between them, one plan that is kept
// and run again. What its backend API has, as far as fused attention needs it. In a build without CUDA the first call
// fails.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/context.h"

struct cudnnContext;

namespace matvlm {

enum class DnnType { f32, bf16, i32, boolean };
enum class DnnPointwise {
  add,
  subtract,
  multiply,
  divide,
  exp,
  log,
  identity,
  less,
  greater_equal,
  logical_and,
  select
};
enum class DnnReduction { max, sum };

using DnnTensor = int64_t;  // number of a tensor in its graph, from 1; 0: none

struct DnnTensorInfo {
  std::vector<int64_t> dims;     // four
  std::vector<int64_t> strides;  // in elements
  DnnType type = DnnType::f32;
  // i32 [B + 1, 1, 1, 1]: elements from the start of the memory to each of the B parts of dimension 0 (packed rows).
  DnnTensor offsets = 0;
};

// Sizes of a product that are shorter than the tensors say, per sequence: i32 [B, 1, 1, 1], or 0.
struct DnnLengths {
  DnnTensor m = 0, n = 0, k = 0;
};

// 9 * 10000 + minor * 100 + patch of the library that is loaded; 0 in a build without CUDA.
int64_t dnn_version();

// A handle of cuDNN whose work goes to a stream (a cudaStream_t), for CudaContext, which owns it. Null may be
// destroyed.
cudnnContext* make_dnn_handle(void* stream);
void destroy_dnn_handle(cudnnContext* handle) noexcept;

class DnnGraph {
 public:
  // name: what its errors start with. Error on the CPU.
  DnnGraph(Context& ctx, std::string name);
  ~DnnGraph();
  DnnGraph(const DnnGraph&) = delete;
  DnnGraph& operator=(const DnnGraph&) = delete;

  // Memory that run() is given, aligned to 16 bytes.
  DnnTensor memory(const DnnTensorInfo& info);
  // What only exists inside.
  DnnTensor inner(const DnnTensorInfo& info);
  DnnTensor number(float value);

  // c = a b over the last two dimensions. padding: a and b count as zeros past their lengths.
  void matmul(DnnTensor a, DnnTensor b, DnnTensor c, const DnnLengths& lengths = {}, bool padding = false);
  // out = mode(inputs) in the arithmetic of `compute`; select: inputs[2] ? inputs[0] : inputs[1].
  void pointwise(DnnPointwise mode, const std::vector<DnnTensor>& inputs, DnnTensor out,
                 DnnType compute = DnnType::f32);
  // out = index along dimension `axis` of each element of `like`.
  void index(DnnTensor like, int64_t axis, DnnTensor out, DnnType compute = DnnType::f32);
  // Over the dimensions in which out has 1 (or, of grouped heads, fewer).
  void reduce(DnnReduction mode, DnnTensor in, DnnTensor out);
  void reshape(DnnTensor in, DnnTensor out);

  // The first plan that cuDNN's heuristics offer and its engines accept; no timing. Error when there is none.
  void build();
  // All memory() tensors with their pointers, in any order. Work on the context's stream.
  void run(Context& ctx, const std::vector<std::pair<DnnTensor, const void*>>& pointers) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace matvlm
