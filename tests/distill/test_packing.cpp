// Samples packed into one row of tokens get the bits that they have alone, when the algorithms of the matrix products
// do not depend on the number of rows; their gradients add up to the row's, within rounding.
#include <gtest/gtest.h>

#include "core/gemm.h"
#include "launch/bench_step.h"
#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

struct PackedSample {
  int64_t words;
  bool picture;
};

MicroBatch batch_of(const ModelConfig& config, const std::vector<PackedSample>& samples, size_t first, size_t count) {
  const VisionConfig& vision = *config.vision;
  MicroBatch out;
  out.image_size = vision.image_size;
  out.rows.cu.push_back(0);
  for (size_t i = first; i < first + count; ++i) {
    const Rng rng{3, i};
    if (samples[i].picture) {
      out.rows.ids.push_back(kImageId);
      out.rows.labels.push_back(kNoLabel);
      for (int64_t p = 0; p < 3 * vision.image_size * vision.image_size; ++p) {
        out.images.push_back(static_cast<float>(rng.normal(static_cast<uint64_t>(p))));
      }
    }
    for (int64_t w = 0; w < samples[i].words; ++w) {
      const uint64_t index = (1ULL << 40) + static_cast<uint64_t>(w);
      const auto id = static_cast<int32_t>(rng.below(index, static_cast<uint64_t>(config.text.vocab)));
      out.rows.ids.push_back(id);
      out.rows.labels.push_back(w % 2 == 0 ? kNoLabel : id);
    }
    out.rows.cu.push_back(static_cast<int64_t>(out.rows.ids.size()));
    out.rows.image_of_row.push_back(samples[i].picture ? out.n_images++ : -1);
  }
  return out;
}

// Rows [begin, end) of the packed tensor are the whole of the other.
void expect_same_rows(Context& ctx, const Tensor& packed, int64_t begin, int64_t end, const Tensor& alone,
                      const std::string& what) {
  ASSERT_EQ(alone.dim(0), end - begin) << what;
  EXPECT_EQ(packed.slice_rows(begin, end).to_floats(ctx), alone.to_floats(ctx)) << what;
}

void expect_packed_as_alone(Context& ctx, const ModelConfig& teacher, const StudentConfig& student, DType dtype,
                            const std::vector<PackedSample>& samples, double bound) {
  const PinnedProducts pinned;
  const TrainingModels made = make_random_models(ctx, teacher, student, dtype, 5);
  Models models;
  models.teacher = &made.teacher->vlm;
  models.student = &made.vlm;
  models.dtype = dtype;
  LossConfig loss;
  loss.ce_weight = 0.5;
  const ParameterStore& store = made.weights.store();

  const MicroBatch batch = batch_of(made.config, samples, 0, samples.size());
  const SplicedRows rows = splice_for(models, batch);
  const UpdateCounts counts = count_rows(rows, loss.positions);
  StepTrace packed;
  store.zero_grad(ctx);
  const LossTerms together = run_micro_batch(ctx, models, loss, batch, rows, counts, true, {}, &packed);
  const std::vector<std::vector<float>> row_gradients = gradients(ctx, store);

  LossTerms sum;
  int64_t image = 0;
  store.zero_grad(ctx);
  for (size_t i = 0; i < samples.size(); ++i) {
    const MicroBatch one = batch_of(made.config, samples, i, 1);
    StepTrace alone;
    sum.add(run_micro_batch(ctx, models, loss, one, splice_for(models, one), counts, true, {}, &alone));
    const int64_t begin = rows.cu[i], end = rows.cu[i + 1];
    const std::string sample = cat("sample ", i, " of ", end - begin, " positions, ", dtype_name(dtype), ": ");
    if (samples[i].picture) {
      const int64_t patches = made.config.vision->patches();
      expect_same_rows(ctx, packed.vision_features, image * patches, (image + 1) * patches, alone.vision_features,
                       sample + "vision features");
      ++image;
    }
    ASSERT_EQ(alone.teacher_hidden.size(), packed.teacher_hidden.size());
    for (size_t l = 0; l < alone.teacher_hidden.size(); ++l) {
      expect_same_rows(ctx, packed.teacher_hidden[l], begin, end, alone.teacher_hidden[l], cat(sample, "teacher ", l));
      expect_same_rows(ctx, packed.student_hidden[l], begin, end, alone.student_hidden[l], cat(sample, "student ", l));
    }
    expect_same_rows(ctx, packed.teacher_final, begin, end, alone.teacher_final, sample + "teacher's last");
    expect_same_rows(ctx, packed.student_final, begin, end, alone.student_final, sample + "student's last");
  }
  EXPECT_NEAR(sum.total, together.total, 1e-5 * std::abs(together.total));
  const std::vector<std::vector<float>> alone_gradients = gradients(ctx, store);
  for (size_t p = 0; p < alone_gradients.size(); ++p) {
    EXPECT_GT(relative_error(row_gradients[p], std::vector<float>(row_gradients[p].size(), 0.0F)), 0.0);
    EXPECT_LE(relative_error(row_gradients[p], alone_gradients[p]), bound) << store.parameters()[p]->name;
  }
}

StudentConfig packing_student() {
  StudentConfig s;
  s.ssm_layers = {0, 2};
  return s;
}

TEST(Packing, SameBitsAsAlone) {
  expect_packed_as_alone(cpu(), tiny_config(), packing_student(), DType::f32,
                         {{5, true}, {1, false}, {17, true}, {64, false}, {31, true}}, 1e-5);
}

// 1, 64, 65 and 257 positions, beside tiles of 64 and chunks of 256.
TEST(PackingCuda, SameBitsAsAlone) {
  const auto ctx = new_cuda();
  const std::vector<PackedSample> samples = {{114, true}, {1, false},  {50, true},
                                             {64, false}, {242, true}, {65, false}};
  expect_packed_as_alone(*ctx, wide_heads_config(), packing_student(), DType::f32, samples, 1e-5);
  // Gradients of weights are summed in float32; the rows they are summed over have the same bits.
  expect_packed_as_alone(*ctx, wide_heads_config(), packing_student(), DType::bf16, samples, 1e-4);
}

}  // namespace
}  // namespace matvlm::testing
