#include "tests/support/rank_runs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace matvlm::testing {
namespace {

constexpr int64_t kRowsPerRank = 4;
// Less than one projection of a mixer, which then is a bucket of its own; small tensors share one.
constexpr int64_t kBucketBytes = 2048;

using Samples = std::vector<TinySample>;

Samples pool(int64_t update, int ranks) {
  Samples out;
  for (int64_t i = 0; i < ranks * kRowsPerRank; ++i) out.push_back(tiny_sample(update * 100 + i));
  return out;
}

// Samples [begin, end) of the rank's block of four.
Samples block(const Samples& all, int rank, int64_t begin, int64_t end) {
  const auto first = all.begin() + rank * kRowsPerRank;
  return {first + begin, first + end};
}

Samples every(const Samples& all, int index, int step) {
  Samples out;
  for (size_t i = static_cast<size_t>(index); i < all.size(); i += static_cast<size_t>(step)) out.push_back(all[i]);
  return out;
}

Samples with_image(const Samples& all, bool wanted) {
  Samples out;
  for (const TinySample& s : all) {
    if (s.image.empty() != wanted) out.push_back(s);
  }
  return out;
}

void check_close(const std::string& what, double found, double expected, double tolerance) {
  // NaN fails the comparison too.
  check(std::abs(found - expected) <= tolerance * std::abs(expected), what, ": found ", found, ", expected ", expected,
        " within ", tolerance);
}

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace

std::vector<MicroBatch> rank_share(int64_t update, int rank, int ranks) {
  const Samples all = pool(update, ranks);
  const auto blocks = [&](std::vector<int64_t> cuts) {
    std::vector<MicroBatch> out;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) out.push_back(tiny_batch(block(all, rank, cuts[i], cuts[i + 1])));
    return out;
  };
  switch (update) {
    case 0:
      return blocks({0, 4});
    case 1:
      if (rank == 0) return {tiny_batch(with_image(all, false))};
      return {tiny_batch(every(with_image(all, true), rank - 1, ranks - 1))};
    case 2:
      if (rank == ranks - 1) return {};
      return {tiny_batch(every(all, rank, ranks - 1))};
    case 3:
      return rank % 2 == 0 ? blocks({0, 1, 4}) : blocks({0, 2, 3, 4});
    default: {
      std::vector<MicroBatch> out = blocks({0, 4});
      if (rank == 0) out.push_back(tiny_batch(Samples{}));
      return out;
    }
  }
}

std::vector<MicroBatch> whole_share(int64_t update, int ranks) { return {tiny_batch(pool(update, ranks))}; }

int64_t samples_of(int64_t update, int ranks) { return static_cast<int64_t>(pool(update, ranks).size()); }

RankRun run_rank(Context& ctx, Comm& host, Comm& device, const LossConfig& loss, int shares_of) {
  const auto models = make_tiny_models(ctx, tiny_student());
  Trainer::Setup setup = tiny_setup(ctx, host, device, *models, loss);
  setup.bucket_bytes = kBucketBytes;
  check(GradSync(ctx, device, models->store(), kBucketBytes).buckets() >= 4, "too few buckets for this test");
  Trainer trainer(setup);
  const auto share = [&](int64_t update) {
    return host.size() == shares_of ? rank_share(update, host.rank(), shares_of) : whole_share(update, shares_of);
  };
  RankRun run;
  int64_t samples = 0;
  for (int64_t update = 0; update < kRankUpdates; ++update) {
    const UpdateReport report = trainer.update(share(update), update + 1, samples);
    check(report.counts.samples == samples_of(update, shares_of), "update ", update, ": found ", report.counts.samples,
          " samples, expected ", samples_of(update, shares_of));
    samples += report.counts.samples;
    run.totals.push_back(report.terms.total);
    run.grad_norms.push_back(report.grad_norm);
  }
  run.evaluated = trainer.evaluate(share(0)).terms.total;
  for (const auto& p : models->store().parameters()) run.names.push_back(p->name);
  run.masters = master_values(ctx, models->store());
  return run;
}

std::vector<LossConfig> rank_losses() {
  LossConfig published;
  published.ce_weight = 0.5;
  LossConfig per_token = published;
  per_token.reduction = Reduction::per_token;
  per_token.layer = LayerLossKind::mse;
  LossConfig norms = published;
  norms.logit = LogitLossKind::logit_l2;
  norms.positions = LossPositions::answers;
  LossConfig means = published;
  means.logit = LogitLossKind::argmax_ce;
  means.layer = LayerLossKind::cosine;
  return {published, per_token, norms, means};
}

void check_close_runs(const std::string& what, const RankRun& found, const RankRun& expected, double tolerance) {
  check(found.names == expected.names && !found.names.empty(), what, ": other parameters");
  for (size_t i = 0; i < found.names.size(); ++i) {
    const double distance = relative_distance(found.masters[i], expected.masters[i]);
    check(distance <= tolerance, what, ", '", found.names[i], "': found a relative difference of ", distance,
          ", expected at most ", tolerance);
  }
  for (size_t i = 0; i < found.totals.size(); ++i) {
    check_close(cat(what, ", loss of update ", i), found.totals[i], expected.totals[i], tolerance);
    check_close(cat(what, ", gradient norm of update ", i), found.grad_norms[i], expected.grad_norms[i], tolerance);
  }
  check_close(what + ", evaluation", found.evaluated, expected.evaluated, tolerance);
}

double largest_distance(const RankRun& found, const RankRun& expected) {
  double largest = 0;
  for (size_t i = 0; i < found.names.size(); ++i) {
    largest = std::max(largest, relative_distance(found.masters[i], expected.masters[i]));
  }
  return largest;
}

void check_equal_runs(const std::string& what, const RankRun& found, const RankRun& expected) {
  check(found.names == expected.names && !found.names.empty(), what, ": other parameters");
  for (size_t i = 0; i < found.names.size(); ++i) {
    const std::vector<float>& a = found.masters[i];
    const std::vector<float>& b = expected.masters[i];
    check(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, what, ", '",
          found.names[i], "': other bits");
  }
  check(found.totals == expected.totals, what, ": other losses");
  check(found.grad_norms == expected.grad_norms, what, ": other gradient norms");
  check(found.evaluated == expected.evaluated, what, ": another evaluation");
}

}  // namespace matvlm::testing
