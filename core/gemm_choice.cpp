#include "core/gemm_choice.h"

#include <algorithm>
#include <vector>

namespace matvlm {
namespace {

constexpr auto kNone = GemmEpilogue::none;
constexpr auto kGelu = GemmEpilogue::gelu;
constexpr auto kSlope = GemmEpilogue::gelu_gradient;
constexpr auto kHalf = DType::bf16;
constexpr auto kFloat = DType::f32;

constexpr AlgorithmConfig kTile20 = {66, 20, 35, 1, 0, 0, 1, 0, 3};
constexpr AlgorithmConfig kTile20Pairs = {66, 20, 35, 1, 0, 0, 3, 0, 5};

// Of the full-size step (B 4, L 1024), found by bench_gemm on an H200 with cuBLASLt 13.1 and kept where the step
// agrees: by a trace of it or, q, k, v, fc2 and the teacher's fc1, by its time with entries exchanged between updates
// of one run. That card is held by its power there, and tiles that win alone at the cost of more power (the gradients')
// slow down everything behind them. Key: capability, m, n, k, transposed A and B, bias, adds, epilogue, pre-activation,
// types. The head's tile was measured at 254 rows.
const std::vector<GemmChoice> kChoices = {
    {{90, 4096, 7680, 2560, false, true, true, false, kNone, false, kHalf, kHalf}, kTile20Pairs},   // q, k, v
    {{90, 4096, 2560, 10240, false, true, true, true, kNone, false, kHalf, kHalf}, kTile20Pairs},   // fc2, residual
    {{90, 4096, 2560, 10240, false, true, true, false, kNone, false, kHalf, kHalf}, kTile20Pairs},  // fc2
    {{90, 4096, 10240, 2560, false, true, true, false, kGelu, false, kHalf, kHalf}, kTile20},       // fc1
    {{90, 4096, 10240, 2560, false, true, true, false, kGelu, true, kHalf, kHalf},
     {66, 28, 35, 1, 0, 0, 2, 0, 5}},  // fc1, kept
    {{90, 4096, 10240, 2560, false, false, false, false, kSlope, true, kHalf, kHalf},
     {39, 20, 35, 1, 0, 1, 0, 0, 3}},                                                         // d fc2
    {{90, 4096, 2560, 2560, false, true, true, true, kNone, false, kHalf, kHalf}, kTile20},   // dense, residual
    {{90, 4096, 2560, 2560, false, true, true, false, kNone, false, kHalf, kHalf}, kTile20},  // dense
    {{90, 256, 51200, 2560, false, true, true, false, kNone, false, kHalf, kFloat},
     {66, 165, 35, 1, 0, 0, 2, 0, 5}},  // head tile
    {{90, 2916, 3456, 1152, false, true, true, false, kNone, false, kHalf, kHalf},
     {66, 20, 35, 1, 0, 0, 3, 0, 5}},  // tower q, k, v
    {{90, 2916, 1152, 4304, false, true, true, true, kNone, false, kHalf, kHalf},
     {66, 463, 35, 1, 0, 0, 7, 0, 5}},  // tower fc2, residual
};

}  // namespace

GemmKey gemm_key(int compute_capability, const GemmArgs& args) {
  GemmKey key;
  key.compute_capability = compute_capability;
  key.m = args.m;
  key.n = args.n;
  key.k = args.k;
  key.transpose_a = args.transpose_a;
  key.transpose_b = args.transpose_b;
  key.bias = args.bias != nullptr;
  key.adds = args.beta != 0.0F;
  key.epilogue = args.epilogue;
  key.pre = args.pre != nullptr;
  key.input = args.input;
  key.output = args.output;
  return key;
}

std::span<const GemmChoice> gemm_choices() { return kChoices; }

const AlgorithmConfig* chosen_algorithm(std::span<const GemmChoice> choices, int compute_capability,
                                        const GemmArgs& args) {
  if (args.pinned) return nullptr;
  const GemmKey key = gemm_key(compute_capability, args);
  const auto found =
      std::find_if(choices.begin(), choices.end(), [&](const GemmChoice& choice) { return choice.key == key; });
  return found != choices.end() ? &found->config : nullptr;
}

}  // namespace matvlm
