// Parameter arenas and the optimizer that walks over them.
#include <algorithm>
#include <bit>
#include <cmath>

#include "autograd/ops/adamw.h"
#include "autograd/ops/adamw_cpu.h"
#include "autograd/parameter.h"
#include "core/allocator.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

// A matrix, a vector, a bias that is a matrix, one kept in float32, one that is exactly aligned.
void declare_all(ParameterStore& store) {
  store.declare("proj.weight", {33, 20});
  store.declare("proj.bias", {33});
  store.declare("other.bias", {3, 7});
  store.declare("A_log", {5}, true);
  store.declare("conv1d.weight", {16, 4});
}

// Large enough for pieces of the CPU and blocks of the GPU; two kept in float32 side by side, one of them the last.
void declare_more(ParameterStore& store) {
  declare_all(store);
  store.declare("in_proj.weight", {300, 333});
  store.declare("D", {80}, true);
  store.declare("dt_bias", {65}, true);
}

TEST(ParameterStore, ArenasAndViews) {
  ParameterStore store;
  declare_all(store);
  EXPECT_FALSE(store.allocated());
  store.allocate(cpu(), DType::bf16);
  EXPECT_TRUE(store.allocated());
  EXPECT_EQ(store.numel(), 33 * 20 + 33 + 21 + 5 + 64);
  EXPECT_EQ(store.master().numel() % ParameterStore::kArenaPadding, 0);
  for (int64_t ranks = 1; ranks <= 10; ++ranks) EXPECT_EQ(store.master().numel() % ranks, 0);
  int64_t end = 0;
  for (const auto& p : store.parameters()) {
    EXPECT_EQ(p->offset % ParameterStore::kAlignment, 0) << p->name;
    EXPECT_GE(p->offset, end) << p->name << " overlaps its predecessor";
    end = p->offset + p->numel;
    EXPECT_TRUE(p->master.split());
    EXPECT_EQ(p->master.raw(), store.compute().data<bf16>() + p->offset);
    EXPECT_EQ(p->master.low().raw(), store.master().low().data<int16_t>() + p->offset);
    EXPECT_EQ(p->master.up().raw(), store.master().up().data<uint8_t>() + p->offset / 8);
    EXPECT_EQ(p->grad.raw(), store.grad().data<float>() + p->offset);
    EXPECT_EQ(p->master.shape(), p->shape);
  }
  EXPECT_LE(end, store.master().numel());
  EXPECT_TRUE(store.find("proj.weight")->decay);
  EXPECT_TRUE(store.find("conv1d.weight")->decay);
  EXPECT_FALSE(store.find("proj.bias")->decay);
  EXPECT_FALSE(store.find("other.bias")->decay);
  EXPECT_FALSE(store.find("A_log")->decay);
  EXPECT_EQ(store.find("A_log")->value.dtype(), DType::f32);
  EXPECT_EQ(store.find("A_log")->value.raw(), store.float32().raw());
  EXPECT_EQ(store.find("proj.weight")->value.raw(), store.find("proj.weight")->master.raw());
  EXPECT_EQ(store.float32_offset(*store.find("A_log")), 0);
  EXPECT_EQ(store.float32_offset(*store.find("proj.weight")), -1);
  EXPECT_EQ(store.bytes() - 4 * ParameterStore::kAlignment, store.grad().numel() * 129 / 8);
  EXPECT_EQ(store.find("proj.weight")->value.dtype(), DType::bf16);
  EXPECT_EQ(store.find("absent"), nullptr);
}

TEST(ParameterStore, ComputeIsTheMasterInFloat32) {
  ParameterStore store;
  declare_all(store);
  store.allocate(cpu(), DType::f32);
  EXPECT_FALSE(store.compute().defined());
  EXPECT_FALSE(store.float32().defined());
  EXPECT_EQ(store.bytes(), store.grad().numel() * 16);
  for (const auto& p : store.parameters()) EXPECT_EQ(p->value.raw(), p->master.raw());
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(ParameterStore, Errors) {
  ParameterStore store;
  store.declare("a", {2});
  EXPECT_EQ(message_of([&] { store.declare("a", {3}); }), "[parameters] 'a' declared twice");
  store.allocate(cpu(), DType::f32);
  EXPECT_EQ(message_of([&] { store.declare("b", {3}); }), "[parameters] 'b' declared after the arenas were allocated");
  EXPECT_EQ(message_of([&] { store.allocate(cpu(), DType::f32); }), "[parameters] allocated twice");
  ParameterStore other;
  EXPECT_EQ(message_of([&] { other.allocate(cpu(), DType::i32); }),
            "[parameters] compute dtype: found i32, expected f32 or bf16");
}

// Gradients of step t; the master's start.
std::vector<float> arena_values(const std::string& name, const ParameterStore& store, double scale) {
  std::vector<float> values(static_cast<size_t>(store.master().numel()), 0.0F);
  // Masters half-way between two bf16 values, and gradients of zero that leave them there.
  const auto special = [&](double x) {
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(x)) & 0xffff0000U;
    return name == "start" ? std::bit_cast<float>(bits | 0x8000U) : 0.0F;
  };
  for (const auto& p : store.parameters()) {
    const std::vector<double> random = random_values(name + p->name, p->numel, scale);
    for (size_t i = 0; i < random.size(); ++i) {
      values[static_cast<size_t>(p->offset) + i] = i % 3 == 0 ? special(random[i]) : static_cast<float>(random[i]);
    }
  }
  return values;
}

AdamWStep step_number(int t) {
  AdamWStep s;
  s.lr = 1e-2 / t;
  s.weight_decay = 0.1;
  s.bias_correction1 = 1 - std::pow(s.beta1, t);
  s.bias_correction2 = 1 - std::pow(s.beta2, t);
  s.grad_scale = t == 2 ? 0.3 : 1.0;
  return s;
}

// PyTorch's definition, statement by statement, in double.
struct PlainAdamW {
  std::vector<double> p, m, v;
  void update(const AdamWStep& s, const std::vector<float>& grad, const std::vector<bool>& decay) {
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = static_cast<double>(grad[i]) * s.grad_scale;
      if (decay[i]) p[i] *= 1 - s.lr * s.weight_decay;
      m[i] = s.beta1 * m[i] + (1 - s.beta1) * g;
      v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
      p[i] -= s.lr / s.bias_correction1 * m[i] / (std::sqrt(v[i]) / std::sqrt(s.bias_correction2) + s.eps);
    }
  }
};

std::vector<bool> decay_of(const ParameterStore& store) {
  std::vector<bool> decay(static_cast<size_t>(store.master().numel()), false);
  for (const auto& p : store.parameters()) {
    for (int64_t i = 0; i < p->numel; ++i) decay[static_cast<size_t>(p->offset + i)] = p->decay;
  }
  return decay;
}

struct Trained {
  std::vector<float> master, compute, moment1, moment2;
};

// Five steps; `exact` follows in double.
Trained run_steps(Context& ctx, DType compute_dtype, PlainAdamW* exact, Offload offload = Offload::none) {
  ParameterStore store;
  declare_more(store);
  const int64_t before = ctx.allocator()->stats().current;
  store.allocate(ctx, compute_dtype, offload);
  if (offload == Offload::none || ctx.on_gpu()) {
    EXPECT_NEAR(static_cast<double>(ctx.allocator()->stats().current - before), static_cast<double>(store.bytes()),
                4096);
  }
  const std::vector<float> start = arena_values("start", store, 1.0);
  store.master().copy_from_floats(ctx, start);
  store.refresh_compute(ctx);
  EXPECT_EQ(store.master().to_floats(ctx), start);
  if (exact != nullptr) {
    exact->p = convert<double>(start);
    exact->m.assign(start.size(), 0.0);
    exact->v.assign(start.size(), 0.0);
  }
  for (int t = 1; t <= 5; ++t) {
    const std::vector<float> grad = arena_values(cat("grad", t), store, 0.1);
    ctx.to_device(store.grad().raw(), grad.data(), store.grad().numel() * 4);
    adamw(ctx, store, step_number(t));
    if (exact != nullptr) exact->update(step_number(t), grad, decay_of(store));
    EXPECT_EQ(store.grad().to_floats(ctx), grad) << "gradients were changed";
  }
  Trained out{store.master().to_floats(ctx), {}, store.moment1().to_floats(ctx), store.moment2().to_floats(ctx)};
  for (const auto& p : store.parameters()) {
    const std::vector<float> value = p->value.to_floats(ctx);
    out.compute.insert(out.compute.end(), value.begin(), value.end());
    // The compute copy is the rounded master, element by element.
    const std::vector<float> master = p->master.to_floats(ctx);
    for (size_t i = 0; i < value.size(); ++i) {
      EXPECT_EQ(value[i], p->value.dtype() == DType::bf16 ? static_cast<float>(bf16(master[i])) : master[i]);
    }
  }
  // Padding stays zero in every arena.
  std::vector<bool> used(out.master.size(), false);
  for (const auto& p : store.parameters()) {
    for (int64_t i = 0; i < p->numel; ++i) used[static_cast<size_t>(p->offset + i)] = true;
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    EXPECT_EQ(out.master[i], 0.0F);
    EXPECT_EQ(out.moment1[i], 0.0F);
    EXPECT_EQ(out.moment2[i], 0.0F);
  }
  return out;
}

bool is_tie(float x) { return (std::bit_cast<uint32_t>(x) & 0xffffU) == 0x8000U; }

void check_adamw(Context& ctx) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    PlainAdamW exact;
    const Trained found = run_steps(ctx, dtype, &exact);
    // Five float roundings of values of size 1, and the moments' own: a few 1e-8.
    EXPECT_LE(relative_error(found.master, exact.p), 2e-7);
    EXPECT_LE(relative_error(found.moment1, exact.m), 3e-7);
    EXPECT_LE(relative_error(found.moment2, exact.v), 3e-7);
    const Trained again = run_steps(ctx, dtype, nullptr);
    EXPECT_EQ(found.master, again.master) << "other bits at the second time";
  }
}

TEST(AdamW, AgainstDouble) { check_adamw(cpu()); }
TEST(AdamWCuda, AgainstDouble) { check_adamw(*new_cuda()); }

// Offloaded masters are whole, those beside a bf16 copy on the device are split.
void check_offloaded(Context& ctx) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Trained here = run_steps(ctx, dtype, nullptr);
    const Trained offloaded = run_steps(ctx, dtype, nullptr, Offload::cpu);
    EXPECT_EQ(here.master, offloaded.master);
    EXPECT_GT(std::count_if(here.master.begin(), here.master.end(), is_tie), 10);
    EXPECT_EQ(here.compute, offloaded.compute);
    EXPECT_EQ(here.moment1, offloaded.moment1);
    EXPECT_EQ(here.moment2, offloaded.moment2);
  }
}

TEST(AdamW, OffloadedGivesTheSameBits) { check_offloaded(cpu()); }
TEST(AdamWCuda, OffloadedGivesTheSameBits) { check_offloaded(*new_cuda()); }

// The update that is shared with the GPU, in double: the same formula to rounding.
TEST(AdamW, DoubleInstanceIsTheDefinition) {
  PlainAdamW exact;
  const std::vector<float> grad = convert<float>(random_values("g", 77));
  exact.p = random_values("p", 77);
  exact.m = random_values("m", 77);
  exact.v.assign(77, 0.5);
  std::vector<double> p = exact.p;
  std::vector<double> m = exact.m;
  std::vector<double> v = exact.v;
  const std::vector<double> g = convert<double>(grad);
  adamw_cpu<double>(77, adamw_factors<double>(step_number(2)), true, p.data(), g.data(), m.data(), v.data(), nullptr);
  exact.update(step_number(2), grad, std::vector<bool>(77, true));
  EXPECT_LE(relative_error(p, exact.p), 1e-15);
  EXPECT_LE(relative_error(m, exact.m), 1e-15);
  EXPECT_LE(relative_error(v, exact.v), 1e-15);
}

TEST(AdamW, NonFiniteFactorIsAnError) {
  ParameterStore store;
  store.declare("a", {2});
  store.allocate(cpu(), DType::f32);
  AdamWStep s = step_number(1);
  s.grad_scale = std::nan("");
  EXPECT_THROW(adamw(cpu(), store, s), Error);
  s = step_number(1);
  s.bias_correction1 = 0;
  EXPECT_THROW(adamw(cpu(), store, s), Error);
}

void check_grad_norm(Context& ctx) {
  ParameterStore store;
  declare_all(store);
  store.allocate(ctx, DType::f32);
  EXPECT_EQ(grad_norm(ctx, store), 0.0);
  const std::vector<float> grad = arena_values("norm", store, 0.1);
  ctx.to_device(store.grad().raw(), grad.data(), store.grad().numel() * 4);
  double sum = 0;
  for (const float g : grad) sum += static_cast<double>(g) * static_cast<double>(g);
  EXPECT_NEAR(grad_norm(ctx, store), std::sqrt(sum), 1e-13 * std::sqrt(sum));
  const float nan = std::nanf("");
  ctx.to_device(store.find("A_log")->grad.raw(), &nan, 4);
  EXPECT_TRUE(std::isnan(grad_norm(ctx, store)));
}

// The arena holds NaN from before the update: large gradients are written by their first contribution, or settled; all
// others start as zeros.
void check_fresh(Context& ctx) {
  ParameterStore store;
  declare_all(store);
  store.allocate(ctx, DType::f32);
  const auto poison = [&] {
    const std::vector<float> nans(static_cast<size_t>(store.grad().numel()), std::nanf(""));
    ctx.to_device(store.grad().raw(), nans.data(), store.grad().numel() * 4);
  };
  const auto zeros = [&](const std::string& name) {
    const std::vector<float> values = store.find(name)->grad.to_floats(ctx);
    return std::all_of(values.begin(), values.end(), [](float v) { return v == 0.0F; });
  };
  poison();
  store.begin_update(ctx, 64);  // proj.weight and conv1d.weight
  for (const char* name : {"proj.bias", "other.bias", "A_log"}) {
    EXPECT_TRUE(zeros(name)) << name;
    EXPECT_EQ(take_grad_factor(*store.find(name)), 1.0F) << name;
  }
  EXPECT_FALSE(zeros("proj.weight"));
  EXPECT_EQ(take_grad_factor(*store.find("proj.weight")), 0.0F);
  EXPECT_EQ(take_grad_factor(*store.find("proj.weight")), 1.0F);
  store.settle(ctx, 0, 4);
  EXPECT_FALSE(zeros("proj.weight")) << "had a contribution";
  EXPECT_FALSE(zeros("conv1d.weight")) << "is outside the range";
  store.settle(ctx, 0, store.parameters().size());
  EXPECT_TRUE(zeros("conv1d.weight"));

  poison();
  store.begin_update(ctx, 1);
  EXPECT_EQ(grad_to_add(ctx, Weight()), nullptr);
  Parameter* p = store.find("proj.weight");
  EXPECT_EQ(grad_to_add(ctx, {p->value, p}), p->grad.data<float>());
  EXPECT_TRUE(zeros("proj.weight"));
  poison();
  EXPECT_EQ(grad_to_add(ctx, {p->value, p}), p->grad.data<float>());
  EXPECT_FALSE(zeros("proj.weight")) << "zeroed by the second contribution";
}

TEST(FreshGradients, FirstContributionWrites) { check_fresh(cpu()); }
TEST(FreshGradientsCuda, FirstContributionWrites) { check_fresh(*new_cuda()); }

TEST(GradNorm, AgainstDouble) { check_grad_norm(cpu()); }
TEST(GradNormCuda, AgainstDouble) { check_grad_norm(*new_cuda()); }

}  // namespace
}  // namespace matvlm::testing
