// The raw SSD op of a context's device on a problem: operands as views inside buffers of NaN, every output between
// guards that are checked, no value that is not finite.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/allocator.h"
#include "tests/autograd/ssd_reference.h"

namespace matvlm::testing {

// [rows, cols] in device memory, inside a buffer of NaN that starts before its first row and ends behind its last.
template <class E>
class GuardedView {
 public:
  GuardedView(Context& ctx, int64_t rows, int64_t cols, SsdView view) : rows_(rows), cols_(cols), stride_(cols) {
    if (view == SsdView::aligned) stride_ = (cols + 7) / 8 * 8 + 16;
    if (view == SsdView::unaligned) stride_ = cols + 5;
    offset_ = kGuard + (view == SsdView::aligned ? 8 : view == SsdView::unaligned ? 3 : 0);
    host_.assign(static_cast<size_t>(offset_ + rows * stride_ + kGuard), E(std::numeric_limits<float>::quiet_NaN()));
    device_ = Tensor::empty(ctx, {static_cast<int64_t>(host_.size())}, kDType<E>);
    upload(ctx);
  }
  E* data() const { return device_.template data<E>() + offset_; }
  int64_t stride() const { return stride_; }
  void write(Context& ctx, const std::vector<double>& values) {
    ASSERT_EQ(static_cast<int64_t>(values.size()), rows_ * cols_);
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      host_[place(i)] = E(static_cast<float>(values[static_cast<size_t>(i)]));
    }
    upload(ctx);
  }
  // Values; the test fails where the op wrote outside of them.
  std::vector<float> read(Context& ctx, const std::string& what) {
    ctx.to_host(host_.data(), device_.raw(), bytes());
    std::vector<float> out(static_cast<size_t>(rows_ * cols_));
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      E& value = host_[place(i)];
      out[static_cast<size_t>(i)] = static_cast<float>(value);
      value = E(std::numeric_limits<float>::quiet_NaN());
    }
    for (size_t i = 0; i < host_.size(); ++i) {
      if (!std::isnan(static_cast<float>(host_[i]))) {
        ADD_FAILURE() << what << ": written outside, at element " << static_cast<int64_t>(i) - offset_;
        break;
      }
    }
    return out;
  }

 private:
  static constexpr int64_t kGuard = 256;  // elements; keeps the alignment
  size_t place(int64_t i) const { return static_cast<size_t>(offset_ + i / cols_ * stride_ + i % cols_); }
  int64_t bytes() const { return static_cast<int64_t>(host_.size() * sizeof(E)); }
  void upload(Context& ctx) { ctx.to_device(device_.raw(), host_.data(), bytes()); }
  int64_t rows_, cols_, stride_, offset_ = 0;
  std::vector<E> host_;
  Tensor device_;
};

inline void expect_finite(const std::vector<float>& values, const std::string& what) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      ADD_FAILURE() << what << "[" << i << "] is " << values[i];
      return;
    }
  }
}

// What the op adds to: gradients of inputs where the case accumulates, weights always.
inline SsdHeld held_gradients(const SsdProblem& p, DType dtype) {
  SsdHeld held;
  for (size_t i = 0; i < kInitial; ++i) {
    const auto n = static_cast<int64_t>(p.in[i].size());
    if (i >= kALog) held[i] = exact_values("held " + kSsdNames[i], n, DType::f32);
    if (i < kALog && p.c.accumulate) held[i] = exact_values("held " + kSsdNames[i], n, dtype);
  }
  return held;
}

template <class E>
void raw_forward(Context& ctx, const SsdArgs<E, float>& a, Tensor* steps) {
  if constexpr (std::is_same_v<E, float>) {
    if (!ctx.on_gpu()) return ssd_forward_cpu(a);
  }
  ssd_forward_cuda(ctx, a, steps);
}
template <class E>
void raw_backward(Context& ctx, const SsdArgs<E, float>& a, const Tensor& steps = {}) {
  if constexpr (std::is_same_v<E, float>) {
    if (!ctx.on_gpu()) {
      std::vector<float> scratch(static_cast<size_t>(ssd_backward_scratch(a)), NAN);
      return ssd_backward_cpu(a, scratch.data());
    }
  }
  ssd_backward_cuda(ctx, a, steps);
}

// A problem's operands and results in the memory of a context.
template <class E>
class RawSsd {
 public:
  // portable_shared: of the op's arguments.
  RawSsd(Context& ctx, const SsdProblem& p, const SsdHeld& held, int64_t portable_shared = 0)
      : ctx_(ctx), p_(p), portable_shared_(portable_shared) {
    const auto widths = p.widths();
    const int64_t inner = p.c.shape.heads * p.c.shape.head_dim;
    for (size_t i = 0; i < kALog; ++i) {
      inputs_[i] = view(p.tokens(), widths[i], p.in[i]);
      grads_[i] = view(p.tokens(), widths[i], held[i]);
    }
    dy_ = view(p.tokens(), inner, p.dy);
    y_ = view(p.tokens(), inner, {});
    for (size_t i = kALog; i < kInitial; ++i) {
      floats_[i] = flat(p.c.shape.heads, p.in[i]);
      weight_grads_[i - kALog] = flat(p.c.shape.heads, held[i]);
    }
    if (p.c.initial) floats_[kInitial] = flat(p.state_rows() * p.state_row(), p.in[kInitial]);
    if (p.c.initial) dinitial_ = flat(p.batch() * p.state_row(), {});
    if (p.c.final_state) final_ = flat(p.state_rows() * p.state_row(), {});
    if (p.c.final_state) dfinal_ = flat(p.batch() * p.state_row(), p.dfinal);
    cu_ = Tensor::from(ctx, p.cu, {p.batch() + 1});
    if (!p.slots.empty()) slots_ = Tensor::from(ctx, p.slots, {p.batch()});
  }
  // keep: backward gets what forward made of dt, where that is something.
  SsdResult run(const std::string& where, bool keep = false) {
    SsdResult out;
    Tensor steps;
    raw_forward(ctx_, forward_args(), keep ? &steps : nullptr);
    kept_ = steps.defined();
    out.y = y_->read(ctx_, where + ": y");
    expect_finite(out.y, where + ": y");
    if (final_ != nullptr) out.final_state = read_final_state(where + ": final state");
    out.grads = run_backward(where, backward_args(), steps);
    return out;
  }
  bool kept() const { return kept_; }
  // The backward op for one gradient alone.
  std::vector<float> run_single(const std::string& where, size_t wanted) {
    SsdArgs<E, float> a = backward_args();
    if (wanted != kX) a.dx = nullptr;
    if (wanted != kB) a.db = nullptr;
    if (wanted != kC) a.dc = nullptr;
    if (wanted != kDt) a.ddt = nullptr;
    if (wanted != kALog) a.da_log = nullptr;
    if (wanted != kD) a.dd = nullptr;
    if (wanted != kDtBias) a.ddt_bias = nullptr;
    if (wanted != kInitial) a.dinitial = nullptr;
    raw_backward(ctx_, a);
    const std::vector<float> out = read_gradient(where, wanted);
    expect_finite(out, where);
    return out;
  }

 private:
  std::unique_ptr<GuardedView<E>> view(int64_t rows, int64_t cols, const std::vector<double>& values) {
    auto out = std::make_unique<GuardedView<E>>(ctx_, rows, cols, p_.c.view);
    if (!values.empty()) out->write(ctx_, values);
    return out;
  }
  std::unique_ptr<GuardedView<float>> flat(int64_t n, const std::vector<double>& values) {
    auto out = std::make_unique<GuardedView<float>>(ctx_, 1, n, SsdView::contiguous);
    if (!values.empty()) out->write(ctx_, values);
    return out;
  }
  SsdArgs<E, float> common_args() const {
    SsdArgs<E, float> a;
    a.portable_shared = portable_shared_;
    a.shape = p_.c.shape;
    a.tokens = p_.tokens();
    a.batch = p_.batch();
    a.longest = p_.longest();
    a.cu = cu_.template data<int64_t>();
    a.x = inputs_[kX]->data();
    a.x_stride = inputs_[kX]->stride();
    a.b = inputs_[kB]->data();
    a.b_stride = inputs_[kB]->stride();
    a.c = inputs_[kC]->data();
    a.c_stride = inputs_[kC]->stride();
    a.dt = inputs_[kDt]->data();
    a.dt_stride = inputs_[kDt]->stride();
    a.a_log = floats_[kALog]->data();
    a.d = floats_[kD]->data();
    a.dt_bias = floats_[kDtBias]->data();
    if (floats_[kInitial] != nullptr) a.initial = floats_[kInitial]->data();
    if (slots_.defined()) a.slots = slots_.template data<int64_t>();
    return a;
  }
  SsdArgs<E, float> forward_args() const {
    SsdArgs<E, float> a = common_args();
    a.y = y_->data();
    a.y_stride = y_->stride();
    if (final_ != nullptr) a.final_state = final_->data();
    return a;
  }
  SsdArgs<E, float> backward_args() const {
    SsdArgs<E, float> a = common_args();
    a.dy = dy_->data();
    a.dy_stride = dy_->stride();
    if (dfinal_ != nullptr) a.dfinal_state = dfinal_->data();
    if (dinitial_ != nullptr) a.dinitial = dinitial_->data();
    a.dx = grads_[kX]->data();
    a.dx_stride = grads_[kX]->stride();
    a.db = grads_[kB]->data();
    a.db_stride = grads_[kB]->stride();
    a.dc = grads_[kC]->data();
    a.dc_stride = grads_[kC]->stride();
    a.ddt = grads_[kDt]->data();
    a.ddt_stride = grads_[kDt]->stride();
    a.dx_accumulate = a.db_accumulate = a.dc_accumulate = a.ddt_accumulate = p_.c.accumulate;
    a.da_log = weight_grads_[0]->data();
    a.dd = weight_grads_[1]->data();
    a.ddt_bias = weight_grads_[2]->data();
    return a;
  }
  SsdValues<float> run_backward(const std::string& where, const SsdArgs<E, float>& a, const Tensor& steps) {
    raw_backward(ctx_, a, steps);
    SsdValues<float> out;
    for (size_t i = 0; i < kSsdInputs; ++i) {
      if (i == kInitial && dinitial_ == nullptr) continue;
      const std::string what = where + ": gradient of " + kSsdNames[i];
      out[i] = read_gradient(what, i);
      expect_finite(out[i], what);
    }
    return out;
  }
  std::vector<float> read_gradient(const std::string& what, size_t i) {
    if (i < kALog) return grads_[i]->read(ctx_, what);
    return (i == kInitial ? dinitial_ : weight_grads_[i - kALog])->read(ctx_, what);
  }
  // Rows in the order of the sequences; a row that no sequence uses stays as it was.
  std::vector<float> read_final_state(const std::string& what) {
    const std::vector<float> rows = final_->read(ctx_, what);
    if (!p_.slots.empty()) {
      const auto unused = rows.begin();  // row 0
      EXPECT_TRUE(std::all_of(unused, unused + p_.state_row(), [](float v) { return std::isnan(v); })) << what;
    }
    std::vector<float> out = p_.rows_of_sequences(rows);
    expect_finite(out, what);
    return out;
  }

  Context& ctx_;
  const SsdProblem& p_;
  int64_t portable_shared_;
  bool kept_ = false;
  std::array<std::unique_ptr<GuardedView<E>>, 4> inputs_, grads_;
  std::unique_ptr<GuardedView<E>> dy_, y_;
  std::array<std::unique_ptr<GuardedView<float>>, kSsdInputs> floats_;
  std::array<std::unique_ptr<GuardedView<float>>, 3> weight_grads_;
  std::unique_ptr<GuardedView<float>> dinitial_, final_, dfinal_;
  Tensor cu_, slots_;
};

// A device hands out again what was just given back, as it is: so scratch that the op takes next starts as NaN.
inline void poison_free_memory(Context& ctx) {
  constexpr int64_t kBytes = 2LL << 30;
  ctx.allocator()->release_cached();
  {
    const Tensor block = Tensor::empty(ctx, {kBytes}, DType::u8);
    ctx.fill_bytes(block.raw(), 0xff, kBytes);
    ctx.synchronize();
  }
  ctx.allocator()->release_cached();
}

// The op on the context's device in E against the oracle, twice, with NaN and then with old values in its scratch, the
// second time with the forward pass's steps in backward: the same bits.
template <class E>
void check_raw(Context& ctx, const SsdProblem& p, const SsdReference& exact, int64_t portable_shared = 0) {
  const DType dtype = kDType<E>;
  const SsdHeld held = held_gradients(p, dtype);
  const std::string where = cat(p.c.name, ", ", dtype_name(dtype),
                                portable_shared > 0 ? cat(", portable, ", portable_shared / 1024, " KiB") : "");
  const auto run = [&](bool keep) { return RawSsd<E>(ctx, p, held, portable_shared).run(where, keep); };
  if (ctx.on_gpu()) poison_free_memory(ctx);
  const SsdResult found = run(false);
  expect_matches(p, dtype, found, exact, held, where);
  EXPECT_TRUE(found == run(true)) << where << ": same inputs, other bits";
}

}  // namespace matvlm::testing
