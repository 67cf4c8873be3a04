// The method's switches as plain data; launch/config reads them from YAML, tests fill them by hand.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace matvlm {

enum class LogitLossKind { none, kl, reverse_kl, jsd, argmax_ce, logit_l2 };
enum class LayerLossKind { none, l2, mse, cosine };
enum class Reduction { published, per_token };
enum class LossPositions { all, answers };  // valid positions that the logit and layer losses count
enum class LayerLossAt { mixer, block };    // in sequential blocks only; parallel ones know no difference

struct LossConfig {
  LogitLossKind logit = LogitLossKind::kl;
  LayerLossKind layer = LayerLossKind::l2;
  double logit_weight = 1.0;
  double layer_weight = 1.0;
  double ce_weight = 0.0;
  double temperature = 1.0;  // > 0
  Reduction reduction = Reduction::published;
  LossPositions positions = LossPositions::all;
  LayerLossAt layer_at = LayerLossAt::mixer;
};

struct OptimizerConfig {
  double lr = 2e-4;  // peak
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.01;
  double clip = 0.1;  // global gradient norm; 0 = no clipping
  Offload offload = Offload::none;
};

// CUDA graphs of steps whose shapes repeat; automatic: where they can be had.
enum class GraphUse { off, automatic, on };

enum class ScheduleKind { wsd, cosine, constant };

// All lengths in samples, so that the schedule does not depend on the number of ranks or the batch size.
struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::wsd;
  int64_t warmup = 64000;   // linear from 0
  int64_t decay = 64000;    // wsd only: half a cosine to min_factor at the end
  int64_t total = 0;        // of the run
  double min_factor = 0.0;  // of the peak, at the end
};

enum class MixerInit { attention, random };

struct StudentConfig {
  std::vector<int64_t> ssm_layers;
  bool is_bias = false;
  MixerInit init = MixerInit::attention;
  bool tune_connector = true;
  std::vector<std::string> trainable;  // further name patterns (* matches anything)
  int64_t conv_width = 4;
};

}  // namespace matvlm
