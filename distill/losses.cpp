#include "distill/losses.h"

#include "core/error.h"

namespace matvlm {
namespace {

// 1 where a position counts. Without labels (generation) every position does.
std::vector<uint8_t> counted_positions(const SplicedRows& rows, LossPositions positions) {
  std::vector<uint8_t> counted(rows.source.size(), 1);
  if (positions == LossPositions::all || rows.labels.empty()) return counted;
  // The position that predicts an answer's token, not the token's own, is what the student must get right.
  const std::vector<int32_t> targets = rows.targets();
  for (size_t t = 0; t < counted.size(); ++t) counted[t] = targets[t] == kNoLabel ? 0 : 1;
  return counted;
}

// Coefficients of a row-wise loss: 1/samples each, 1/(samples x counted rows of the sample), or 1/positions.
enum class Share { sample_sum, sample_mean, position_mean };

std::vector<float> row_weights(const SplicedRows& rows, const std::vector<uint8_t>& counted, Share share,
                               const UpdateCounts& update) {
  std::vector<float> out(counted.size(), 0.0F);
  for (size_t b = 0; b + 1 < rows.cu.size(); ++b) {
    int64_t in_sample = 0;
    for (int64_t t = rows.cu[b]; t < rows.cu[b + 1]; ++t) in_sample += counted[static_cast<size_t>(t)];
    double weight = 1.0 / static_cast<double>(update.samples);
    if (share == Share::sample_mean) weight /= static_cast<double>(in_sample > 0 ? in_sample : 1);
    if (share == Share::position_mean) weight = 1.0 / static_cast<double>(update.positions);
    for (int64_t t = rows.cu[b]; t < rows.cu[b + 1]; ++t) {
      if (counted[static_cast<size_t>(t)] != 0) out[static_cast<size_t>(t)] = static_cast<float>(weight);
    }
  }
  return out;
}

}  // namespace

UpdateCounts count_rows(const SplicedRows& rows, LossPositions positions) {
  UpdateCounts counts;
  counts.samples = static_cast<int64_t>(rows.cu.size()) - 1;
  for (const uint8_t c : counted_positions(rows, positions)) counts.positions += c;
  if (!rows.labels.empty()) {
    for (const int32_t target : rows.targets()) counts.answers += target == kNoLabel ? 0 : 1;
  }
  return counts;
}

LossWeights loss_weights(const LossConfig& config, const SplicedRows& rows, const UpdateCounts& update) {
  check(update.samples > 0, "[losses] an update without samples");
  const bool published = config.reduction == Reduction::published;
  const std::vector<uint8_t> counted = counted_positions(rows, config.positions);
  LossWeights w;
  w.logit_segment_norm = published && config.logit == LogitLossKind::logit_l2;
  w.layer_segment_norm = published && config.layer == LayerLossKind::l2;
  // `published` sums a divergence over a sample's positions; its argmax_ce is the sample's mean, and so are mse and
  // cosine, which the published code does not have.
  const bool logit_mean = config.logit == LogitLossKind::argmax_ce;
  const bool layer_mean = config.layer == LayerLossKind::mse || config.layer == LayerLossKind::cosine;
  const auto share = [&](bool mean) {
    return !published ? Share::position_mean : mean ? Share::sample_mean : Share::sample_sum;
  };
  w.logit = row_weights(rows, counted, share(logit_mean), update);
  w.layer = row_weights(rows, counted, share(layer_mean), update);
  w.segment.assign(rows.cu.size() - 1, static_cast<float>(1.0 / static_cast<double>(update.samples)));
  if (!rows.labels.empty()) {
    w.targets = rows.targets();
    w.ce.assign(w.targets.size(), 0.0F);
    const float weight = update.answers > 0 ? static_cast<float>(1.0 / static_cast<double>(update.answers)) : 0.0F;
    for (size_t t = 0; t < w.targets.size(); ++t) {
      if (w.targets[t] != kNoLabel) w.ce[t] = weight;
    }
  }
  return w;
}

LogitKind logit_kind(LogitLossKind kind) {
  switch (kind) {
    case LogitLossKind::none:
      return LogitKind::none;
    case LogitLossKind::kl:
      return LogitKind::kl;
    case LogitLossKind::reverse_kl:
      return LogitKind::reverse_kl;
    case LogitLossKind::jsd:
      return LogitKind::jsd;
    case LogitLossKind::argmax_ce:
      return LogitKind::argmax_ce;
    case LogitLossKind::logit_l2:
      return LogitKind::logit_l2;
  }
  return LogitKind::none;
}

LayerKind layer_kind(LayerLossKind kind) {
  check(kind != LayerLossKind::none, "[losses] no layer loss");
  if (kind == LayerLossKind::mse) return LayerKind::mse;
  return kind == LayerLossKind::cosine ? LayerKind::cosine : LayerKind::l2;
}

}  // namespace matvlm
