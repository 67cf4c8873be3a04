#include "core/gemm_choice.h"

#include <algorithm>
#include <vector>

namespace matvlm {
namespace {

// Empty: nothing measured is better than the heuristic's first.
const std::vector<GemmChoice> kChoices = {};

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
