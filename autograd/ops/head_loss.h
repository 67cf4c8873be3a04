// The language-model head fused with the losses on its logits (method section 3), over tiles of rows: no [T, V] tensor
// is ever stored. Gradients with respect to the hidden states are computed tile by tile in forward, so that a frozen
// head costs three products per tile; those of a trained head are added in backward.
//
// Letters: T rows (packed tokens), D width, V vocabulary, B samples, R counted rows of a tile.
//   s = student_hidden W_s^T + b_s,  t = teacher_hidden W_t^T + b_t          [R, V] float32, scratch only
#pragma once

#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "autograd/graph.h"
#include "autograd/seqlens.h"

namespace matvlm {

// Per row, with temperature tau: kl tau^2 KL(softmax(t/tau) || softmax(s/tau)); reverse_kl the same with s and t
// swapped; jsd tau^2/2 [KL(t||m) + KL(s||m)], m the mean of the two distributions; argmax_ce -log softmax(s)[argmax t]
// at temperature 1, the lowest index on ties; logit_l2 |t - s|, whose gradient at t = s is 0.
enum class LogitKind { none, kl, reverse_kl, jsd, argmax_ce, logit_l2 };

struct HeadLossSpec {
  LogitKind kind = LogitKind::kl;
  double temperature = 1.0;  // > 0
  bool segment_norm =
      false;                 // logit_l2 only: the Frobenius norm over a sample's counted rows x V, not one norm per row
  double logit_scale = 1.0;  // weights of the two terms in `loss`
  double ce_scale = 1.0;
  int64_t scratch_bytes = 128LL << 20;  // bound on the tiles; at least one row is taken
};

// Of the rows. lens and segment_weight are read with segment_norm only.
struct HeadLossWeights {
  std::vector<float>
      logit_weight;  // [T] coefficient of the row's logit loss, 0 = not counted (marks only in segment_norm)
  std::vector<float> segment_weight;  // [B], segment_norm only: coefficient of each sample's norm
  SeqlensPtr lens;
  std::vector<float> ce_weight;    // [T] coefficient of -log softmax(s)[target], 0 = not counted; empty = no such term
  std::vector<int32_t> ce_target;  // [T]; read where ce_weight is not 0, then in [0, V)
};

// The counted rows on the device: n of T.
struct HeadLossRows {
  int64_t tokens = 0, n = 0;
  Tensor index;              // i64 [n] in the T rows, increasing
  Tensor logit_coefficient;  // f32 [n]; undefined when kind is none
  Tensor ce_coefficient;     // f32 [n]; undefined without label loss
  Tensor target;             // i32 [n]
  Tensor segment_begin;      // i64 [B + 1] among the n rows; segment_norm only
  Tensor segment_weight;     // f32 [B]
};
// Fills `rows` when the uploads are sent, for T tokens and V words. Error for wrong lengths, a target outside [0, V) or
// weights that are not finite.
void make_head_loss_rows(UploadBatch& uploads, const HeadLossSpec& spec, const HeadLossWeights& weights, int64_t tokens,
                         int64_t vocab, HeadLossRows& rows);

struct HeadLossInputs : HeadLossWeights {
  Var student_hidden;                // [T, D], f32 or (GPU) bf16; any row stride
  Tensor teacher_hidden;             // [T, D'], same dtype; undefined when kind is none
  Weight student_weight;             // [V, D], contiguous
  Weight student_bias;               // [V] or undefined
  Tensor teacher_weight;             // [V, D']
  Tensor teacher_bias;               // [V] or undefined
  std::optional<HeadLossRows> rows;  // in place of the weights: made before, for the same kind of loss
};

// Positions in HeadLossResult::counts.
enum HeadCount : int64_t {
  kCountAgreement = 0,  // rows with a logit weight where argmax s == argmax t
  kCountLogitRows = 1,  // rows with a logit weight
  kCountCorrect = 2,    // rows with a label weight where argmax s == target
  kCountLabelRows = 3,  // rows with a label weight
  kHeadCounts = 4,
};

// On the device of the inputs; nothing is synchronised.
struct HeadLossResult {
  Var loss;           // f32 [1] = logit_scale * logit_term + ce_scale * ce_term; a root of Graph::backward
  Tensor logit_term;  // f64 [1], sum of weight * loss, without the scale
  Tensor ce_term;     // f64 [1]
  Tensor counts;      // f64 [kHeadCounts]
};

// Error on wrong shapes, dtypes, lengths, a target outside [0, V), weights that are not finite or temperature <= 0.
// Equal bits of teacher and student (hidden states and weights) give exactly 0 for kl, reverse_kl, jsd and logit_l2,
// and gradients that are exactly 0.
HeadLossResult head_loss(Graph& g, const HeadLossSpec& spec, const HeadLossInputs& in);

// hidden [R, D] x weight [V, D]^T + bias [V] (may be undefined) -> f32 [R, V]. For generation.
Tensor head_logits(Context& ctx, const Tensor& hidden, const Tensor& weight, const Tensor& bias);
// Index of the largest value of every row of f32 [R, V], the lowest on ties; synchronises.
std::vector<int32_t> argmax_rows(Context& ctx, const Tensor& logits);

// --- Raw kernels -----------------------------------------------------------------------------------------------------

// Type of a loss: sums over a row are kept in double at least.
template <class S>
using LossOf = std::conditional_t<std::is_floating_point_v<S>, double, S>;

// Losses of R rows and, where grad is given, their gradients with respect to s. S: type of the logits; G: of the
// gradient.
template <class S, class G = S>
struct HeadRows {
  int64_t rows = 0;
  int64_t vocab = 0;
  LogitKind kind = LogitKind::none;
  bool segment_norm = false;  // logit_l2: loss = |t - s|^2 and gradient = coefficient * (s - t)
  double temperature = 1.0;
  double logit_scale = 1.0;  // multiply the gradients, not the losses
  double ce_scale = 1.0;
  const S* student = nullptr;                // [R, V]
  const S* teacher = nullptr;                // [R, V] unless kind is none
  const float* logit_coefficient = nullptr;  // [R]; 0: no logit loss in this row. nullptr when kind is none
  const float* ce_coefficient = nullptr;     // [R]; 0: no label loss in this row. nullptr: in no row
  const int32_t* target = nullptr;           // [R]
  G* grad = nullptr;                         // [R, V]; nullptr: losses only. May be `student` when the types agree
  // Outputs, one per row, without coefficient; 0 where the row is not counted.
  LossOf<S>* logit_loss = nullptr;
  LossOf<S>* ce_loss = nullptr;
  int32_t* agree = nullptr;    // argmax s == argmax t
  int32_t* correct = nullptr;  // argmax s == target
  bool portable = false;       // GPU: never the kernel of clusters of blocks (sm_90), which reads the logits once
};

// Weighted sums of row (or sample) losses and the counts; every pointer on the device.
struct HeadTotals {
  int64_t rows = 0;
  int64_t logit_items = 0;             // rows, or samples in segment_norm
  const double* logit_loss = nullptr;  // [logit_items]
  const float* logit_weight = nullptr;
  const double* ce_loss = nullptr;    // [rows]
  const float* ce_weight = nullptr;   // [rows] or nullptr
  const float* row_weight = nullptr;  // [rows] logit coefficient, for counting; nullptr when kind is none
  const int32_t* agree = nullptr;
  const int32_t* correct = nullptr;
  double logit_scale = 1.0;
  double ce_scale = 1.0;
  float* loss = nullptr;         // [1]
  double* logit_term = nullptr;  // [1]
  double* ce_term = nullptr;     // [1]
  double* counts = nullptr;      // [kHeadCounts]
};

template <class G>
void head_rows_cuda(Context& ctx, const HeadRows<float, G>& a);
void head_totals_cuda(Context& ctx, const HeadTotals& a);
// dst[i] = src[rows[i]] for n rows of `bytes` bytes (a multiple of 2); scatter: dst[rows[i]] = src[i]. Strides in
// bytes.
void gather_rows_cuda(Context& ctx, int64_t n, int64_t bytes, const int64_t* rows, const void* src, int64_t src_stride,
                      void* dst);
void scatter_rows_cuda(Context& ctx, int64_t n, int64_t bytes, const int64_t* rows, const void* src, void* dst,
                       int64_t dst_stride);
// sum[v] += sum over r of x[r, v], in the order of the rows.
template <class T>
void add_column_sums_cuda(Context& ctx, int64_t rows, int64_t cols, const T* x, float* sum);
void argmax_rows_cuda(Context& ctx, int64_t rows, int64_t cols, const float* x, int64_t stride, int32_t* index);

}  // namespace matvlm
