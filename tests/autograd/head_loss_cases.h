// Cases of the head_loss tests, their values, the op's outcome and the same in double on whole [T, V] matrices.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "autograd/ops/head_loss.h"
#include "autograd/ops/head_loss_cpu.h"
#include "core/gemm.h"
#include "tests/support/op_check.h"

namespace matvlm::head_loss_cases {

using testing::convert;
using testing::random_values;
using testing::round_bf16;

inline const char* kind_name(LogitKind kind) {
  constexpr const char* kNames[] = {"none", "kl", "reverse_kl", "jsd", "argmax_ce", "logit_l2"};
  return kNames[static_cast<int>(kind)];
}
inline constexpr LogitKind kKinds[] = {LogitKind::kl, LogitKind::reverse_kl, LogitKind::jsd, LogitKind::argmax_ce,
                                       LogitKind::logit_l2};
inline constexpr double kLogitScale = 1.25;
inline constexpr double kCeScale = 0.75;

struct Case {
  std::string name;
  LogitKind kind = LogitKind::kl;
  double tau = 1.0;
  bool segment_norm = false;
  bool ce = false;
  bool trained_head = false;
  std::vector<int64_t> lengths = {13, 0, 20, 1};
  int64_t width = 24;
  int64_t teacher_width = 24;
  int64_t vocab = 384;
  int64_t scratch_bytes = 64LL << 20;
  bool strided = false;  // hidden states are a column range
  bool bias = true;
  double ce_scale = kCeScale;
  int64_t tokens() const {
    int64_t n = 0;
    for (const int64_t l : lengths) n += l;
    return n;
  }
};

inline std::vector<Case> cases() {
  std::vector<Case> out;
  for (const LogitKind kind : kKinds) {
    Case c;
    c.kind = kind;
    c.name = cat(kind_name(kind), " one tile");
    out.push_back(c);
    c.name = cat(kind_name(kind), " small tiles, ce, T 2, strided");
    c.tau = 2.0;
    c.ce = true;
    c.strided = true;
    c.vocab = 512;
    c.scratch_bytes = 50000;
    out.push_back(c);
    c.name = cat(kind_name(kind), " trained head, T 0.5, another width");
    c.tau = 0.5;
    c.trained_head = true;
    c.strided = false;
    c.vocab = 1000;
    c.teacher_width = 40;
    out.push_back(c);
    c.name = cat(kind_name(kind), " trained head, one tile, no bias");
    c.bias = false;
    c.scratch_bytes = 64LL << 20;
    out.push_back(c);
    c = Case();
    c.kind = kind;
    c.name = cat(kind_name(kind), " V 51200");
    c.lengths = {3};
    c.vocab = 51200;
    out.push_back(c);
  }
  // Rows that are no multiple of 16 bytes, and long ones: other kernels on the GPU.
  for (const int64_t vocab : {998, 70000}) {
    for (const LogitKind kind : kKinds) {
      Case c;
      c.kind = kind;
      c.name = cat(kind_name(kind), ", ce, V ", vocab);
      c.ce = true;
      c.lengths = {5};
      c.vocab = vocab;
      out.push_back(c);
    }
  }
  for (const int64_t scratch : {64LL << 20, 50000LL, 1LL}) {
    Case c;
    c.name = cat("logit_l2 per sample, scratch ", scratch);
    c.kind = LogitKind::logit_l2;
    c.segment_norm = true;
    c.ce = true;
    c.trained_head = scratch != 1;
    c.vocab = 1000;
    c.scratch_bytes = scratch;
    out.push_back(c);
  }
  for (const int64_t scratch : {64LL << 20, 50000LL}) {
    Case c;
    c.name = cat("ce only, scratch ", scratch);
    c.kind = LogitKind::none;
    c.ce = true;
    c.trained_head = true;
    c.vocab = 1000;
    c.scratch_bytes = scratch;
    out.push_back(c);
  }
  return out;
}

// Row lengths of kernel_cases, each of which other kernels take on a GPU: as above, 998 is no multiple of 16 bytes.
inline const std::vector<int64_t> kPortableVocabs = {998};
inline const std::vector<int64_t> kClusterVocabs = {384, 70000};

// Each loss for rows of these lengths; everything else on.
inline std::vector<Case> kernel_cases(const std::vector<int64_t>& vocabs) {
  std::vector<Case> out;
  std::vector<LogitKind> kinds(std::begin(kKinds), std::end(kKinds));
  kinds.push_back(LogitKind::none);
  for (const LogitKind kind : kinds) {
    for (const int64_t vocab : vocabs) {
      Case c;
      c.kind = kind;
      c.name = cat(kind_name(kind), ", V ", vocab);
      c.tau = kind == LogitKind::argmax_ce || kind == LogitKind::logit_l2 ? 1.0 : 2.0;
      c.ce = true;
      c.trained_head = vocab < 1000;
      c.lengths = {2, 0, 1};
      c.vocab = vocab;
      out.push_back(c);
    }
  }
  // The kernel of kl alone, with and without labels to count. 5000 logits are shared out with a rest.
  for (const int64_t vocab : vocabs) {
    Case c;
    c.kind = LogitKind::kl;
    c.lengths = {2, 0, 1};
    c.vocab = std::min<int64_t>(vocab, 5000);
    c.name = cat("kl alone, V ", c.vocab);
    c.tau = 2.0;
    out.push_back(c);
    c.name = cat("kl, labels counted, V ", c.vocab);
    c.tau = 1.0;
    c.ce = true;
    c.ce_scale = 0;
    out.push_back(c);
  }
  return out;
}

// Values of a case; the oracle and the op see the same ones, rounded to the type.
struct Values {
  std::vector<double> student, teacher, weight, teacher_weight, bias, teacher_bias;
  std::vector<float> logit_weight, segment_weight, ce_weight;
  std::vector<int32_t> target;
};

inline Values make_values(const Case& c, DType dtype) {
  const auto values = [&](const std::string& name, int64_t n, double scale) {
    const auto v = random_values(name, n, scale);
    return dtype == DType::bf16 ? round_bf16(v) : convert<double>(convert<float>(v));
  };
  Values v;
  const int64_t n = c.tokens();
  v.student = values("student", n * c.width, 1.0);
  v.teacher = values("teacher", n * c.teacher_width, 1.0);
  v.weight = values("weight", c.vocab * c.width, 2.0 / std::sqrt(static_cast<double>(c.width)));
  v.teacher_weight = v.weight;
  if (c.teacher_width != c.width) v.teacher_weight = values("teacher weight", c.vocab * c.teacher_width, 0.3);
  if (c.bias) v.bias = values("bias", c.vocab, 0.5);
  v.teacher_bias = v.bias;
  for (int64_t i = 0; i < n; ++i) {
    v.logit_weight.push_back(i % 5 == 3 ? 0.0F : 0.25F + 0.125F * static_cast<float>(i % 4));
    if (c.ce) v.ce_weight.push_back(i % 3 == 1 || i % 5 == 3 ? 0.5F : 0.0F);
    v.target.push_back(c.ce && v.ce_weight.back() != 0 ? static_cast<int32_t>((i * 131 + 7) % c.vocab) : -100);
  }
  if (n > 8) v.logit_weight[8] = 0.0F;  // counted by neither term
  for (size_t b = 0; b < c.lengths.size(); ++b) v.segment_weight.push_back(0.5F + static_cast<float>(b));
  return v;
}

struct Outcome {
  double loss = 0, logit_term = 0, ce_term = 0;
  std::vector<double> counts;
  std::vector<double> dhidden, dweight, dbias;
};

inline std::vector<double> logits_of(const std::vector<double>& hidden, const std::vector<double>& weight,
                                     const std::vector<double>& bias, int64_t rows, int64_t width, int64_t vocab) {
  std::vector<double> x(static_cast<size_t>(rows * vocab));
  gemm_cpu<double>(false, true, rows, vocab, width, 1.0, hidden.data(), width, weight.data(), width, 0.0, x.data(),
                   vocab);
  for (size_t i = 0; i < x.size() && !bias.empty(); ++i) x[i] += bias[i % static_cast<size_t>(vocab)];
  return x;
}

// The same in double, on whole [T, V] matrices.
inline Outcome oracle(const Case& c, const Values& v) {
  const int64_t n = c.tokens();
  const auto rows = static_cast<size_t>(n);
  const auto s = logits_of(v.student, v.weight, v.bias, n, c.width, c.vocab);
  const auto t = logits_of(v.teacher, v.teacher_weight, v.teacher_bias, n, c.teacher_width, c.vocab);
  std::vector<double> logit_loss(rows), ce_loss(rows), grad(s.size());
  std::vector<int32_t> agree(rows), correct(rows);
  std::vector<float> coefficient = v.logit_weight;
  HeadRows<double> a;
  a.rows = n;
  a.vocab = c.vocab;
  a.kind = c.kind;
  a.segment_norm = c.segment_norm;
  a.temperature = c.tau;
  a.logit_scale = kLogitScale;
  a.ce_scale = c.ce_scale;
  a.student = s.data();
  a.teacher = t.data();
  a.logit_coefficient = c.kind == LogitKind::none ? nullptr : coefficient.data();
  a.ce_coefficient = c.ce ? v.ce_weight.data() : nullptr;
  a.target = v.target.data();
  a.grad = grad.data();
  a.logit_loss = logit_loss.data();
  a.ce_loss = ce_loss.data();
  a.agree = agree.data();
  a.correct = correct.data();
  head_rows_cpu(a);
  Outcome out;
  out.counts.assign(kHeadCounts, 0.0);
  for (size_t i = 0; i < rows; ++i) {
    const bool logit = c.kind != LogitKind::none && v.logit_weight[i] != 0;
    if (!c.segment_norm && logit) out.logit_term += v.logit_weight[i] * logit_loss[i];
    if (c.ce) out.ce_term += v.ce_weight[i] * ce_loss[i];
    out.counts[kCountAgreement] += agree[i];
    out.counts[kCountLogitRows] += logit ? 1 : 0;
    out.counts[kCountCorrect] += correct[i];
    out.counts[kCountLabelRows] += c.ce && v.ce_weight[i] != 0 ? 1 : 0;
  }
  if (c.segment_norm) {
    size_t row = 0;
    for (size_t b = 0; b < c.lengths.size(); ++b) {
      const size_t end = row + static_cast<size_t>(c.lengths[b]);
      double squares = 0;
      for (size_t i = row; i < end; ++i) squares += v.logit_weight[i] == 0 ? 0.0 : logit_loss[i];
      const double norm = std::sqrt(squares);
      out.logit_term += v.segment_weight[b] * norm;
      for (; row < end; ++row) {
        coefficient[row] =
            v.logit_weight[row] == 0 || norm == 0 ? 0.0F : static_cast<float>(v.segment_weight[b] / norm);
      }
    }
    a.logit_coefficient = coefficient.data();
    head_rows_cpu(a);
  }
  out.loss = kLogitScale * out.logit_term + c.ce_scale * out.ce_term;
  out.dhidden.resize(v.student.size());
  gemm_cpu<double>(false, false, n, c.width, c.vocab, 1.0, grad.data(), c.vocab, v.weight.data(), c.width, 0.0,
                   out.dhidden.data(), c.width);
  if (!c.trained_head) return out;
  out.dweight.resize(v.weight.size());
  gemm_cpu<double>(true, false, c.vocab, c.width, n, 1.0, grad.data(), c.vocab, v.student.data(), c.width, 0.0,
                   out.dweight.data(), c.width);
  out.dbias.assign(v.bias.size(), 0.0);
  for (size_t i = 0; i < grad.size() && c.bias; ++i) out.dbias[i % static_cast<size_t>(c.vocab)] += grad[i];
  return out;
}

inline Tensor upload(Context& ctx, const std::vector<double>& values, Shape shape, DType dtype, bool strided = false) {
  if (values.empty()) return {};
  const Tensor packed = Tensor::from_floats(ctx, convert<float>(values), shape, dtype);
  if (!strided) return packed;
  Tensor wide = Tensor::zeros(ctx, {shape[0], shape[1] + 8}, dtype);
  Tensor view = wide.slice_cols(8, shape[1] + 8);
  view.copy_from(ctx, packed);
  return view;
}

inline HeadLossSpec make_spec(const Case& c) {
  HeadLossSpec spec;
  spec.kind = c.kind;
  spec.temperature = c.tau;
  spec.segment_norm = c.segment_norm;
  spec.logit_scale = kLogitScale;
  spec.ce_scale = c.ce_scale;
  spec.scratch_bytes = c.scratch_bytes;
  return spec;
}

inline HeadLossInputs make_inputs(Context& ctx, const Case& c, const Values& v, DType dtype) {
  const int64_t n = c.tokens();
  HeadLossInputs in;
  if (c.kind != LogitKind::none) {
    in.teacher_hidden = upload(ctx, v.teacher, {n, c.teacher_width}, dtype);
    in.teacher_weight = upload(ctx, v.teacher_weight, {c.vocab, c.teacher_width}, dtype);
    in.teacher_bias = upload(ctx, v.teacher_bias, {c.vocab}, dtype);
  }
  in.student_weight.value = upload(ctx, v.weight, {c.vocab, c.width}, dtype);
  in.student_bias.value = upload(ctx, v.bias, {c.vocab}, dtype);
  in.logit_weight = v.logit_weight;
  in.segment_weight = v.segment_weight;
  in.ce_weight = v.ce_weight;
  in.ce_target = v.target;
  std::vector<int64_t> cu = {0};
  for (const int64_t l : c.lengths) cu.push_back(cu.back() + l);
  in.lens = make_seqlens(ctx, cu);
  return in;
}

// The head's parameters with the values of the case; gradients start at 1, because ops add to them.
inline void train_head(Context& ctx, ParameterStore& store, HeadLossInputs& in, DType dtype) {
  const auto declare = [&](const std::string& name, Weight& weight) {
    if (weight.defined()) weight.param = store.declare(name, weight.value.shape());
  };
  declare("weight", in.student_weight);
  declare("bias", in.student_bias);
  store.allocate(ctx, dtype);
  for (Weight* weight : {&in.student_weight, &in.student_bias}) {
    if (!weight->defined()) continue;
    weight->param->value.copy_from(ctx, weight->value);
    weight->value = weight->param->value;
    const std::vector<float> ones(static_cast<size_t>(weight->param->numel), 1.0F);
    weight->param->grad.copy_from(ctx, Tensor::from(ctx, ones, weight->param->shape));
  }
}

inline std::vector<double> parameter_gradient(Context& ctx, const Weight& weight) {
  if (!weight.trainable()) return {};
  std::vector<double> out = convert<double>(weight.param->grad.to_floats(ctx));
  for (double& x : out) x -= 1;
  return out;
}

inline Outcome run_op(Context& ctx, const Case& c, const Values& v, DType dtype) {
  Graph g(ctx);
  HeadLossInputs in = make_inputs(ctx, c, v, dtype);
  in.student_hidden = g.input(upload(ctx, v.student, {c.tokens(), c.width}, dtype, c.strided));
  ParameterStore store;
  if (c.trained_head) train_head(ctx, store, in, dtype);
  const HeadLossResult result = head_loss(g, make_spec(c), in);
  Outcome out;
  out.loss = result.loss.value().to_floats(ctx).at(0);
  out.logit_term = result.logit_term.to_vector<double>(ctx).at(0);
  out.ce_term = result.ce_term.to_vector<double>(ctx).at(0);
  out.counts = result.counts.to_vector<double>(ctx);
  g.backward({result.loss});
  out.dhidden = convert<double>(in.student_hidden.grad().to_floats(ctx));
  out.dweight = parameter_gradient(ctx, in.student_weight);
  out.dbias = parameter_gradient(ctx, in.student_bias);
  return out;
}

}  // namespace matvlm::head_loss_cases
