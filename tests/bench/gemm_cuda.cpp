// Looks for faster algorithms of the matrix products of the full-size step (configs/bench-full.yaml, B 4, L 1024,
// bf16): times what cuBLASLt's heuristic proposes for each with several workspaces, and what its first proposals become
// with other tiles and clusters, beside the algorithm that gemm() uses. Prints lines for the table of
// core/gemm_choice.cpp. Candidates take turns, so all see the clocks of their mean power: on a card that is held by its
// power an entry has to make the step itself faster, too.
//   bench_gemm [--short] [--steady SECONDS] [--rows N] [WORD ...]
// --short: proposals only; --steady: the proposals by what each does to the card when it runs alone for that long: time
// (at the power limit that is the energy), clock, and power and energy by NVML, whose power is a mean over about a
// second: these two need three seconds and more; --rows: positions of an update in place of 4096; words: products whose
// name contains one of them
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "autograd/ops/random_fill.h"
#include "core/allocator.h"
#include "core/gemm_problem.cuh"
#include "tests/bench/timing.cuh"
#include "tests/support/energy.h"

namespace matvlm::bench {
namespace {

struct Product {
  const char* name;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  bool bias;
  float beta;     // 1 with `residual`: what is added is another tensor than C
  bool residual;  // of beta 1
  GemmEpilogue epilogue;
  bool pre;
  DType output;
  int times;  // in an update; 0: only to compare with
};

constexpr auto kNone = GemmEpilogue::none;
constexpr auto kGelu = GemmEpilogue::gelu;
constexpr auto kSlope = GemmEpilogue::gelu_gradient;
constexpr auto kHalf = DType::bf16;
constexpr auto kFloat = DType::f32;

// As the step issues them on a context that counts; B is transposed in forward, A in gradients of weights.
constexpr int64_t kPositions = 4096;  // of text, in an update of the full-size step
constexpr Product kProducts[] = {
    {"square", false, true, 8192, 8192, 8192, false, 0, false, kNone, false, kHalf, 0},
    {"text fc2 + residual", false, true, 4096, 2560, 10240, true, 1, true, kNone, false, kHalf, 64},
    {"text fc2", false, true, 4096, 2560, 10240, true, 0, false, kNone, false, kHalf, 0},
    {"text fc1, gelu, pre kept", false, true, 4096, 10240, 2560, true, 0, false, kGelu, true, kHalf, 32},
    {"text fc1, gelu", false, true, 4096, 10240, 2560, true, 0, false, kGelu, false, kHalf, 32},
    {"text fc1", false, true, 4096, 10240, 2560, true, 0, false, kNone, false, kHalf, 0},
    {"d text fc2, gelu's", false, false, 4096, 10240, 2560, false, 0, false, kSlope, true, kHalf, 32},
    {"d text fc2", false, false, 4096, 10240, 2560, false, 0, false, kNone, false, kHalf, 0},
    {"d text fc1", false, false, 4096, 2560, 10240, false, 0, false, kNone, false, kHalf, 32},
    {"text qkv", false, true, 4096, 7680, 2560, true, 0, false, kNone, false, kHalf, 56},
    {"d text qkv, added", false, false, 4096, 2560, 7680, false, 1, false, kNone, false, kHalf, 24},
    {"d text qkv", false, false, 4096, 2560, 7680, false, 0, false, kNone, false, kHalf, 0},
    {"text dense + residual", false, true, 4096, 2560, 2560, true, 1, true, kNone, false, kHalf, 48},
    {"text dense", false, true, 4096, 2560, 2560, true, 0, false, kNone, false, kHalf, 8},
    {"d text dense, out_proj", false, false, 4096, 2560, 2560, false, 0, false, kNone, false, kHalf, 40},
    {"in_proj", false, true, 4096, 10272, 2560, false, 0, false, kNone, false, kHalf, 16},
    {"d in_proj, added", false, false, 4096, 2560, 10272, false, 1, false, kNone, false, kHalf, 8},
    {"d in_proj", false, false, 4096, 2560, 10272, false, 0, false, kNone, false, kHalf, 0},
    {"in_proj weight", true, false, 10272, 2560, 4096, false, 0, false, kNone, false, kFloat, 8},
    {"in_proj weight, added", true, false, 10272, 2560, 4096, false, 1, false, kNone, false, kFloat, 8},
    {"out_proj", false, true, 4096, 2560, 2560, false, 0, false, kNone, false, kHalf, 8},
    {"out_proj + residual", false, true, 4096, 2560, 2560, false, 1, true, kNone, false, kHalf, 8},
    {"out_proj weight", true, false, 2560, 2560, 4096, false, 0, false, kNone, false, kFloat, 8},
    {"out_proj weight, added", true, false, 2560, 2560, 4096, false, 1, false, kNone, false, kFloat, 8},
    {"head", false, true, 256, 51200, 2560, true, 0, false, kNone, false, kFloat, 32},
    {"d head", false, false, 256, 2560, 51200, false, 0, false, kNone, false, kHalf, 16},
    {"vision qkv", false, true, 2916, 3456, 1152, true, 0, false, kNone, false, kHalf, 26},
    {"vision dense + residual", false, true, 2916, 1152, 1152, true, 1, true, kNone, false, kHalf, 26},
    {"vision dense", false, true, 2916, 1152, 1152, true, 0, false, kNone, false, kHalf, 0},
    {"vision fc1, gelu", false, true, 2916, 4304, 1152, true, 0, false, kGelu, false, kHalf, 26},
    {"vision fc1", false, true, 2916, 4304, 1152, true, 0, false, kNone, false, kHalf, 0},
    {"vision fc2 + residual", false, true, 2916, 1152, 4304, true, 1, true, kNone, false, kHalf, 26},
    {"vision fc2", false, true, 2916, 1152, 4304, true, 0, false, kNone, false, kHalf, 0},
};

// One product with its operands, in several copies.
struct Operands {
  std::vector<Tensor> tensors;  // keeps them
  std::vector<GemmArgs> args;
};

Operands make_operands(Context& ctx, const Product& p) {
  const int64_t out_size = dtype_size(p.output);
  const int64_t outputs = 1 + (p.residual ? 1 : 0);
  const int64_t bytes = 2 * (p.m * p.k + p.k * p.n + (p.pre ? p.m * p.n : 0)) + outputs * out_size * p.m * p.n;
  Operands out;
  uint64_t stream = 0;
  const auto tensor = [&](int64_t rows, int64_t cols, DType dtype, double bound) {
    out.tensors.push_back(Tensor::empty(ctx, {rows, cols}, dtype));
    matvlm::fill_random(ctx, out.tensors.back(), 0.0, bound, {7, ++stream});
    return out.tensors.back().raw();
  };
  for (int i = 0; i < buffer_sets(bytes, 16); ++i) {
    GemmArgs g;
    g.transpose_a = p.transpose_a;
    g.transpose_b = p.transpose_b;
    g.m = p.m;
    g.n = p.n;
    g.k = p.k;
    g.beta = p.beta;
    g.input = kHalf;
    g.output = p.output;
    g.epilogue = p.epilogue;
    g.lda = p.transpose_a ? p.m : p.k;
    g.ldb = p.transpose_b ? p.k : p.n;
    g.ldc = p.n;
    // About what activations and weights are: numbers that a chip has to work for.
    g.a = tensor(p.m, p.k, kHalf, 1.7);
    g.b = tensor(p.k, p.n, kHalf, 0.03);
    g.c = tensor(p.m, p.n, p.output, 1.7);
    if (p.residual) g.residual = tensor(p.m, p.n, p.output, 1.7);
    if (p.bias) g.bias = tensor(1, p.n, p.output, 1.0);
    if (p.pre) {
      g.pre = tensor(p.m, p.n, p.output, 1.7);
      g.ldpre = p.n;
    }
    out.args.push_back(g);
  }
  return out;
}

struct Candidate {
  cublasLtMatmulAlgo_t algorithm{};
  std::string origin;       // "ours", "64 MiB #3", "search"
  bool from_table = false;  // its attributes alone give the same algorithm
  size_t workspace = 0;     // bytes; some algorithms clear a counter in it before each launch
  double ms = 0;
  double watts = 0, megahertz = 0;  // --steady
  double joules() const { return watts * ms * 1e-3; }
};

bool same(const cublasLtMatmulAlgo_t& a, const cublasLtMatmulAlgo_t& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

class Search {
 public:
  Search(CudaContext& cuda, const Product& product)
      : cuda_(cuda),
        product_(product),
        operands_(make_operands(cuda, product)),
        problem_(make_problem(cuda, operands_.args.front())) {}

  void run(bool with_variants);
  void run_steady(const EnergyMeter& meter, double seconds);

 private:
  bool add_all();
  void time_steady(Candidate& candidate, const EnergyMeter& meter, double seconds);
  void add(const cublasLtMatmulAlgo_t& algorithm, const std::string& origin);
  void add_proposals(int64_t workspace);
  void add_variants();
  void add_known();
  void time(int rounds);
  void keep_best(size_t count);
  void print() const;
  double difference(const Candidate& a, const Candidate& b) const;

  CudaContext& cuda_;
  const Product product_;
  Operands operands_;
  GemmProblem problem_;
  std::vector<Candidate> candidates_;  // the first is ours
};

void Search::add(const cublasLtMatmulAlgo_t& algorithm, const std::string& origin) {
  for (const Candidate& c : candidates_) {
    if (same(c.algorithm, algorithm)) return;
  }
  cublasLtMatmulAlgo_t again{};
  const GemmArgs& g = operands_.args.front();
  const bool made = make_algorithm(cuda_, problem_, g, config_of(algorithm), again);
  // What the library refuses after all is no candidate, nor what is far slower than ours. The first launch loads code.
  if (launch_product(cuda_, problem_, g, algorithm) != CUBLAS_STATUS_SUCCESS) return;
  const Event start, stop;
  start.record(cuda_);
  MATVLM_BLAS_CHECK(launch_product(cuda_, problem_, g, algorithm));
  stop.record(cuda_);
  const double ms = stop.since(start);
  if (!candidates_.empty() && ms > 1.3 * candidates_.front().ms) return;
  cublasLtMatmulHeuristicResult_t checked{};
  MATVLM_BLAS_CHECK(cublasLtMatmulAlgoCheck(cuda_.blas(), problem_.desc.get(), problem_.a.get(), problem_.b.get(),
                                            problem_.c.get(), problem_.c.get(), &algorithm, &checked));
  candidates_.push_back({algorithm, origin, made && same(algorithm, again), checked.workspaceSize, ms});
}

void Search::add_proposals(int64_t workspace) {
  constexpr int kMost = 16;
  std::array<cublasLtMatmulHeuristicResult_t, kMost> results{};
  const int count = find_algorithms(cuda_, problem_.desc, problem_.a, problem_.b, problem_.c,
                                    limits_of(operands_.args.front()), workspace, kMost, results.data());
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& r = results[static_cast<size_t>(i)];
    if (r.state == CUBLAS_STATUS_SUCCESS) add(r.algo, cat(workspace >> 20, " MiB #", i));
  }
}

// The proposals with every tile that their algorithm has, in the clusters that share operands between blocks.
void Search::add_variants() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1200);
  const size_t proposals = std::min<size_t>(candidates_.size(), 4);
  for (size_t i = 0; i < proposals; ++i) {
    const AlgorithmConfig base = config_of(candidates_[i].algorithm);
    std::array<uint32_t, CUBLASLT_MATMUL_TILE_END> tiles{};
    size_t written = 0;
    if (cublasLtMatmulAlgoCapGetAttribute(&candidates_[i].algorithm, CUBLASLT_ALGO_CAP_TILE_IDS, tiles.data(),
                                          sizeof(tiles), &written) != CUBLAS_STATUS_SUCCESS) {
      continue;
    }
    for (size_t t = 0; t < written / sizeof(uint32_t); ++t) {
      for (const cublasLtClusterShape_t cluster :
           {CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1}) {
        AlgorithmConfig config = base;
        config.tile = tiles[t];
        config.cluster = static_cast<uint16_t>(cluster);
        cublasLtMatmulAlgo_t algorithm{};
        if (std::chrono::steady_clock::now() < end &&
            make_algorithm(cuda_, problem_, operands_.args.front(), config, algorithm)) {
          add(algorithm, "search");
        }
      }
    }
  }
}

// What the table has for other products.
void Search::add_known() {
  for (const GemmChoice& choice : gemm_choices()) {
    cublasLtMatmulAlgo_t algorithm{};
    if (make_algorithm(cuda_, problem_, operands_.args.front(), choice.config, algorithm)) add(algorithm, "table");
  }
}

// Every candidate in every round, so that all see the same clocks; a timing covers all copies of the operands.
void Search::time(int rounds) {
  std::vector<std::vector<double>> times(candidates_.size());
  std::vector<Event> starts(candidates_.size()), stops(candidates_.size());
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < candidates_.size(); ++i) {
      starts[i].record(cuda_);
      for (const GemmArgs& g : operands_.args) {
        MATVLM_BLAS_CHECK(launch_product(cuda_, problem_, g, candidates_[i].algorithm));
      }
      stops[i].record(cuda_);
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
      times[i].push_back(stops[i].since(starts[i]) / static_cast<double>(operands_.args.size()));
    }
  }
  for (size_t i = 0; i < candidates_.size(); ++i) {
    std::nth_element(times[i].begin(), times[i].begin() + rounds / 2, times[i].end());
    candidates_[i].ms = times[i][static_cast<size_t>(rounds / 2)];
  }
}

// Ours stays in front.
void Search::keep_best(size_t count) {
  std::sort(candidates_.begin() + 1, candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.ms < b.ms; });
  if (candidates_.size() > count)
    candidates_.erase(candidates_.begin() + static_cast<int64_t>(count), candidates_.end());
}

// Largest distance of the results of both in the first rows, over the largest value: other algorithms round otherwise,
// but by no more than that. With beta = 1 into C itself the old C is restored.
double Search::difference(const Candidate& a, const Candidate& b) const {
  GemmArgs g = operands_.args.front();
  const int64_t rows = std::min<int64_t>(g.m, 300);
  const Tensor old = Tensor::empty(cuda_, {g.m, g.n}, g.output);
  matvlm::fill_random(cuda_, old, 0.0, 1.0, {9, 1});
  std::array<std::vector<float>, 2> values;
  for (size_t which = 0; which < 2; ++which) {
    const Tensor c = old.clone(cuda_);
    g.c = c.raw();
    MATVLM_BLAS_CHECK(launch_product(cuda_, problem_, g, which == 0 ? a.algorithm : b.algorithm));
    values[which] = c.slice_rows(0, rows).to_floats(cuda_);
  }
  float most = 0, largest = 0;
  for (size_t i = 0; i < values[0].size(); ++i) {
    most = std::max(most, std::abs(values[0][i] - values[1][i]));
    largest = std::max(largest, std::abs(values[0][i]));
    if (!std::isfinite(values[1][i])) return INFINITY;
  }
  return static_cast<double>(most / largest);
}

void Search::print() const {
  const Candidate& ours = candidates_.front();
  const auto best = std::min_element(candidates_.begin(), candidates_.end(),
                                     [](const auto& a, const auto& b) { return a.ms < b.ms; });
  const double flops =
      2.0 * static_cast<double>(product_.m) * static_cast<double>(product_.n) * static_cast<double>(product_.k);
  std::printf("%-26s %3d x %8.1f us %5.0f TF/s, best %8.1f us %5.0f TF/s, gain %7.3f ms\n", product_.name,
              product_.times, ours.ms * 1e3, flops / ours.ms / 1e9, best->ms * 1e3, flops / best->ms / 1e9,
              product_.times * (ours.ms - best->ms));
  for (size_t i = 0; i < candidates_.size(); ++i) {
    const Candidate& c = candidates_[i];
    const AlgorithmConfig a = config_of(c.algorithm);
    std::printf("    %8.1f us  {%d, %u, %u, %d, %u, %u, %u, %u, %u}  %-10s workspace %zu %s%s\n", c.ms * 1e3, a.id,
                a.tile, a.stages, a.split_k, a.reduction, a.swizzle, a.custom, static_cast<unsigned>(a.inner),
                static_cast<unsigned>(a.cluster), c.origin.c_str(), c.workspace,
                c.from_table ? "" : "not by its attributes ",
                i == 0 ? "" : cat("differs ", difference(ours, c)).c_str());
  }
  std::fflush(stdout);
}

// The first candidate and cuBLASLt's proposals.
bool Search::add_all() {
  cublasLtMatmulAlgo_t ours{};
  const GemmArgs& g = operands_.args.front();
  const AlgorithmConfig* chosen = chosen_algorithm(gemm_choices(), cuda_.compute_capability(), g);
  if (chosen == nullptr || !make_algorithm(cuda_, problem_, g, *chosen, ours)) {
    if (!find_algorithm(cuda_, problem_.desc, problem_.a, problem_.b, problem_.c, limits_of(g), ours)) {
      std::printf("%-26s no algorithm\n", product_.name);
      return false;
    }
  }
  add(ours, chosen != nullptr ? "table" : "ours");
  for (const int64_t mib : {64, 32, 4, 0}) add_proposals(mib << 20);
  add_known();
  return true;
}

void Search::run(bool with_variants) {
  if (!add_all()) return;
  if (with_variants) add_variants();
  time(3);
  keep_best(40);
  time(6);
  keep_best(6);
  time(30);
  print();
}

// One candidate alone: a third of the time to get to its clocks, then a measurement between two steps of the meter.
void Search::time_steady(Candidate& candidate, const EnergyMeter& meter, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  int64_t launches = 0;
  const auto batch = [&] {  // some 5 ms
    const auto count = static_cast<int64_t>(std::max(1.0, 5.0 / candidate.ms));
    for (int64_t i = 0; i < count; ++i, ++launches) {
      const GemmArgs& g = operands_.args[static_cast<size_t>(launches) % operands_.args.size()];
      MATVLM_BLAS_CHECK(launch_product(cuda_, problem_, g, candidate.algorithm));
    }
  };
  // Two batches are under way at any time, so the meter is read while the card works.
  std::array<Event, 2> ends;
  const auto keep_busy = [&](auto&& done) {
    for (auto& e : ends) {
      batch();
      e.record(cuda_);
    }
    for (size_t i = 0; !done(); i = 1 - i) {
      ends[i].wait();
      batch();
      ends[i].record(cuda_);
    }
    cuda_.synchronize();
  };
  const Clock::time_point begin = Clock::now();
  keep_busy([&] { return since(begin) > seconds / 3; });

  double first = meter.joules(), joules = 0, watts = 0, megahertz = 0;
  bool started = false;
  int64_t reads = 0;
  Clock::time_point start = Clock::now();
  const Clock::time_point measured = Clock::now();
  const int64_t launched = launches;
  const Event from, to;
  from.record(cuda_);
  keep_busy([&] {
    joules = meter.joules();
    megahertz += meter.clock();
    ++reads;
    if (!started && joules != first) {
      started = true;
      first = joules;
      start = Clock::now();
    } else if (started && joules != first) {
      watts = (joules - first) / since(start);
      return since(measured) > seconds * 2 / 3;
    }
    return since(measured) > 2 * seconds;  // no meter
  });
  to.record(cuda_);
  candidate.ms = to.since(from) / static_cast<double>(launches - launched);
  candidate.watts = watts;
  candidate.megahertz = megahertz / static_cast<double>(std::max<int64_t>(1, reads));
}

void Search::run_steady(const EnergyMeter& meter, double seconds) {
  if (!add_all()) return;
  time(6);
  keep_best(7);
  const AlgorithmConfig ours = config_of(candidates_.front().algorithm);
  for (Candidate& c : candidates_) time_steady(c, meter, seconds);
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.ms < b.ms; });
  const double flops =
      2.0 * static_cast<double>(product_.m) * static_cast<double>(product_.n) * static_cast<double>(product_.k);
  std::printf("%s, %d times, %.1f GFLOP\n", product_.name, product_.times, flops * 1e-9);
  for (const Candidate& c : candidates_) {
    const AlgorithmConfig a = config_of(c.algorithm);
    std::printf(
        "    %8.2f mJ %8.1f us %5.0f W %5.0f MHz %6.3f pJ/FLOP  {%d, %u, %u, %d, %u, %u, %u, %u, %u} workspace %zu "
        "%s%s\n",
        c.joules() * 1e3, c.ms * 1e3, c.watts, c.megahertz, c.joules() / flops * 1e12, a.id, a.tile, a.stages,
        a.split_k, a.reduction, a.swizzle, a.custom, static_cast<unsigned>(a.inner), static_cast<unsigned>(a.cluster),
        c.workspace, a == ours ? "ours " : "", c.from_table ? "" : "not by attributes");
  }
  std::fflush(stdout);
}

struct Options {
  bool variants = true;
  double steady = 0;  // seconds for a candidate
  int64_t positions = kPositions;
  std::vector<std::string> words;
};

int run(const Options& options) {
  const auto ctx = make_cuda_context(0);
  const auto wanted = [&](const Product& product) {
    return options.words.empty() ||
           std::any_of(options.words.begin(), options.words.end(), [&](const std::string& word) {
             return std::string(product.name).find(word) != std::string::npos;
           });
  };
  CudaContext& cuda = *ctx->cuda();
  std::printf("%s, cuBLASLt %zu\nalgorithms: {id, tile, stages, split k, reduction, swizzle, custom, inner, cluster}\n",
              ctx->description().c_str(), cublasLtGetVersion());
  const EnergyMeter meter;
  if (options.steady > 0 && !meter.available()) std::printf("no NVML: energies are 0\n");
  // All proposals before the first variant: a variant may fail in a way that ends the program.
  for (const bool variants : {false, true}) {
    if (variants && !options.variants) break;
    std::printf("%s\n", variants ? "proposals and variants" : "proposals");
    for (Product product : kProducts) {
      for (int64_t* size : {&product.m, &product.k}) {
        if (*size == kPositions) *size = options.positions;
      }
      if (!wanted(product) || ((variants || options.steady > 0) && product.times == 0 && options.words.empty()))
        continue;
      Search search(cuda, product);
      if (options.steady > 0) {
        search.run_steady(meter, options.steady);
      } else {
        search.run(variants);
      }
      ctx->allocator()->release_cached();
    }
  }
  return 0;
}

}  // namespace
}  // namespace matvlm::bench

int main(int argc, char** argv) {
  try {
    matvlm::bench::Options options;
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--short") {
        options.variants = false;
      } else if (word == "--steady" && i + 1 < argc) {
        options.variants = false;
        options.steady = std::stod(argv[++i]);
      } else if (word == "--rows" && i + 1 < argc) {
        options.positions = std::stoll(argv[++i]);
      } else {
        options.words.push_back(word);
      }
    }
    return matvlm::bench::run(options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_gemm: %s\n", e.what());
    return 1;
  }
}
