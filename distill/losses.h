// The method's reductions (§3) as coefficients: a loss term is a plain sum over positions (or samples) of coefficient x
// value, with denominators counted over all ranks and micro-batches of the update, so that neither can change it.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/ops/head_loss.h"
#include "autograd/ops/layer_loss.h"
#include "distill/config.h"
#include "layers/rows.h"

namespace matvlm {

// Denominators of one update.
struct UpdateCounts {
  int64_t samples = 0;    // rows
  int64_t positions = 0;  // that the logit and layer losses count
  int64_t answers = 0;    // next-token targets that the label loss counts
};

UpdateCounts count_rows(const SplicedRows& rows, LossPositions positions);

// Coefficients of one micro-batch.
struct LossWeights {
  std::vector<float> logit;      // [T]
  std::vector<float> layer;      // [T]
  std::vector<float> segment;    // [B], for norms over whole samples
  std::vector<float> ce;         // [T], empty without a label loss
  std::vector<int32_t> targets;  // [T]
  bool logit_segment_norm = false;
  bool layer_segment_norm = false;
};
LossWeights loss_weights(const LossConfig& config, const SplicedRows& rows, const UpdateCounts& update);

LogitKind logit_kind(LogitLossKind kind);
LayerKind layer_kind(LayerLossKind kind);  // not for `none`

}  // namespace matvlm
