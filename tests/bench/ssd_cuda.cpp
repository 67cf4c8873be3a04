// Times of the SSD kernels, forward and backward, for a list of shapes: against the bytes that must move (at 3.0 TB/s)
// and in floating-point operations, with the scratch they take. tests/bench/peer_ssd.py times the Triton kernels on the
// same.
//   bench_ssd [--shape NAME] [--dtype bf16|f32] [--portable KIB] [--json]
// --portable: the kernels for GPUs without bulk copies, as chosen where a block may have so much shared memory (163 on
// compute capability 8.0; 99 on 8.6, 8.9 and 12.0).
#include <cuda_runtime.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "autograd/ops/ssd.h"
#include "core/allocator.h"
#include "core/context.h"
#include "core/cuda_context.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

constexpr double kPeakBytes = 3.0e12;  // per second: what an H100's memory gives in practice
constexpr int kWarmUp = 5;
constexpr int kTimed = 30;
constexpr int64_t kColdBytes = 200LL << 20;  // inputs in rotation: four times the level-2 cache
constexpr int64_t kMaxSets = 16;

struct BenchShape {
  std::string name;
  std::vector<int64_t> lengths;
  SsdShape shape;
};

// 40 samples of 30 to 700 tokens, many short and few long as in instruction data, in a mixed order; 8,141 in all.
std::vector<int64_t> packed_lengths() {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < 40; ++i) {
    const double rank = (static_cast<double>(i * 17 % 40) + 0.5) / 40.0;
    out.push_back(30 + static_cast<int64_t>(670.0 * std::pow(rank, 2.85)));
  }
  return out;
}

std::vector<BenchShape> bench_shapes() {
  const SsdShape matvlm{32, 32, 32, 32, 80, 80};
  std::vector<BenchShape> out = {
      {"matvlm", {1428, 1428, 1428, 1428}, matvlm},
      {"matvlm-long", {4096, 4096}, matvlm},
      {"mamba2-2.7b", {2048, 2048, 2048, 2048}, {80, 80, 1, 1, 64, 128}},
      {"single", {1428}, matvlm},
      {"packed", packed_lengths(), matvlm},
  };
  for (const int64_t length : {512, 2048, 8192, 32768, 65536}) out.push_back({cat("l", length), {length}, matvlm});
  return out;
}

// Values as in a model at the start of training (dt_bias: inverse softplus of a log-uniform step, A_log = log U(1, 16),
// D = 1, raw dt uniform with the variance that rows of +-1/sqrt(D) give normal inputs); x, B, C, dy uniform with
// variance 1.
std::vector<float> uniform_values(const std::string& name, int64_t n, double deviation) {
  const Rng rng{1, stream_of(name)};
  std::vector<float> out(static_cast<size_t>(n));
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) {
    out[static_cast<size_t>(i)] =
        static_cast<float>((2 * rng.uniform(static_cast<uint64_t>(i)) - 1) * 1.7320508 * deviation);
  }
  return out;
}

struct Weights {
  Tensor a_log, d, dt_bias;  // [H]
  Weights(Context& ctx, int64_t heads) {
    const Rng rng{1, stream_of("weights")};
    std::vector<float> rate, skip, bias;
    for (int64_t h = 0; h < heads; ++h) {
      const auto i = static_cast<uint64_t>(h);
      const double step = std::exp(rng.uniform(2 * i, std::log(0.001), std::log(0.1)));
      rate.push_back(static_cast<float>(std::log(rng.uniform(2 * i + 1, 1, 16))));
      skip.push_back(1.0F);
      bias.push_back(static_cast<float>(std::log(std::expm1(step))));
    }
    a_log = Tensor::from(ctx, rate, {heads});
    d = Tensor::from(ctx, skip, {heads});
    dt_bias = Tensor::from(ctx, bias, {heads});
  }
};

// One set of operands and results. x, B and C are column ranges of one tensor, as the convolution leaves them; so are
// their gradients.
template <class E>
struct Operands {
  Tensor xbc, dt, y, dy, dxbc, ddt;
  Operands(Context& ctx, const SsdShape& s, int64_t tokens) {
    const int64_t width = s.x_groups * s.head_dim + (s.b_groups + s.c_groups) * s.state;
    const int64_t inner = s.heads * s.head_dim;
    const auto random = [&](const char* name, int64_t cols, double deviation) {
      return Tensor::from_floats(ctx, uniform_values(name, tokens * cols, deviation), {tokens, cols}, kDType<E>);
    };
    xbc = random("xbc", width, 1);
    dt = random("dt", s.heads, 0.577);
    dy = random("dy", inner, 1);
    y = Tensor::empty(ctx, {tokens, inner}, kDType<E>);
    dxbc = Tensor::empty(ctx, {tokens, width}, kDType<E>);
    ddt = Tensor::empty(ctx, {tokens, s.heads}, kDType<E>);
  }
  // Further sets: the same values elsewhere in memory.
  Operands copy(Context& ctx) const {
    Operands out = *this;
    for (Tensor* t : {&out.xbc, &out.dt, &out.y, &out.dy, &out.dxbc, &out.ddt}) *t = t->clone(ctx);
    return out;
  }
};

// What must move and what is computed. Operations are those of the chunked form with chunks of Q = 64 tokens, halved
// where the product is triangular, a multiply-add counted as two. Per token and head
//   forward   Q (N + P) + 4 N P           scores C B^T and scores x; state in and out
//   backward  Q (3 N + 2 P) + 10 N P      scores again, their gradient, dB, dC, dx inside the chunk; the state again,
//   its
//                                         gradient, and what it gives to dx, dB, dC
struct Work {
  double forward_bytes, backward_bytes, forward_flops, backward_flops;
  Work(const SsdShape& s, int64_t tokens, int64_t element) {
    const auto t = static_cast<double>(tokens);
    const auto bytes = static_cast<double>(element);
    const auto inner = static_cast<double>(s.heads * s.head_dim);
    const auto inputs = static_cast<double>(s.x_groups * s.head_dim + (s.b_groups + s.c_groups) * s.state);
    const auto heads = static_cast<double>(s.heads);
    forward_bytes = t * bytes * (inputs + inner + heads);           // x, B, C, dt in, y out
    backward_bytes = t * bytes * (2 * inputs + inner + 2 * heads);  // x, B, C, dt, dy in, dx, dB, dC, ddt out
    constexpr double kChunk = 64;
    const auto p = static_cast<double>(s.head_dim);
    const auto n = static_cast<double>(s.state);
    forward_flops = t * heads * (kChunk * (n + p) + 4 * n * p);
    backward_flops = t * heads * (kChunk * (3 * n + 2 * p) + 10 * n * p);
  }
};

struct Measured {
  double ms = 0;
  int64_t scratch = 0;  // peak bytes beyond inputs and outputs
};

struct EventDeleter {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;
Event new_event() {
  cudaEvent_t event = nullptr;
  MATVLM_CUDA_CHECK(cudaEventCreate(&event));
  return Event(event);
}

// Median over calls f(i), which run one after another without the host waiting in between.
template <class F>
Measured measure(Context& ctx, F&& f) {
  ctx.synchronize();
  const int64_t before = ctx.allocator()->stats().current;
  ctx.allocator()->reset_peak();
  for (int i = 0; i < kWarmUp; ++i) f(i);
  Measured out;
  out.scratch = ctx.allocator()->stats().peak - before;
  std::vector<Event> begins, ends;
  for (int i = 0; i < kTimed; ++i) {
    begins.push_back(new_event());
    ends.push_back(new_event());
  }
  cudaStream_t stream = ctx.cuda()->stream();
  for (int i = 0; i < kTimed; ++i) {
    MATVLM_CUDA_CHECK(cudaEventRecord(begins[static_cast<size_t>(i)].get(), stream));
    f(i);
    MATVLM_CUDA_CHECK(cudaEventRecord(ends[static_cast<size_t>(i)].get(), stream));
  }
  ctx.synchronize();
  std::vector<float> times(kTimed);
  for (size_t i = 0; i < times.size(); ++i) {
    MATVLM_CUDA_CHECK(cudaEventElapsedTime(&times[i], begins[i].get(), ends[i].get()));
  }
  std::sort(times.begin(), times.end());
  out.ms = 0.5 * (static_cast<double>(times[times.size() / 2 - 1]) + static_cast<double>(times[times.size() / 2]));
  return out;
}

// A fast kernel that computes nothing is no result.
void check_finite(Context& ctx, const Tensor& t, const std::string& what) {
  for (const float v : t.slice_rows(0, std::min<int64_t>(t.dim(0), 64)).to_floats(ctx)) {
    check(std::isfinite(v), "[bench_ssd] ", what, " is not finite");
  }
}

template <class E>
class Bench {
 public:
  Bench(Context& ctx, const BenchShape& which, int64_t portable_shared)
      : ctx_(ctx),
        which_(which),
        portable_shared_(portable_shared),
        weights_(ctx, which.shape.heads),
        sums_(Tensor::zeros(ctx, {3, which.shape.heads}, DType::f32)) {
    cu_ = {0};
    for (const int64_t n : which.lengths) cu_.push_back(cu_.back() + n);
    device_cu_ = Tensor::from(ctx, cu_, {static_cast<int64_t>(cu_.size())});
    const Work w = work();
    const auto sets = std::clamp<int64_t>(kColdBytes / static_cast<int64_t>(w.forward_bytes) + 1, 2, kMaxSets);
    sets_.emplace_back(ctx, which.shape, cu_.back());
    for (int64_t i = 1; i < sets; ++i) sets_.push_back(sets_[0].copy(ctx));
  }
  Work work() const { return {which_.shape, cu_.back(), dtype_size(kDType<E>)}; }
  int64_t tokens() const { return cu_.back(); }
  Measured forward() {
    const Measured out = measure(ctx_, [&](int i) { ssd_forward_cuda(ctx_, args(i)); });
    check_finite(ctx_, sets_[0].y, "y");
    return out;
  }
  Measured backward() {
    const Measured out = measure(ctx_, [&](int i) { ssd_backward_cuda(ctx_, args(i)); });
    check_finite(ctx_, sets_[0].dxbc, "a gradient of x, B or C");
    check_finite(ctx_, sets_[0].ddt, "the gradient of dt");
    check_finite(ctx_, sums_, "a gradient of A_log, D or dt_bias");
    return out;
  }

 private:
  SsdArgs<E, float> args(int i) const {
    const SsdShape& s = which_.shape;
    const Operands<E>& set = sets_[static_cast<size_t>(i) % sets_.size()];
    const int64_t b_column = s.x_groups * s.head_dim;
    const int64_t c_column = b_column + s.b_groups * s.state;
    SsdArgs<E, float> a;
    a.shape = s;
    a.portable_shared = portable_shared_;
    a.tokens = cu_.back();
    a.batch = static_cast<int64_t>(which_.lengths.size());
    a.longest = *std::max_element(which_.lengths.begin(), which_.lengths.end());
    a.cu = device_cu_.data<int64_t>();
    a.x = set.xbc.template data<E>();
    a.b = a.x + b_column;
    a.c = a.x + c_column;
    a.x_stride = a.b_stride = a.c_stride = set.xbc.row_stride();
    a.dt = set.dt.template data<E>();
    a.dt_stride = set.dt.row_stride();
    a.a_log = weights_.a_log.data<float>();
    a.d = weights_.d.data<float>();
    a.dt_bias = weights_.dt_bias.data<float>();
    a.y = set.y.template data<E>();
    a.y_stride = set.y.row_stride();
    a.dy = set.dy.template data<E>();
    a.dy_stride = set.dy.row_stride();
    a.dx = set.dxbc.template data<E>();
    a.db = a.dx + b_column;
    a.dc = a.dx + c_column;
    a.dx_stride = a.db_stride = a.dc_stride = set.dxbc.row_stride();
    a.ddt = set.ddt.template data<E>();
    a.ddt_stride = set.ddt.row_stride();
    a.da_log = sums_.data<float>();
    a.dd = a.da_log + s.heads;
    a.ddt_bias = a.dd + s.heads;
    return a;
  }
  Context& ctx_;
  const BenchShape& which_;
  int64_t portable_shared_;
  Weights weights_;
  Tensor sums_, device_cu_;
  std::vector<int64_t> cu_;
  std::vector<Operands<E>> sets_;
};

void print_pass(const char* pass, const Measured& m, double bytes, double flops) {
  const double floor_ms = bytes / kPeakBytes * 1e3;
  std::cout << "  " << pass << std::fixed << std::setprecision(3) << std::setw(9) << m.ms << " ms  "
            << std::setprecision(0) << std::setw(6) << bytes / m.ms * 1e-6 << " GB/s  " << std::setprecision(1)
            << std::setw(6) << flops / m.ms * 1e-9 << " TFLOP/s  " << std::setw(6) << m.ms / floor_ms
            << " x the floor of " << std::setprecision(3) << floor_ms << " ms  scratch " << std::setprecision(1)
            << std::setw(7) << static_cast<double>(m.scratch) * 1e-6 << " MB\n";
}

void print_json(const char* pass, const Measured& m, double bytes, double flops) {
  std::cout << ", \"" << pass << "\": {\"ms\": " << m.ms << ", \"gb_per_s\": " << bytes / m.ms * 1e-6
            << ", \"tflop_per_s\": " << flops / m.ms * 1e-9 << ", \"times_floor\": " << m.ms * 1e-3 * kPeakBytes / bytes
            << ", \"scratch_bytes\": " << m.scratch << "}";
}

struct Options {
  std::string shape, dtype = "bf16";
  int64_t portable_shared = 0;  // of SsdArgs
  bool json = false;
};

template <class E>
void run_shape(Context& ctx, const BenchShape& which, const Options& options) {
  Bench<E> bench(ctx, which, options.portable_shared);
  const Measured forward = bench.forward();
  const Measured backward = bench.backward();
  const Work work = bench.work();
  if (options.json) {
    std::cout << "{\"shape\": \"" << which.name << "\", \"dtype\": \"" << dtype_name(kDType<E>)
              << "\", \"tokens\": " << bench.tokens() << ", \"card\": \"" << ctx.description() << "\"";
    print_json("forward", forward, work.forward_bytes, work.forward_flops);
    print_json("backward", backward, work.backward_bytes, work.backward_flops);
    std::cout << "}" << std::endl;
    return;
  }
  const SsdShape& s = which.shape;
  std::cout << which.name << ": " << which.lengths.size()
            << (which.lengths.size() == 1 ? " sequence, " : " sequences, ") << bench.tokens() << " tokens, H "
            << s.heads << ", groups " << s.x_groups << " " << s.b_groups << " " << s.c_groups << ", P " << s.head_dim
            << ", N " << s.state << "\n";
  print_pass("forward ", forward, work.forward_bytes, work.forward_flops);
  print_pass("backward", backward, work.backward_bytes, work.backward_flops);
  std::cout << std::flush;
}

Options parse(int argc, char** argv) {
  Options out;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool takes_value = word == "--shape" || word == "--dtype" || word == "--portable";
    check(word == "--json" || takes_value, "bench_ssd: found '", word,
          "', expected --shape NAME, --dtype NAME, --portable KIB or --json");
    if (word == "--json") out.json = true;
    if (!takes_value) continue;
    check(i + 1 < argc, "bench_ssd: nothing follows ", word);
    const std::string value = argv[++i];
    if (word == "--shape") out.shape = value;
    if (word == "--dtype") out.dtype = value;
    if (word != "--portable") continue;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out.portable_shared);
    check(error == std::errc() && end == value.data() + value.size() && out.portable_shared > 0 &&
              out.portable_shared <= 1024,
          "bench_ssd: --portable: found '", value, "', expected KiB from 1 to 1024");
    out.portable_shared *= 1024;
  }
  check(out.dtype == "bf16" || out.dtype == "f32", "bench_ssd: --dtype: found '", out.dtype, "', expected bf16 or f32");
  return out;
}

void run(const Options& options) {
  const std::vector<BenchShape> shapes = bench_shapes();
  std::string names;
  bool known = options.shape.empty();
  for (const BenchShape& which : shapes) {
    names += " " + which.name;
    known = known || which.name == options.shape;
  }
  check(known, "bench_ssd: --shape: found '", options.shape, "', expected one of", names);
  for (const BenchShape& which : shapes) {
    if (!options.shape.empty() && which.name != options.shape) continue;
    const auto ctx = make_cuda_context(0);  // each shape starts with an empty allocator
    if (!options.json) std::cout << ctx->description() << ", " << options.dtype << ": ";
    if (options.dtype == "bf16") run_shape<bf16>(*ctx, which, options);
    if (options.dtype == "f32") run_shape<float>(*ctx, which, options);
  }
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  try {
    matvlm::run(matvlm::parse(argc, argv));
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
  return 0;
}
