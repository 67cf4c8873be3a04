// Checks, dispatch and the autograd node of layer_loss.
#include "autograd/ops/layer_loss.h"

#include <cmath>
#include <utility>

#include "autograd/ops/layer_loss_cpu.h"
#include "autograd/ops/loss_sums.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

constexpr const char* kOp = "layer_loss";

void check_finite(const char* name, const std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    check(std::isfinite(values[i]), "[layer_loss] ", name, " of row ", i, ": found ", values[i]);
  }
}

void check_inputs(Context& ctx, const LayerLossSpec& spec, const Var& student, const Tensor& teacher,
                  const SeqlensPtr& lens) {
  check(student.defined() && student.value().rank() == 2 && student.value().dim(1) > 0,
        "[layer_loss] student must be [T, D]");
  const Tensor& s = student.value();
  check_shape(kOp, "teacher", teacher, s.shape());
  check_dtype(kOp, "teacher", teacher, s.dtype());
  if (!(s.device() == ctx.device() && teacher.device() == ctx.device())) {
    fail("[layer_loss] student on ", device_name(s.device()), ", teacher on ", device_name(teacher.device()),
         ", expected ", device_name(ctx.device()));
  }
  if (!ctx.on_gpu()) check_dtype(kOp, "student", s, DType::f32);
  if (!spec.segment_norm) return;
  check(spec.kind == LayerKind::l2, "[layer_loss] segment_norm is for l2 only");
  check(lens != nullptr && lens->tokens() == s.dim(0), "[layer_loss] segment_norm needs the boundaries of ", s.dim(0),
        " rows");
}

// losses: f64 [T] or undefined; grad: as student, or undefined.
void run_rows(Context& ctx, const LayerLossSpec& spec, const Tensor& student, const Tensor& teacher,
              const Tensor& coefficient, const Tensor& losses, const Tensor& grad) {
  dispatch_float(kOp, student.dtype(), [&](auto tag) {
    using S = decltype(tag);
    LayerRows<S> a;
    a.rows = student.dim(0);
    a.width = student.dim(1);
    a.kind = spec.kind;
    a.segment_norm = spec.segment_norm;
    a.scale = spec.scale;
    a.student = student.data<S>();
    a.teacher = teacher.data<S>();
    a.student_stride = student.row_stride();
    a.teacher_stride = teacher.row_stride();
    a.coefficient = coefficient.data<float>();
    a.grad = grad.defined() ? grad.data<S>() : nullptr;
    double* out = losses.defined() ? losses.data<double>() : nullptr;
    const auto on_cpu = [&] {
      if constexpr (std::is_same_v<S, float>) layer_rows_cpu(a, out);
    };
    dispatch_device(
        ctx, [&] { layer_rows_cuda(ctx, a, out); }, on_cpu);
  });
}

}  // namespace

void make_layer_loss_rows(UploadBatch& uploads, const LayerLossSpec& spec, const std::vector<float>& row_weight,
                          const std::vector<float>& segment_weight, const SeqlensPtr& lens, LayerLossRows& rows) {
  check_finite("row_weight", row_weight);
  uploads.add(row_weight, &rows.row_weight);
  if (!spec.segment_norm) return;
  check(lens != nullptr && static_cast<int64_t>(segment_weight.size()) == lens->batch(),
        "[layer_loss] segment_weight: found ", segment_weight.size(), " values, expected ",
        lens != nullptr ? lens->batch() : 0);
  check_finite("segment_weight", segment_weight);
  uploads.add(segment_weight, &rows.segment_weight);
}

LayerLossResult layer_loss(Graph& g, const LayerLossSpec& spec, const Var& student, const Tensor& teacher,
                           const std::vector<float>& row_weight, const std::vector<float>& segment_weight,
                           const SeqlensPtr& lens) {
  check_inputs(g.ctx(), spec, student, teacher, lens);
  UploadBatch uploads;
  LayerLossRows rows;
  make_layer_loss_rows(uploads, spec, row_weight, segment_weight, lens, rows);
  uploads.send(g.ctx());
  return layer_loss(g, spec, student, teacher, rows, lens);
}

LayerLossResult layer_loss(Graph& g, const LayerLossSpec& spec, const Var& student, const Tensor& teacher,
                           const LayerLossRows& rows, const SeqlensPtr& lens) {
  Context& ctx = g.ctx();
  check_inputs(ctx, spec, student, teacher, lens);
  const Tensor& s = student.value();
  const int64_t tokens = s.dim(0);
  const Tensor& weight = rows.row_weight;
  check(weight.numel() == tokens, "[layer_loss] row_weight: found ", weight.numel(), " values, expected ", tokens);
  const Tensor losses = Tensor::empty(ctx, {tokens}, DType::f64);
  Tensor grad;
  if (g.recording() && student.requires_grad()) grad = Tensor::empty(ctx, s.shape(), s.dtype());
  LayerLossResult result;
  result.term = Tensor::empty(ctx, {1}, DType::f64);
  Tensor loss = Tensor::empty(ctx, {1}, DType::f32);
  if (!spec.segment_norm) {
    run_rows(ctx, spec, s, teacher, weight, losses, grad);
    weighted_total(ctx, weight, losses, spec.scale, loss, result.term);
  } else {
    // A sample's norm needs all its rows, the gradient of each row needs the norm.
    run_rows(ctx, spec, s, teacher, weight, losses, Tensor());
    const Tensor& segments = rows.segment_weight;
    check(segments.defined() && segments.numel() == lens->batch(), "[layer_loss] segment_weight: found ",
          segments.defined() ? segments.numel() : 0, " values, expected ", lens->batch());
    const Tensor norm = Tensor::empty(ctx, {lens->batch()}, DType::f64);
    const Tensor coefficient = Tensor::empty(ctx, {tokens}, DType::f32);
    segment_norms(ctx, {lens->device_cu, weight, segments, losses, norm, coefficient});
    weighted_total(ctx, segments, norm, spec.scale, loss, result.term);
    if (grad.defined()) run_rows(ctx, spec, s, teacher, coefficient, Tensor(), grad);
  }
  result.loss = g.node(std::move(loss), {student}, {}, [student, grad](Graph& graph, const Tensor&) {
    if (grad.defined()) graph.add_grad(student, grad);
  });
  return result;
}

}  // namespace matvlm
