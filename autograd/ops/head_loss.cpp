// Checks, tiles, dispatch and the autograd node of head_loss.
#include "autograd/ops/head_loss.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "autograd/ops/cast.h"
#include "autograd/ops/head_loss_cpu.h"
#include "autograd/ops/head_loss_gather.h"
#include "autograd/ops/loss_sums.h"
#include "core/dispatch.h"
#include "core/gemm.h"

namespace matvlm {
namespace {

constexpr const char* kOp = "head_loss";

void check_coefficients(const char* name, const std::vector<float>& values, int64_t expected) {
  check(static_cast<int64_t>(values.size()) == expected, "[head_loss] ", name, ": found ", values.size(),
        " values, expected ", expected);
  for (size_t i = 0; i < values.size(); ++i) {
    check(std::isfinite(values[i]), "[head_loss] ", name, " of row ", i, ": found ", values[i]);
  }
}

void check_head(const char* who, const Tensor& hidden, const Tensor& weight, const Tensor& bias) {
  check(hidden.defined() && hidden.rank() == 2, "[head_loss] ", who, "_hidden must be [T, D]");
  check(weight.defined() && weight.rank() == 2 && weight.dim(0) > 0 && weight.dim(1) == hidden.dim(1), "[head_loss] ",
        who, "_weight: found ", weight.defined() ? shape_string(weight.shape()) : "nothing", ", expected [V, ",
        hidden.dim(1), "]");
  if (weight.dtype() != hidden.dtype()) {
    fail("[head_loss] ", who, "_weight: found ", dtype_name(weight.dtype()), ", expected ", dtype_name(hidden.dtype()));
  }
  if (bias.defined()) check_shape(kOp, "bias", bias, {weight.dim(0)});
}

void check_targets(const HeadLossWeights& in, int64_t vocab) {
  if (in.ce_weight.empty()) return;
  check(in.ce_target.size() == in.ce_weight.size(), "[head_loss] ce_target: found ", in.ce_target.size(),
        " values, expected ", in.ce_weight.size());
  for (size_t i = 0; i < in.ce_weight.size(); ++i) {
    const int32_t target = in.ce_target[i];
    check(in.ce_weight[i] == 0 || (target >= 0 && target < vocab), "[head_loss] ce_target of row ", i, ": found ",
          target, ", expected 0 to ", vocab - 1);
  }
}

void check_inputs(Context& ctx, const HeadLossSpec& spec, const HeadLossInputs& in) {
  check(in.student_hidden.defined(), "[head_loss] student_hidden is undefined");
  const Tensor& hidden = in.student_hidden.value();
  check_head("student", hidden, in.student_weight.value, in.student_bias.value);
  if (!(hidden.device() == ctx.device())) {
    fail("[head_loss] student_hidden on ", device_name(hidden.device()), ", expected ", device_name(ctx.device()));
  }
  if (!ctx.on_gpu()) check_dtype(kOp, "student_hidden", hidden, DType::f32);
  const int64_t tokens = hidden.dim(0);
  if (spec.kind == LogitKind::none) return;
  check(spec.temperature > 0 && std::isfinite(spec.temperature), "[head_loss] temperature: found ", spec.temperature,
        ", expected more than 0");
  check_head("teacher", in.teacher_hidden, in.teacher_weight, in.teacher_bias);
  check(in.teacher_hidden.dim(0) == tokens && in.teacher_weight.dim(0) == in.student_weight.value.dim(0),
        "[head_loss] teacher: found ", in.teacher_hidden.dim(0), " rows and ", in.teacher_weight.dim(0),
        " tokens, expected ", tokens, " and ", in.student_weight.value.dim(0));
  check_dtype(kOp, "teacher_hidden", in.teacher_hidden, hidden.dtype());
  check(!spec.segment_norm || spec.kind == LogitKind::logit_l2, "[head_loss] segment_norm is for logit_l2 only");
}

void check_weights(const HeadLossSpec& spec, const HeadLossWeights& in, int64_t tokens, int64_t vocab) {
  if (!in.ce_weight.empty()) check_coefficients("ce_weight", in.ce_weight, tokens);
  check_targets(in, vocab);
  if (spec.kind == LogitKind::none) return;
  check_coefficients("logit_weight", in.logit_weight, tokens);
  if (!spec.segment_norm) return;
  check(in.lens != nullptr && in.lens->tokens() == tokens, "[head_loss] segment_norm needs the boundaries of ", tokens,
        " rows");
  check_coefficients("segment_weight", in.segment_weight, in.lens->batch());
}

HeadLossRows rows_of(Context& ctx, const HeadLossSpec& spec, const HeadLossInputs& in) {
  const int64_t tokens = in.student_hidden.value().dim(0);
  if (in.rows) {
    const bool logit = spec.kind != LogitKind::none;
    check(in.rows->tokens == tokens, "[head_loss] rows: found those of ", in.rows->tokens, " tokens, expected ",
          tokens);
    check(in.rows->logit_coefficient.defined() == logit &&
              in.rows->segment_begin.defined() == (logit && spec.segment_norm),
          "[head_loss] rows: found those of another kind of loss");
    return *in.rows;
  }
  UploadBatch uploads;
  HeadLossRows rows;
  make_head_loss_rows(uploads, spec, in, tokens, in.student_weight.value.dim(0), rows);
  uploads.send(ctx);
  return rows;
}

template <class T>
T* data_or_null(const Tensor& t, int64_t offset = 0) {
  return t.defined() ? t.data<T>() + offset : nullptr;
}

void add_column_sums(Context& ctx, const Tensor& x, const Tensor& sum) {
  const auto on_gpu = [&] {
    dispatch_float(kOp, x.dtype(), [&](auto tag) {
      using T = decltype(tag);
      add_column_sums_cuda<T>(ctx, x.rows(), x.cols(), x.data<T>(), sum.data<float>());
    });
  };
  const auto on_cpu = [&] {
    const auto* values = x.data<float>();
    auto* out = sum.data<float>();
    for (int64_t r = 0; r < x.rows(); ++r) {
      for (int64_t v = 0; v < x.cols(); ++v) out[v] += values[r * x.cols() + v];
    }
  };
  dispatch_device(ctx, on_gpu, on_cpu);
}

void head_totals_cpu(const HeadTotals& a) {
  double logit = 0, ce = 0;
  for (int64_t i = 0; i < a.logit_items; ++i) logit += a.logit_weight[i] * a.logit_loss[i];
  std::fill_n(a.counts, kHeadCounts, 0.0);
  for (int64_t r = 0; r < a.rows; ++r) {
    if (a.row_weight != nullptr && a.row_weight[r] != 0) {
      a.counts[kCountLogitRows] += 1;
      a.counts[kCountAgreement] += a.agree[r];
    }
    if (a.ce_weight != nullptr && a.ce_weight[r] != 0) {
      ce += a.ce_weight[r] * a.ce_loss[r];
      a.counts[kCountLabelRows] += 1;
      a.counts[kCountCorrect] += a.correct[r];
    }
  }
  *a.logit_term = logit;
  *a.ce_term = ce;
  *a.loss = static_cast<float>(a.logit_scale * logit + a.ce_scale * ce);
}

// One evaluation: forward runs all tiles; backward of a trained head runs them again, or uses the tile that was kept.
class HeadLoss {
 public:
  HeadLoss(Context& ctx, const HeadLossSpec& spec, const HeadLossInputs& in);
  Tensor forward(Context& ctx, bool recording, HeadLossResult& result);
  void add_weight_gradients(Context& ctx);
  bool need_weights() const { return need_weights_; }
  const Tensor& dhidden() const { return dhidden_; }  // undefined where the hidden states need no gradient

 private:
  struct Scratch {
    Tensor student_hidden, teacher_hidden;  // [R, D] gathered rows, or the rows themselves where all are counted
    Tensor student, teacher;                // [R, V] f32 logits
    Tensor dlogits;                         // [R, V] compute dtype; `student` itself in float32
    Tensor dhidden;                         // [R, D]
  };
  struct Tile {
    int64_t begin, end;
  };
  void choose_tiles();
  Scratch make_scratch(Context& ctx) const;
  Scratch cut(const Scratch& s, const Tile& tile) const;
  void compute_logits(Context& ctx, const Tile& tile, const Scratch& s) const;
  void run_rows(Context& ctx, const Tile& tile, const Scratch& s, bool with_grad) const;
  template <class G>
  HeadRows<float, G> row_arguments(const Tile& tile, const Scratch& s, const Tensor& grad) const;
  void run_tiles(Context& ctx, bool with_grad);
  void find_segment_norms(Context& ctx);
  void total(Context& ctx, const Tensor& loss, const HeadLossResult& result) const;
  void add_tile_gradients(Context& ctx, const Scratch& s) const;

  HeadLossSpec spec_;
  HeadLossInputs in_;
  HeadLossRows rows_;
  Tensor student_bias_, teacher_bias_;  // f32
  int64_t vocab_;
  bool all_rows_ = false;  // every row is counted, and they lie one behind the other: nothing to gather
  bool need_input_ = false, need_weights_ = false;
  std::vector<Tile> tiles_;
  int64_t tile_rows_ = 0;
  Tensor coefficient_;           // f32 [n] of the gradient: the row's weight, or its sample's weight / norm
  Tensor logit_loss_, ce_loss_;  // f64 [n]
  Tensor agree_, correct_;       // i32 [n]
  Tensor norm_;                  // f64 [B], segment_norm only
  Tensor dhidden_;               // [T, D]
  Scratch kept_;                 // of a single tile, until the weights' gradients were added
};

Tensor float_bias(Context& ctx, const Tensor& bias) {
  if (!bias.defined() || bias.dtype() == DType::f32) return bias;
  Tensor out = Tensor::empty(ctx, bias.shape(), DType::f32);
  cast_into(ctx, bias, out);
  return out;
}

HeadLoss::HeadLoss(Context& ctx, const HeadLossSpec& spec, const HeadLossInputs& in)
    : spec_(spec), in_(in), rows_(rows_of(ctx, spec, in)), vocab_(in.student_weight.value.dim(0)) {
  student_bias_ = float_bias(ctx, in.student_bias.value);
  if (spec.kind != LogitKind::none) teacher_bias_ = float_bias(ctx, in.teacher_bias);
  const Tensor& hidden = in.student_hidden.value();
  all_rows_ = rows_.n == hidden.dim(0) && hidden.contiguous();
  if (all_rows_ && spec.kind != LogitKind::none) {
    all_rows_ = in.teacher_hidden.contiguous() && same_place_in_lines(hidden, in.teacher_hidden);
  }
  coefficient_ = rows_.logit_coefficient;
  logit_loss_ = Tensor::empty(ctx, {rows_.n}, DType::f64);
  ce_loss_ = Tensor::empty(ctx, {rows_.n}, DType::f64);
  agree_ = Tensor::empty(ctx, {rows_.n}, DType::i32);
  correct_ = Tensor::empty(ctx, {rows_.n}, DType::i32);
}

// Tiles of equal size (but for rounding) within the scratch bound.
void HeadLoss::choose_tiles() {
  const bool teacher = spec_.kind != LogitKind::none;
  const Tensor& hidden = in_.student_hidden.value();
  const int64_t element = dtype_size(hidden.dtype());
  int64_t row_bytes = (teacher ? 2 : 1) * vocab_ * 4;
  if (!all_rows_) {
    row_bytes += (need_input_ ? 2 : 1) * hidden.dim(1) * element;
    if (teacher) row_bytes += in_.teacher_hidden.dim(1) * element;
  }
  if ((need_input_ || need_weights_) && hidden.dtype() != DType::f32) row_bytes += vocab_ * element;
  const int64_t most = std::max<int64_t>(1, spec_.scratch_bytes / row_bytes);
  const int64_t count = (rows_.n + most - 1) / most;
  if (count == 0) return;
  // Multiples of 16 rows suit the matrix units; a bound below that is kept all the same.
  const int64_t even = (rows_.n + count - 1) / count;
  tile_rows_ = std::min(most, (even + 15) / 16 * 16);
  for (int64_t begin = 0; begin < rows_.n; begin += tile_rows_) {
    tiles_.push_back({begin, std::min(rows_.n, begin + tile_rows_)});
  }
  tile_rows_ = tiles_.front().end;
}

HeadLoss::Scratch HeadLoss::make_scratch(Context& ctx) const {
  const Tensor& hidden = in_.student_hidden.value();
  const int64_t n = tile_rows_;
  Scratch s;
  if (!all_rows_) {
    s.student_hidden = Tensor::empty(ctx, {n, hidden.dim(1)}, hidden.dtype());
    if (spec_.kind != LogitKind::none) {
      s.teacher_hidden = Tensor::empty(ctx, {n, in_.teacher_hidden.dim(1)}, hidden.dtype());
    }
    if (need_input_) s.dhidden = Tensor::empty(ctx, {n, hidden.dim(1)}, hidden.dtype());
  }
  s.student = Tensor::empty(ctx, {n, vocab_}, DType::f32);
  if (spec_.kind != LogitKind::none) s.teacher = Tensor::empty(ctx, {n, vocab_}, DType::f32);
  if (need_input_ || need_weights_) {
    s.dlogits = hidden.dtype() == DType::f32 ? s.student : Tensor::empty(ctx, {n, vocab_}, hidden.dtype());
  }
  return s;
}

// The tile's rows of every tensor.
HeadLoss::Scratch HeadLoss::cut(const Scratch& s, const Tile& tile) const {
  const auto first = [&](const Tensor& t) { return t.defined() ? t.slice_rows(0, tile.end - tile.begin) : t; };
  const auto own = [&](const Tensor& t) { return t.defined() ? t.slice_rows(tile.begin, tile.end) : t; };
  Scratch out = {first(s.student_hidden), first(s.teacher_hidden), first(s.student),
                 first(s.teacher),        first(s.dlogits),        first(s.dhidden)};
  if (all_rows_) {
    out.student_hidden = own(in_.student_hidden.value());
    if (s.teacher.defined()) out.teacher_hidden = own(in_.teacher_hidden);
    out.dhidden = own(dhidden_);
  }
  return out;
}

// Rows are gathered, or not, for teacher and student alike: then both products have the same shape, strides and
// alignment, take the same algorithm, and equal inputs give equal bits.
void HeadLoss::compute_logits(Context& ctx, const Tile& tile, const Scratch& s) const {
  const Tensor index = rows_.index.slice_rows(tile.begin, tile.end);
  if (!all_rows_) gather_rows(ctx, in_.student_hidden.value(), index, s.student_hidden);
  gemm_bias(ctx, s.student_hidden, in_.student_weight.value, student_bias_, s.student);
  if (!s.teacher.defined()) return;
  if (!all_rows_) gather_rows(ctx, in_.teacher_hidden, index, s.teacher_hidden);
  gemm_bias(ctx, s.teacher_hidden, in_.teacher_weight, teacher_bias_, s.teacher);
}

template <class G>
HeadRows<float, G> HeadLoss::row_arguments(const Tile& tile, const Scratch& s, const Tensor& grad) const {
  HeadRows<float, G> a;
  a.rows = tile.end - tile.begin;
  a.vocab = vocab_;
  a.kind = spec_.kind;
  a.segment_norm = spec_.segment_norm;
  a.temperature = spec_.temperature;
  a.logit_scale = spec_.logit_scale;
  a.ce_scale = spec_.ce_scale;
  a.student = s.student.data<float>();
  a.teacher = data_or_null<float>(s.teacher);
  a.logit_coefficient = data_or_null<float>(coefficient_, tile.begin);
  a.ce_coefficient = data_or_null<float>(rows_.ce_coefficient, tile.begin);
  a.target = rows_.target.data<int32_t>() + tile.begin;
  a.grad = data_or_null<G>(grad);
  a.logit_loss = logit_loss_.data<double>() + tile.begin;
  a.ce_loss = ce_loss_.data<double>() + tile.begin;
  a.agree = agree_.data<int32_t>() + tile.begin;
  a.correct = correct_.data<int32_t>() + tile.begin;
  return a;
}

void HeadLoss::run_rows(Context& ctx, const Tile& tile, const Scratch& s, bool with_grad) const {
  const Tensor grad = with_grad ? s.dlogits : Tensor();
  const auto on_gpu = [&] {
    dispatch_float(kOp, in_.student_hidden.value().dtype(),
                   [&](auto tag) { head_rows_cuda(ctx, row_arguments<decltype(tag)>(tile, s, grad)); });
  };
  dispatch_device(ctx, on_gpu, [&] { head_rows_cpu(row_arguments<float>(tile, s, grad)); });
}

// Forward over all tiles; with gradients also the rows of dhidden.
void HeadLoss::run_tiles(Context& ctx, bool with_grad) {
  if (with_grad && need_input_) {
    const Tensor& hidden = in_.student_hidden.value();
    dhidden_ = all_rows_ ? Tensor::empty(ctx, hidden.shape(), hidden.dtype())
                         : Tensor::zeros(ctx, hidden.shape(), hidden.dtype());
  }
  if (tiles_.empty()) return;
  const Scratch all = make_scratch(ctx);
  for (const Tile& tile : tiles_) {
    const Scratch s = cut(all, tile);
    compute_logits(ctx, tile, s);
    run_rows(ctx, tile, s, with_grad);
    if (!with_grad || !need_input_) continue;
    gemm(ctx, false, false, 1.0F, s.dlogits, in_.student_weight.value, 0.0F, s.dhidden);
    if (!all_rows_) scatter_rows(ctx, s.dhidden, rows_.index.slice_rows(tile.begin, tile.end), dhidden_);
  }
  if (with_grad && need_weights_ && tiles_.size() == 1) {
    const Scratch whole = cut(all, tiles_.front());
    kept_.student_hidden = whole.student_hidden;
    kept_.dlogits = whole.dlogits;
  }
}

// After a pass without gradients: logit_loss_ holds the squares of the rows.
void HeadLoss::find_segment_norms(Context& ctx) {
  norm_ = Tensor::empty(ctx, rows_.segment_weight.shape(), DType::f64);
  coefficient_ = Tensor::zeros(ctx, {rows_.n}, DType::f32);
  segment_norms(ctx,
                {rows_.segment_begin, rows_.logit_coefficient, rows_.segment_weight, logit_loss_, norm_, coefficient_});
}

void HeadLoss::total(Context& ctx, const Tensor& loss, const HeadLossResult& result) const {
  HeadTotals a;
  a.rows = rows_.n;
  const Tensor& values = norm_.defined() ? norm_ : logit_loss_;
  const Tensor& weights = norm_.defined() ? rows_.segment_weight : rows_.logit_coefficient;
  a.logit_items = weights.defined() ? weights.numel() : 0;
  a.logit_loss = values.data<double>();
  a.logit_weight = data_or_null<float>(weights);
  a.ce_loss = ce_loss_.data<double>();
  a.ce_weight = data_or_null<float>(rows_.ce_coefficient);
  a.row_weight = data_or_null<float>(rows_.logit_coefficient);
  a.agree = agree_.data<int32_t>();
  a.correct = correct_.data<int32_t>();
  a.logit_scale = spec_.logit_scale;
  a.ce_scale = spec_.ce_scale;
  a.loss = loss.data<float>();
  a.logit_term = result.logit_term.data<double>();
  a.ce_term = result.ce_term.data<double>();
  a.counts = result.counts.data<double>();
  dispatch_device(
      ctx, [&] { head_totals_cuda(ctx, a); }, [&] { head_totals_cpu(a); });
}

// Returns `loss` as a tensor; fills the rest of `result`.
Tensor HeadLoss::forward(Context& ctx, bool recording, HeadLossResult& result) {
  need_input_ = recording && in_.student_hidden.requires_grad();
  need_weights_ = recording && (in_.student_weight.trainable() || in_.student_bias.trainable());
  const bool need = need_input_ || need_weights_;
  choose_tiles();
  result.logit_term = Tensor::empty(ctx, {1}, DType::f64);
  result.ce_term = Tensor::empty(ctx, {1}, DType::f64);
  result.counts = Tensor::empty(ctx, {kHeadCounts}, DType::f64);
  Tensor loss = Tensor::empty(ctx, {1}, DType::f32);
  if (!rows_.segment_begin.defined()) {
    run_tiles(ctx, need);
    total(ctx, loss, result);
    return loss;
  }
  // The norm of a sample is known only after all its tiles: losses first, then gradients. The second pass overwrites
  // the rows' outputs, so the totals come in between.
  run_tiles(ctx, false);
  find_segment_norms(ctx);
  total(ctx, loss, result);
  if (need) run_tiles(ctx, true);
  return loss;
}

// Adds into the parameters' gradients, from the kept tile or by running the tiles once more.
void HeadLoss::add_weight_gradients(Context& ctx) {
  if (kept_.dlogits.defined()) {
    add_tile_gradients(ctx, kept_);
    kept_ = {};
    return;
  }
  if (tiles_.empty()) return;
  need_input_ = false;
  const Scratch all = make_scratch(ctx);
  for (const Tile& tile : tiles_) {
    const Scratch s = cut(all, tile);
    compute_logits(ctx, tile, s);
    run_rows(ctx, tile, s, true);
    add_tile_gradients(ctx, s);
  }
}

void HeadLoss::add_tile_gradients(Context& ctx, const Scratch& s) const {
  Parameter* weight = in_.student_weight.param;
  if (weight != nullptr) {
    gemm(ctx, true, false, 1.0F, s.dlogits, s.student_hidden, take_grad_factor(*weight), weight->grad);
  }
  if (grad_to_add(ctx, in_.student_bias) != nullptr) add_column_sums(ctx, s.dlogits, in_.student_bias.param->grad);
}

}  // namespace

void make_head_loss_rows(UploadBatch& uploads, const HeadLossSpec& spec, const HeadLossWeights& weights, int64_t tokens,
                         int64_t vocab, HeadLossRows& rows) {
  check_weights(spec, weights, tokens, vocab);
  const bool logit = spec.kind != LogitKind::none;
  const bool ce = !weights.ce_weight.empty();
  std::vector<int64_t> index;
  std::vector<float> logit_coefficient, ce_coefficient;
  std::vector<int32_t> target;
  for (size_t i = 0; i < static_cast<size_t>(tokens); ++i) {
    const float a = logit ? weights.logit_weight[i] : 0.0F;
    const float b = ce ? weights.ce_weight[i] : 0.0F;
    if (a == 0 && b == 0) continue;
    index.push_back(static_cast<int64_t>(i));
    logit_coefficient.push_back(a);
    ce_coefficient.push_back(b);
    target.push_back(b == 0 ? 0 : weights.ce_target[i]);
  }
  rows.tokens = tokens;
  rows.n = static_cast<int64_t>(index.size());
  uploads.add(index, &rows.index);
  if (logit) uploads.add(logit_coefficient, &rows.logit_coefficient);
  if (ce) uploads.add(ce_coefficient, &rows.ce_coefficient);
  uploads.add(target, &rows.target);
  if (!logit || !spec.segment_norm) return;
  std::vector<int64_t> begin;
  for (const int64_t cu : weights.lens->cu) {
    begin.push_back(std::lower_bound(index.begin(), index.end(), cu) - index.begin());
  }
  uploads.add(begin, &rows.segment_begin);
  uploads.add(weights.segment_weight, &rows.segment_weight);
}

HeadLossResult head_loss(Graph& g, const HeadLossSpec& spec, const HeadLossInputs& in) {
  check_inputs(g.ctx(), spec, in);
  const auto op = std::make_shared<HeadLoss>(g.ctx(), spec, in);
  HeadLossResult result;
  Tensor loss = op->forward(g.ctx(), g.recording(), result);
  const Var hidden = in.student_hidden.route();
  // A frozen head leaves nothing but the gradient of the hidden states to backward: the teacher's are free after this.
  const auto trained = op->need_weights() ? op : nullptr;
  result.loss = g.node(std::move(loss), {in.student_hidden}, {in.student_weight, in.student_bias},
                       [hidden, trained, dhidden = op->dhidden()](Graph& graph, const Tensor&) {
                         if (trained != nullptr) trained->add_weight_gradients(graph.ctx());
                         if (dhidden.defined()) graph.add_grad(hidden, dhidden);
                       });
  return result;
}

Tensor head_logits(Context& ctx, const Tensor& hidden, const Tensor& weight, const Tensor& bias) {
  check_head("student", hidden, weight, bias);
  Tensor logits = Tensor::empty(ctx, {hidden.dim(0), weight.dim(0)}, DType::f32);
  gemm_bias(ctx, hidden, weight, float_bias(ctx, bias), logits);
  return logits;
}

std::vector<int32_t> argmax_rows(Context& ctx, const Tensor& logits) {
  check(logits.defined() && logits.rank() == 2 && logits.cols() > 0, "[argmax_rows] logits must be [R, V], V > 0");
  check_dtype("argmax_rows", "logits", logits, DType::f32);
  const int64_t rows = logits.rows();
  const auto* x = logits.data<float>();
  if (ctx.on_gpu()) {
    const Tensor index = Tensor::empty(ctx, {rows}, DType::i32);
    argmax_rows_cuda(ctx, rows, logits.cols(), x, logits.row_stride(), index.data<int32_t>());
    return index.to_vector<int32_t>(ctx);
  }
  std::vector<int32_t> out(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    out[static_cast<size_t>(r)] = static_cast<int32_t>(argmax_row(x + r * logits.row_stride(), logits.cols()));
  }
  return out;
}

}  // namespace matvlm
