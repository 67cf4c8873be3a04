// Algorithms of cuBLASLt for products of known sizes, found by bench_gemm on the device they are for, in place of the
// first that the library's heuristic proposes. A table in the source: the same choice in every run and on every rank.
#pragma once

#include <cstdint>
#include <span>

#include "core/gemm_device.h"

namespace matvlm {

// cuBLASLt's algorithm attributes (CUBLASLT_ALGO_CONFIG_*), by its own numbers.
struct AlgorithmConfig {
  int32_t id = 0;
  uint32_t tile = 0, stages = 0;
  int32_t split_k = 1;
  uint32_t reduction = 0, swizzle = 0, custom = 0;
  uint16_t inner = 0, cluster = 0;
  bool operator==(const AlgorithmConfig&) const = default;
};

// What a choice is for. Strides and addresses are not part of it: an algorithm that does not take them is not used.
struct GemmKey {
  int compute_capability = 0;
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  bool bias = false, adds = false;  // adds: beta is not 0
  GemmEpilogue epilogue = GemmEpilogue::none;
  bool pre = false;
  DType input = DType::bf16, output = DType::bf16;
  bool operator==(const GemmKey&) const = default;
};

struct GemmChoice {
  GemmKey key;
  AlgorithmConfig config;
};

GemmKey gemm_key(int compute_capability, const GemmArgs& args);

std::span<const GemmChoice> gemm_choices();

// nullptr where the table has none, and for pinned products. A library that does not know the algorithm, or refuses it
// for the operands at hand, is asked for its own choice by the caller.
const AlgorithmConfig* chosen_algorithm(std::span<const GemmChoice> choices, int compute_capability,
                                        const GemmArgs& args);

}  // namespace matvlm
