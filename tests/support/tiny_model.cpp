#include "tests/support/tiny_model.h"

#include <cmath>

#include "core/rng.h"

namespace matvlm::testing {
namespace {

constexpr int64_t kVocab = 61;
constexpr int64_t kImageSize = 8;

std::vector<float> random_floats(const std::string& name, int64_t n, double mean, double deviation, uint64_t seed) {
  const Rng rng{seed, stream_of(name)};
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(mean + deviation * rng.normal(i));
  return out;
}

}  // namespace

ModelConfig tiny_config(int64_t kv_heads) {
  ModelConfig c;
  c.text.hidden = 32;
  c.text.layers = 4;
  c.text.heads = 4;
  c.text.kv_heads = kv_heads;
  c.text.head_dim = 8;
  c.text.mlp = 48;
  c.text.vocab = kVocab;
  c.text.rotary_dims = 4;
  c.text.max_positions = 64;
  VisionConfig v;
  v.hidden = 16;
  v.mlp = 24;
  v.layers = 2;
  v.heads = 2;
  v.image_size = kImageSize;
  v.patch_size = 4;
  c.vision = v;
  return c;
}

ModelConfig wide_heads_config() {
  ModelConfig c = tiny_config(4);
  c.text.hidden = 320;
  c.text.layers = 3;
  c.text.head_dim = 80;
  c.text.rotary_dims = 32;
  c.text.mlp = 640;
  c.text.vocab = 512;
  c.vision->hidden = 144;
  c.vision->mlp = 288;
  c.vision->image_size = 56;
  c.vision->patch_size = 14;
  return c;
}

ValueSource tiny_values(const ModelConfig& config, uint64_t seed) {
  return [tensors = model_tensors(config), seed](const std::string& name) {
    for (const ModelTensor& t : tensors) {
      if (t.name != name) continue;
      const int64_t n = shape_numel(t.shape);
      if (t.shape.size() == 1) {
        const bool norm = name.find("norm") != std::string::npos && name.ends_with(".weight");
        return random_floats(name, n, norm ? 1.0 : 0.0, 0.2, seed);
      }
      // Rows of embeddings are seen as they are; of other matrices the products should neither vanish nor explode.
      const bool table = name.ends_with("embed_tokens.weight") || name.ends_with("position_embedding.weight");
      const int64_t fan_in = n / t.shape[0];
      const double deviation = table ? 0.5 : 1.0 / std::sqrt(static_cast<double>(fan_in));
      return random_floats(name, n, 0.0, deviation, seed);
    }
    return std::vector<float>();
  };
}

TinyModels::~TinyModels() = default;

Models TinyModels::models() const {
  Models m;
  m.teacher = &teacher;
  m.student = &student;
  return m;
}

ModelConfig tiny_llama_config(int64_t kv_heads) {
  ModelConfig c = tiny_config(kv_heads);
  c.vision.reset();
  c.text.model_type = "llama";
  c.text.rotary_dims = c.text.head_dim;
  c.text.head_bias = false;
  c.text.tied_head = true;
  c.text.block = {false, NormKind::rms_norm, MlpKind::swiglu, false, false, false};
  return c;
}

namespace {

std::unique_ptr<TinyModels> make_models(Context& ctx, const ModelConfig& teacher, const StudentConfig& student) {
  auto out = std::make_unique<TinyModels>();
  out->teacher_config = teacher;
  out->student_config = student_config(out->teacher_config, student);
  const ValueSource values = tiny_values(out->teacher_config);
  const auto frozen = [](const std::string&) { return false; };
  out->teacher_weights = make_weights(ctx, out->teacher_config, DType::f32, frozen, values);
  out->student_weights =
      make_student_weights(ctx, out->student_config, student, out->teacher_weights, values, DType::f32, 5);
  out->teacher = make_vlm(out->teacher_weights, out->teacher_config);
  out->student = make_vlm(out->student_weights, out->student_config);
  return out;
}

}  // namespace

std::unique_ptr<TinyModels> make_tiny_models(Context& ctx, const StudentConfig& student, int64_t kv_heads) {
  return make_models(ctx, tiny_config(kv_heads), student);
}

std::unique_ptr<TinyModels> make_tiny_llama(Context& ctx, const StudentConfig& student, int64_t kv_heads) {
  return make_models(ctx, tiny_llama_config(kv_heads), student);
}

StudentConfig tiny_student() {
  StudentConfig s;
  s.ssm_layers = {0, 2};
  return s;
}

TinySample tiny_sample(int64_t index) {
  const Rng rng{17, static_cast<uint64_t>(index)};
  TinySample s;
  const auto n = static_cast<int64_t>(5 + rng.below(0, 7));
  const auto answer = static_cast<int64_t>(2 + rng.below(1, 4));
  for (int64_t i = 0; i < n; ++i) {
    const auto id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(10 + i), kVocab));
    s.ids.push_back(id);
    s.labels.push_back(i >= n - answer ? id : kNoLabel);
  }
  if (index % 3 == 2) return s;
  s.ids[1] = kImageId;
  s.image = random_floats("image", 3 * kImageSize * kImageSize, 0.0, 1.0, static_cast<uint64_t>(100 + index));
  return s;
}

MicroBatch tiny_batch(const std::vector<TinySample>& samples) {
  MicroBatch batch;
  batch.image_size = kImageSize;
  batch.rows.cu.push_back(0);
  for (const TinySample& s : samples) {
    batch.rows.ids.insert(batch.rows.ids.end(), s.ids.begin(), s.ids.end());
    batch.rows.labels.insert(batch.rows.labels.end(), s.labels.begin(), s.labels.end());
    batch.rows.cu.push_back(static_cast<int64_t>(batch.rows.ids.size()));
    batch.rows.image_of_row.push_back(s.image.empty() ? -1 : batch.n_images++);
    batch.images.insert(batch.images.end(), s.image.begin(), s.image.end());
  }
  return batch;
}

MicroBatch tiny_batch(int64_t first, int64_t count) {
  std::vector<TinySample> samples;
  for (int64_t i = 0; i < count; ++i) samples.push_back(tiny_sample(first + i));
  return tiny_batch(samples);
}

Trainer::Setup tiny_setup(Context& ctx, Comm& host, Comm& device, const TinyModels& models, const LossConfig& loss) {
  Trainer::Setup setup;
  setup.ctx = &ctx;
  setup.host = &host;
  setup.device = &device;
  setup.models = models.models();
  setup.store = &models.store();
  setup.loss = loss;
  setup.schedule.kind = ScheduleKind::constant;
  setup.schedule.warmup = 0;
  return setup;
}

std::vector<std::vector<float>> master_values(Context& ctx, const ParameterStore& store) {
  std::vector<std::vector<float>> out;
  for (const auto& p : store.parameters()) out.push_back(p->master.to_floats(ctx));
  return out;
}

std::vector<std::vector<float>> gradients(Context& ctx, const ParameterStore& store) {
  std::vector<std::vector<float>> out;
  for (const auto& p : store.parameters()) out.push_back(p->grad.to_floats(ctx));
  return out;
}

void begin_poisoned(Context& ctx, const ParameterStore& store) {
  const std::vector<float> nans(static_cast<size_t>(store.grad().numel()), std::nanf(""));
  ctx.to_device(store.grad().raw(), nans.data(), store.grad().numel() * 4);
  store.begin_update(ctx, 1);
}

void settle_all(Context& ctx, const ParameterStore& store) { store.settle(ctx, 0, store.parameters().size()); }

}  // namespace matvlm::testing
