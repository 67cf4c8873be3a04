// Layer-wise loss (method section 3): the difference d of the student's and the teacher's output of one layer, over the
// counted rows. The gradient is computed in forward, so neither output has to be kept for backward.
//
// Letters: T rows (packed tokens), D width, B samples.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/graph.h"
#include "autograd/seqlens.h"

namespace matvlm {

// Per row: l2 |d|; mse the mean of d^2 over D; cosine 1 - cos(student, teacher), 1 with gradient 0 where one of the two
// is (almost) zero. The gradient of l2 at d = 0 is 0.
enum class LayerKind { l2, mse, cosine };

struct LayerLossSpec {
  LayerKind kind = LayerKind::l2;
  bool segment_norm = false;  // l2 only: the Frobenius norm over a sample's counted rows x D, not one norm per row
  double scale = 1.0;         // weight of the term in `loss`
};

// On the device of the inputs; nothing is synchronised.
struct LayerLossResult {
  Var loss;     // f32 [1] = scale * term; a root of Graph::backward
  Tensor term;  // f64 [1], sum of weight * loss, without the scale
};

// The weights of a loss on the device, for several layers that are compared on the same rows.
struct LayerLossRows {
  Tensor row_weight;      // f32 [T]
  Tensor segment_weight;  // f32 [B], segment_norm only
};
// Fills `rows` when the uploads are sent. Errors: see layer_loss.
void make_layer_loss_rows(UploadBatch& uploads, const LayerLossSpec& spec, const std::vector<float>& row_weight,
                          const std::vector<float>& segment_weight, const SeqlensPtr& lens, LayerLossRows& rows);

// student [T, D], f32 or (GPU) bf16, any row stride; teacher [T, D], same dtype. row_weight [T]: coefficient of the
// row's loss, 0 = not counted (marks only in segment_norm, where segment_weight [B] and lens are needed). Error on
// wrong shapes, dtypes, lengths or weights that are not finite. Equal bits give exactly 0 and gradients that are
// exactly 0.
LayerLossResult layer_loss(Graph& g, const LayerLossSpec& spec, const Var& student, const Tensor& teacher,
                           const std::vector<float>& row_weight, const std::vector<float>& segment_weight,
                           const SeqlensPtr& lens);
LayerLossResult layer_loss(Graph& g, const LayerLossSpec& spec, const Var& student, const Tensor& teacher,
                           const LayerLossRows& rows, const SeqlensPtr& lens);

// --- Raw kernels -----------------------------------------------------------------------------------------------------

// Losses of all rows (without coefficient) and, where grad is given, gradients: scale * coefficient * dloss/dstudent.
// S: type of the values.
template <class S>
struct LayerRows {
  int64_t rows = 0;
  int64_t width = 0;
  LayerKind kind = LayerKind::l2;
  bool segment_norm = false;  // l2: loss = |d|^2 and gradient = scale * coefficient * d
  double scale = 1.0;
  const S* student = nullptr;  // [T, D], rows at student_stride
  const S* teacher = nullptr;  // [T, D], rows at teacher_stride
  int64_t student_stride = 0;
  int64_t teacher_stride = 0;
  const float* coefficient = nullptr;  // [T]; 0: loss 0, gradient 0
  S* grad = nullptr;                   // [T, D] contiguous, or nullptr
};

// loss [T] float64, or nullptr.
template <class S>
void layer_rows_cuda(Context& ctx, const LayerRows<S>& a, double* loss);

}  // namespace matvlm
